"""Cityscapes: label ids and train ids say the same, and the way back is the benchmark's."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from wsi_espnet.data.catalog import open_dataset
from wsi_espnet.data.cityscapes import train_ids
from wsi_espnet.errors import DataError

NAME = "frankfurt_000000_000294"


@pytest.fixture
def folder(shared: Path, tmp_path: Path) -> Path:
    return shutil.copytree(shared / "data/street/pseudo_cityscapes_dataset", tmp_path / "cityscapes")


def truth(folder: Path, kind: str) -> NDArray[np.uint8]:
    with Image.open(folder / "gtFine/val/frankfurt" / f"{NAME}_gtFine_{kind}.png") as image:
        return np.asarray(image)


def published(shared: Path) -> dict[int, int]:
    """Train id by label id."""
    with (shared / "data/labels/cityscapes_labels.csv").open(newline="") as file:
        return {int(row["id"]): int(row["trainId"]) for row in csv.DictReader(file) if int(row["id"]) >= 0}


def test_label_ids_are_translated_one_by_one(folder: Path, shared: Path) -> None:
    (sample,) = open_dataset("cityscapes", folder).samples("val")
    rgb, labels = sample.read()
    assert (sample.name, rgb.shape) == (f"frankfurt/{NAME}", (128, 256, 3))
    np.testing.assert_array_equal(labels, np.vectorize(published(shared).get)(truth(folder, "labelIds")))


def test_train_ids_are_taken_where_there_are_no_label_ids(folder: Path) -> None:
    (before,) = open_dataset("cityscapes", folder).samples("val")
    labels = before.read().labels
    (folder / "gtFine/val/frankfurt" / f"{NAME}_gtFine_labelIds.png").unlink()
    (after,) = open_dataset("cityscapes", folder).samples("val")
    np.testing.assert_array_equal(after.read().labels, truth(folder, "labelTrainIds"))
    # Both files of this frame were shrunk on their own, so a few px at edges differ.
    assert (after.read().labels == labels).mean() > 0.997


def test_the_table_is_the_published_one(shared: Path) -> None:
    rows = published(shared)
    assert train_ids().tolist() == [rows.get(value, -1) for value in range(256)]


def test_what_is_missing_is_found(folder: Path) -> None:
    for file in (folder / "gtFine/val/frankfurt").glob("*"):
        file.unlink()
    with pytest.raises(DataError, match=r"leftImg8bit\.png: there is no mask of this name"):
        open_dataset("cityscapes", folder).samples("val")
    shutil.rmtree(folder / "gtFine")
    with pytest.raises(DataError, match="gtFine/val: the folder is missing"):
        open_dataset("cityscapes", folder).samples("val")
    shutil.rmtree(folder / "leftImg8bit/val/frankfurt")
    (folder / "gtFine/val").mkdir(parents=True)
    with pytest.raises(DataError, match=r"no CITY/NAME_leftImg8bit\.png is in it"):
        open_dataset("cityscapes", folder).samples("val")
    with pytest.raises(DataError, match="is not Cityscapes"):
        open_dataset("cityscapes", folder / "gtFine")
