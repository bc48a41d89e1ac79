"""Evaluation against scikit-learn, the published figures, and the official script of Cityscapes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from cityscapesscripts.helpers import labels as official_labels
from PIL import Image
from sklearn import metrics
from small import some_of_camvid, tiny_model

from wsi_espnet.data.adapter import Labelled
from wsi_espnet.data.street_labels import categories_of, cityscapes_label_ids
from wsi_espnet.errors import DataError, ResumeError, UsageError
from wsi_espnet.evaluate import evaluate
from wsi_espnet.models.catalog import class_table
from wsi_espnet.models.importer import import_pth
from wsi_espnet.models.weights import save_model
from wsi_espnet.scores import Scores, confusion

CAMVID_WEIGHTS = "data/weights/espnet/decoder/espnet_p_2_q_8_camvid.pth"
FRAME = "frankfurt_000000_000294"


@pytest.fixture(scope="module")
def camvid_model(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    module, card = import_pth(shared / CAMVID_WEIGHTS, name="camvid")
    return save_model(tmp_path_factory.mktemp("camvid") / "camvid.safetensors", module, card)


def counted_by_sklearn(weights: Path, root: Path) -> np.ndarray:
    """(12, 12) matrix, void last, of predictions made with nothing of this package but the network."""
    module, _ = import_pth(weights)
    mean = np.array([110.33102643, 108.40886315, 105.03319369])  # B, G, R: espnet.md, section 8
    std = np.array([72.12571015, 72.69074534, 69.90434816])
    truth, said = [], []
    for path in sorted((root / "val").iterdir()):
        bgr = np.asarray(Image.open(path).convert("RGB"))[..., ::-1].astype(np.float64)
        x = torch.from_numpy(((bgr - mean) / std / 255).transpose(2, 0, 1)[None].astype(np.float32))
        with torch.inference_mode():
            said.append(module(x)[0].argmax(0).numpy())
        truth.append(np.asarray(Image.open(root / "valannot" / f"{path.stem}.png")))
    return metrics.confusion_matrix(np.concatenate(truth).ravel(), np.concatenate(said).ravel(), labels=range(12))


def assert_same_scores(scores: Scores, expected: np.ndarray) -> None:
    assert scores.counts.sum() == expected.sum()
    other = Scores(scores.names, expected, void_as_error=scores.void_as_error)
    for name, value in other.means.items():
        assert scores.means[name] == pytest.approx(value, abs=1e-6), name
    np.testing.assert_allclose(scores.iou, other.iou, atol=1e-5)  # rare classes have few px


@pytest.mark.parametrize("void_as_error", [False, True])
def test_scores_of_the_authors_weights_are_those_that_sklearn_counts(
    shared: Path, camvid_model: Path, tmp_path: Path, void_as_error: bool
) -> None:
    root = some_of_camvid(shared / "data/camvid", tmp_path / "camvid", 10 if void_as_error else 8)
    told = []
    found = evaluate(camvid_model, "camvid", data=root, void_as_error=void_as_error, progress=lambda *n: told.append(n))
    expected = counted_by_sklearn(shared / CAMVID_WEIGHTS, root)
    assert_same_scores(found.scores, expected)
    np.testing.assert_array_equal(found.scores.counts.sum(axis=1), expected.sum(axis=1))
    images = found.about["images"]
    assert told == [(i + 1, images) for i in range(images)]
    assert images >= 11
    assert found.about["class map"]["unlabelled"] is None


@pytest.mark.slow
def test_the_whole_validation_split_has_the_known_figures(shared: Path, camvid_model: Path) -> None:
    found = evaluate(camvid_model, "camvid", data=shared / "data/camvid")
    # What the authors' code scores on these images (espnet.md, section 9.4).
    assert found.scores.means["mIoU"] == pytest.approx(0.7005, abs=5e-5)
    assert found.scores.means["pixel accuracy"] == pytest.approx(0.9266, abs=5e-5)
    void = Scores(found.scores.names, found.scores.counts, void_as_error=True)
    assert void.means["mIoU"] == pytest.approx(0.6862, abs=5e-5)


def train_ids_of_frame(root: Path) -> np.ndarray:
    """From its label ids, which the official script reads; the train ids beside them differ in 77 px."""
    labels = np.asarray(Image.open(root / f"gtFine/val/frankfurt/{FRAME}_gtFine_labelIds.png"))
    table = np.full(256, 255, np.uint8)
    for label in official_labels.labels:
        if 0 <= label.trainId < 255:
            table[label.id] = label.trainId
    return table[labels]


class Frame:
    """Its picture and truth."""

    name = f"frankfurt/{FRAME}"

    def __init__(self, root: Path) -> None:
        self.root = root

    def read(self) -> Labelled:
        rgb = np.asarray(Image.open(self.root / f"leftImg8bit/val/frankfurt/{FRAME}_leftImg8bit.png"))
        return Labelled(rgb, train_ids_of_frame(self.root))


class Street:
    """One Cityscapes frame, as an adapter may hand it out."""

    name = "street"
    mpp = None
    splits = ("val",)

    def __init__(self, root: Path) -> None:
        self.root = root
        self.classes = class_table("cityscapes19")

    def samples(self, split: str) -> Sequence[Frame]:
        return [Frame(self.root)]


OFFICIAL = """
import numpy
numpy.in1d = numpy.isin  # cityscapesscripts 2.3.0 still calls it; NumPy 2.4 has removed it
from cityscapesscripts.evaluation import evalPixelLevelSemanticLabeling as official
official.main()
"""


def officially(root: Path, results: Path, export: Path) -> dict[str, dict[str, float]]:
    """What the official script says about a folder of results: the real package, run as its users run it."""
    export.mkdir(exist_ok=True)
    places = {"CITYSCAPES_DATASET": root, "CITYSCAPES_RESULTS": results, "CITYSCAPES_EXPORT_DIR": export}
    subprocess.run(
        [sys.executable, "-c", OFFICIAL],
        env=os.environ | {key: str(path) for key, path in places.items()},
        check=True,
        capture_output=True,
    )
    return json.loads((export / "resultPixelLevelSemanticLabeling.json").read_text())


def assert_official(scores: Scores, official: dict[str, dict[str, float]]) -> None:
    for name, value in zip(scores.names, scores.iou, strict=True):
        assert value == pytest.approx(official["classScores"][name], abs=1e-12, nan_ok=True), name
    for name, value in scores.category_iou.items():
        assert value == pytest.approx(official["categoryScores"][name], abs=1e-12, nan_ok=True), name
    assert scores.means["mIoU"] == pytest.approx(official["averageScoreClasses"], abs=1e-12)
    assert scores.means["category mIoU"] == pytest.approx(official["averageScoreCategories"], abs=1e-12)


def test_known_errors_score_as_the_official_script_scores_them(shared: Path, tmp_path: Path) -> None:
    root = shared / "data/street/pseudo_cityscapes_dataset"
    labels = train_ids_of_frame(root)
    rng = np.random.default_rng(0)
    wrong = rng.random(labels.shape) < 0.3
    said = np.where(wrong, rng.integers(0, 19, labels.shape), np.where(labels == 255, 3, labels)).astype(np.uint8)
    said[:20] = 255  # called no class
    (tmp_path / "results").mkdir()
    ids = cityscapes_label_ids(class_table("cityscapes19"))[said]
    Image.fromarray(ids).save(tmp_path / "results" / f"{FRAME}_x.png")
    names = class_table("cityscapes19").names
    scores = Scores(names, confusion(labels, said, 19), categories=categories_of(names))
    assert 0.1 < scores.means["mIoU"] < 0.9
    assert_official(scores, officially(root, tmp_path / "results", tmp_path / "export"))


def test_the_masks_are_what_the_official_script_takes(shared: Path, tmp_path: Path) -> None:
    root = shared / "data/street/pseudo_cityscapes_dataset"
    module, card = import_pth(shared / "data/weights/espnet/decoder/espnet_p_2_q_8.pth", name="street")
    model = save_model(tmp_path / "street.safetensors", module, card)
    # The real frame in full size in the place of the small one: then the network sees what it was made for.
    whole = tmp_path / "cityscapes"
    shutil.copytree(root, whole, copy_function=shutil.copyfile)
    frame = shared / f"data/street/cityscapes_sample/{FRAME}_leftImg8bit.png"
    small = Image.open(frame).convert("RGB").resize((256, 128), Image.Resampling.BOX)
    small.save(whole / f"leftImg8bit/val/frankfurt/{FRAME}_leftImg8bit.png")

    found = evaluate(model, Street(whole), size=(512, 1024), out=tmp_path / "out", save_masks=True)
    assert found.files[-1] == tmp_path / "out/masks" / f"{FRAME}_labelIds.png"
    assert found.scores.means["pixel accuracy"] > 0.5
    assert_official(found.scores, officially(whole, tmp_path / "out/masks", tmp_path / "export"))
    facts = json.loads((tmp_path / "out/scores.json").read_text())
    assert facts["size"] == "1024x512"
    assert facts["mIoU"] == found.scores.means["mIoU"]


@pytest.fixture
def two(tmp_path: Path) -> Path:
    """A CamVid of two small images."""
    rng = np.random.default_rng(0)
    for folder, depth in (("val", (3,)), ("valannot", ())):
        (tmp_path / "camvid" / folder).mkdir(parents=True)
        for name in ("a", "b"):
            px = rng.integers(0, 12, (24, 40, *depth), dtype=np.uint8)
            Image.fromarray(px).save(tmp_path / "camvid" / folder / f"{name}.png")
    return tmp_path / "camvid"


def test_other_masks_are_palette_pictures_of_class_ids(two: Path, tmp_path: Path) -> None:
    model = tiny_model(tmp_path / "m.safetensors", classes=class_table("camvid12"))
    found = evaluate(model, "camvid", data=two, out=tmp_path / "out", save_masks=True)
    masks = [np.asarray(Image.open(tmp_path / "out/masks" / f"{name}.png")) for name in "ab"]
    truth = [np.asarray(Image.open(two / "valannot" / f"{name}.png")) for name in "ab"]
    np.testing.assert_array_equal(confusion(np.stack(truth), np.stack(masks), 11), found.scores.counts)
    assert [path.name for path in found.files] == ["scores.json", "scores.csv", "confusion.png", "a.png", "b.png"]


def test_nothing_that_is_there_is_replaced_unless_asked(two: Path, tmp_path: Path) -> None:
    model = tiny_model(tmp_path / "m.safetensors", classes=class_table("camvid12"))
    out = tmp_path / "out"
    out.mkdir()
    (out / "scores.csv").write_text("mine")
    with pytest.raises(ResumeError, match=r"scores\.csv exists and is not replaced"):
        evaluate(model, "camvid", data=two, out=out)
    assert [path.name for path in out.iterdir()] == ["scores.csv"]
    assert (out / "scores.csv").read_text() == "mine"
    evaluate(model, "camvid", data=two, out=out, overwrite=True)
    assert (out / "scores.csv").read_text().startswith("kind,name,iou")


def test_a_class_that_no_class_becomes_is_told_and_scores_nothing(
    two: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = tiny_model(tmp_path / "m.safetensors", classes=class_table("cityscapes20"))
    with pytest.raises(UsageError, match=r'say what each is with --map "sidewalk=CLASS"'):
        evaluate(model, "camvid", data=two)
    found = evaluate(model, "camvid", data=two, class_map={"*": "void", "vegetation": "tree"})
    assert "no class of tiny becomes pavement, sign, pedestrian, bicyclist" in caplog.text
    iou = dict(zip(found.scores.names, found.scores.iou, strict=True))
    assert iou["pavement"] == 0
    assert found.about["class map"]["vegetation"] == "tree"


def test_data_that_is_not_there_is_told(two: Path, tmp_path: Path) -> None:
    model = tiny_model(tmp_path / "m.safetensors", classes=class_table("camvid12"))
    with pytest.raises(DataError, match="no data set adapter 'kitti'"):
        evaluate(model, "kitti", data=two)
    with pytest.raises(DataError, match="is missing"):
        evaluate(model, "camvid", data=tmp_path / "nothing")
    with pytest.raises(DataError, match="has no split 'test'"):
        evaluate(model, "camvid", data=two, split="test")
    (two / "val/a.png").write_text("no picture")
    with pytest.raises(DataError, match=r"a\.png"):
        evaluate(model, "camvid", data=two)
