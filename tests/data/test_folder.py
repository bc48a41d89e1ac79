"""Any folder of images and masks: what `classes.toml` says, and what it may not say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from data.make import CLASSES, add, mask, picture, save

from wsi_espnet.data.catalog import open_dataset
from wsi_espnet.errors import DataError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "classes.toml").write_text(CLASSES)
    add(tmp_path, "a", seed=1)
    save(tmp_path / "images/b.JPG", picture(2))
    save(tmp_path / "masks/b.tif", mask())
    return tmp_path


def test_pictures_and_masks_are_paired_by_stem(folder: Path) -> None:
    data = open_dataset("folder", folder)
    assert (data.name, data.classes.names, data.mpp, data.splits) == (
        "three",
        ("ground", "bush", "stone"),
        None,
        ("all",),
    )
    samples = data.samples("all")
    assert [sample.name for sample in samples] == ["a", "b"]
    for sample in samples:
        np.testing.assert_array_equal(sample.read().labels, mask())


def test_splits_are_folders(tmp_path: Path) -> None:
    (tmp_path / "classes.toml").write_text("mpp = 0.5\nglass = 'ground'\n" + CLASSES.replace('name = "three"', ""))
    add(tmp_path / "train", "a", seed=1)
    add(tmp_path / "val", "b", seed=2)
    data = open_dataset("folder", tmp_path)
    assert (data.splits, data.mpp, data.classes.glass, data.name) == (("train", "val"), 0.5, 0, tmp_path.name)
    assert [s.name for s in data.samples("val")] == ["b"]


def test_values_of_masks_need_not_be_ids(folder: Path) -> None:
    text = "ignored = [7]\n" + CLASSES.replace('"ground"', '"ground"\nvalue = 255').replace(
        '"bush"', '"bush"\nvalue = 9'
    )
    (folder / "classes.toml").write_text(text)
    ids = np.repeat(np.array([255, 9, 2, 7], np.uint8), 192).reshape(24, 32)
    save(folder / "masks/a.png", ids)
    sample = open_dataset("folder", folder).samples("all")[0]
    np.testing.assert_array_equal(sample.read().labels.ravel(), np.repeat([0, 1, 2, 255], 192))
    save(folder / "masks/a.png", mask())
    with pytest.raises(DataError, match=r"holds the ids 0\.\.1, which no class has; known are 2, 7, 9, 255"):
        sample.read()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name = ", r"classes\.toml is not a TOML file"),
        ("", "is not valid: classes: Field required"),
        ("classes = []", "at least 2 items"),
        ("colour = 3\n" + CLASSES, "is not valid: colour: Extra inputs are not permitted"),
        (CLASSES.replace("[120, 60, 20]", "[120, 60, 256]"), r"classes\.2\.color\.2: .* less than or equal to 255"),
        (CLASSES.replace('"stone"', '"bush"'), "class names must be unique"),
        (CLASSES.replace('"stone"', '"stone"\nvalue = 1'), r"values of classes must differ, got \[0, 1, 1\]"),
        ("ignored = [0]\n" + CLASSES, "either ignored or of a class"),
        ("glass = 'air'\n" + CLASSES, "glass and outside must be names of classes, got air"),
    ],
)
def test_classes_that_cannot_be_are_refused_with_their_key(folder: Path, text: str, said: str) -> None:
    (folder / "classes.toml").write_text(text)
    with pytest.raises(DataError, match=said):
        open_dataset("folder", folder)


def test_layouts_that_cannot_be_are_refused(folder: Path) -> None:
    (folder / "train").mkdir()
    with pytest.raises(DataError, match="holds images and train"):
        open_dataset("folder", folder)
    (folder / "classes.toml").unlink()
    with pytest.raises(DataError, match=r"classes\.toml is missing"):
        open_dataset("folder", folder)
