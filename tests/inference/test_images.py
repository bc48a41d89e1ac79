"""Pictures of any size through a network, against the same steps written out in torch and NumPy."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small import blobs, tiny_model
from torch.nn.functional import interpolate

from wsi_espnet.errors import BudgetError, ModelError, ScaleError, UsageError
from wsi_espnet.inference import images
from wsi_espnet.inference import view as views
from wsi_espnet.inference.images import ImagePredictor, Size, View
from wsi_espnet.models.importer import import_pth
from wsi_espnet.models.weights import LoadedModel, load_model

MEAN = np.array([72.3923111, 82.90893555, 73.15840149])
STD = np.array([45.3192215, 46.15289307, 44.91483307])
"""B, G, R of the authors' test/VisualizeResults.py (espnet.md, section 8)."""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return load_model(tiny_model(tmp_path_factory.mktemp("tiny") / "tiny.safetensors"))


def predictor(model: LoadedModel, view: View | None = None) -> ImagePredictor:
    return ImagePredictor(model, view or View(), device="cpu", precision="fp32")


def logits_of(model: LoadedModel, rgb: np.ndarray) -> torch.Tensor:
    with torch.inference_mode():
        return model.module(torch.from_numpy(model.card.normalisation.apply(rgb))[None])


@pytest.mark.parametrize("shape", [(64, 96), (61, 83), (5, 200)])
def test_a_picture_of_any_size_gets_the_largest_logit_of_each_px(tiny: LoadedModel, shape: tuple[int, int]) -> None:
    rgb = blobs(*shape)
    labels = predictor(tiny).labels(rgb)
    assert labels.dtype == np.uint8
    np.testing.assert_array_equal(labels, logits_of(tiny, rgb)[0].argmax(0).numpy())


@pytest.mark.parametrize("shape", [(64, 96), (61, 83)])
def test_coarse_logits_are_enlarged_over_the_padded_picture(tmp_path: Path, shape: tuple[int, int]) -> None:
    model = load_model(tiny_model(tmp_path / "coarse.safetensors", architecture="espnet-c"))
    rgb = blobs(*shape)
    coarse = logits_of(model, rgb)
    whole = interpolate(coarse, scale_factor=8, mode="bilinear", align_corners=False)
    expected = whole[0, :, : shape[0], : shape[1]].argmax(0).numpy()
    np.testing.assert_array_equal(predictor(model).labels(rgb), expected)


def test_several_looks_average_their_probabilities(tiny: LoadedModel) -> None:
    rgb = blobs(61, 83)
    x = torch.from_numpy(tiny.card.normalisation.apply(rgb))[None]
    total = torch.zeros(1, 3, 61, 83)
    with torch.inference_mode():
        for height, width in ((46, 62), (61, 83)):  # 0.75 and 1 times 61 x 83, rounded
            small = interpolate(x, size=(height, width), mode="bilinear")
            for mirrored in (False, True):
                logits = tiny.module(small.flip(-1) if mirrored else small)
                logits = interpolate(logits.flip(-1) if mirrored else logits, size=(61, 83), mode="bilinear")
                total += logits.softmax(1)
    found = predictor(tiny, View(scales=(0.75, 1.0), flip=True)).labels(rgb)
    assert (found == total[0].argmax(0).numpy()).mean() > 0.999  # ties in the last bit of float32


def test_with_flip_the_mirrored_picture_gives_the_mirrored_labels(tiny: LoadedModel) -> None:
    rgb = blobs(64, 96)
    both = predictor(tiny, View(flip=True))
    mirrored = both.labels(np.ascontiguousarray(rgb[:, ::-1]))[:, ::-1]
    assert (mirrored == both.labels(rgb)).mean() > 0.999
    alone = predictor(tiny)
    assert (alone.labels(np.ascontiguousarray(rgb[:, ::-1]))[:, ::-1] == alone.labels(rgb)).mean() < 0.999


def test_a_picture_is_taken_at_the_scale_of_the_model(tiny: LoadedModel) -> None:
    rgb = blobs(64, 96)
    at_scale = predictor(tiny).labels(rgb, mpp=0.25)  # the model's is 0.5
    np.testing.assert_array_equal(at_scale, predictor(tiny, View(size=Size(32, 48))).labels(rgb))
    np.testing.assert_array_equal(predictor(tiny).labels(rgb, mpp=0.502), predictor(tiny).labels(rgb))
    with pytest.raises(ScaleError, match=r"has 1 um per px and tiny was trained at 0\.5"):
        predictor(tiny).labels(rgb, mpp=1.0)


