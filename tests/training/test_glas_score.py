from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from wsi_espnet.data.glas import GlasImage, read_glas, split_by_patient
from wsi_espnet.models.catalog import find_model
from wsi_espnet.models.weights import load_model
from wsi_espnet.scores import confusion
from wsi_espnet.training.glas_colon import GlasColonConfig
from wsi_espnet.training.glas_score import iou_scores, mosaics_of, score


def test_scores_are_the_sets_definition() -> None:
    rng = np.random.default_rng(0)
    truth, guess = rng.integers(0, 3, 500), rng.integers(0, 3, 500)
    scores = iou_scores(confusion(truth, guess, 3))
    per_class = [((truth == c) & (guess == c)).sum() / ((truth == c) | (guess == c)).sum() for c in range(3)]
    assert scores["mIoU"] == pytest.approx(np.mean(per_class))
    assert scores["IoU malignant gland"] == pytest.approx(per_class[2])
    gland = ((truth > 0) & (guess > 0)).sum() / ((truth > 0) | (guess > 0)).sum()
    assert scores["gland"] == pytest.approx(gland)


def test_a_mosaic_holds_four_different_images_and_leaves_small_ones_out() -> None:
    def image(k: int, h: int = 522) -> GlasImage:
        return GlasImage(str(k), "1", "benign", np.full((h, 775, 3), k, np.uint8), np.full((h, 775), k % 3, np.uint8))

    mosaics = mosaics_of([*(image(k) for k in range(9)), image(99, h=400)])
    assert len(mosaics) == 2
    assert all(m.rgb.shape == (1024, 1536, 3) and m.labels.shape == (1024, 1536) for m in mosaics)
    seen = [set(np.unique(m.rgb).tolist()) for m in mosaics]
    assert seen == [{0, 2, 4, 6}, {1, 3, 5, 7}]
    assert all(np.array_equal(m.rgb[..., 0] % 3, m.labels) for m in mosaics)


@pytest.mark.slow
def test_the_bundled_model_has_the_scores_of_its_card(shared: Path) -> None:
    model = load_model(find_model("glas-colon"))
    _, validation = split_by_patient(read_glas(shared / "data/glas"), GlasColonConfig().held_out)
    scores = score(model.module, validation, model.card.normalisation)
    card = model.card.scores
    assert scores["mIoU"] == pytest.approx(card["mIoU"], abs=0.005)
    assert scores["gland"] == pytest.approx(card["gland against background IoU"], abs=0.005)
    per_class = card["IoU"]
    assert isinstance(per_class, dict)
    for name, value in per_class.items():
        assert scores[f"IoU {name}"] == pytest.approx(value, abs=0.005)