def test_what_cannot_work_is_refused(tiny: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for view, said in (
        ({"size": Size(0, 4)}, "--size must be WxH"),
        ({"scales": ()}, "--scales must be"),
        ({"scales": (1, -1)}, "--scales must be"),
        ({"scales": (float("nan"),)}, "--scales must be"),
    ):
        with pytest.raises(UsageError, match=said):
            View(**view)
    with pytest.raises(BudgetError, match=r"needs .* GiB and .* GiB are free; give a smaller --size"):
        predictor(tiny, View(size=Size(10**6, 10**6))).labels(blobs(8, 8))
    damaged = load_model(tiny_model(tmp_path / "nan.safetensors", constant=float("nan")))
    with pytest.raises(ModelError, match="not finite"):
        predictor(damaged).labels(blobs(16, 16))


def test_pictures_at_once_say_what_each_says_alone(tiny: LoadedModel) -> None:
    torch.set_num_threads(2)
    one = predictor(tiny)
    assert one.at_once == 2
    pictures = [blobs(61 + 7 * (i % 5), 83) for i in range(24)]
    wanted = [one.labels(rgb) for rgb in pictures]
    with ThreadPoolExecutor(4) as pool:
        for got, labels in zip(pool.map(one.labels, pictures), wanted, strict=True):
            np.testing.assert_array_equal(got, labels)
    assert torch.get_num_threads() == 2


def test_a_picture_waits_until_there_is_memory_for_it(tiny: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two fit, and a third waits; one that is larger than all there is waits until it is alone, and is refused."""
    monkeypatch.setattr(views, "free_bytes", lambda: 2_500_000)
    monkeypatch.setattr(images, "free_bytes", lambda: 2_500_000)
    one = predictor(tiny)
    at_once = threading.Barrier(2, timeout=30)
    most: list[int] = []

    def slow(x: torch.Tensor) -> torch.Tensor:
        most.append(len(one._at_work))
        at_once.wait()
        return torch.zeros(1, 3, *x.shape[-2:])

    monkeypatch.setattr(one, "_banded", slow)
    small, large = blobs(100, 100), blobs(200, 200)  # 1.1 MB and 4.4 MB
    with ThreadPoolExecutor(5) as pool:
        running = [pool.submit(one.labels, small) for _ in range(4)]
        refused = pool.submit(one.labels, large)
        assert [x.result().shape for x in running] == [(100, 100)] * 4
        with pytest.raises(BudgetError, match="a picture of 200x200 px"):
            refused.result()
    assert max(most) == 2


def test_the_authors_preparation_gives_the_same_street(shared: Path) -> None:
    module, card = import_pth(shared / "data/weights/espnet/decoder/espnet_p_2_q_8.pth")
    frame = shared / "data/street/cityscapes_sample/frankfurt_000000_000576_leftImg8bit.png"
    rgb = np.asarray(Image.open(frame))
    labels = predictor(LoadedModel(card, module, ""), View(size=Size(512, 1024))).labels(rgb)

    bgr = (rgb[..., ::-1] - MEAN) / STD
    half = bgr.reshape(512, 2, 1024, 2, 3).mean((1, 3)) / 255  # bilinear between px centres, at half the size
    with torch.inference_mode():
        logits = module(torch.from_numpy(half.transpose(2, 0, 1)[None].astype(np.float32)))
    small = logits[0].argmax(0).numpy()
    # espnet.md, section 9.5: shares of the px of this frame with these weights.
    for class_id, percent in {0: 34.2, 2: 26.5, 13: 15.1, 19: 11.0, 8: 8.3, 1: 2.3, 10: 1.5}.items():
        assert 100 * (small == class_id).mean() == pytest.approx(percent, abs=0.1)
        assert 100 * (labels == class_id).mean() == pytest.approx(percent, abs=0.3)
    enlarged = interpolate(logits, size=(1024, 2048), mode="bilinear")[0].argmax(0).numpy()
    assert (labels == enlarged).mean() > 0.9999
