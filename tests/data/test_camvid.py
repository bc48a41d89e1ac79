"""CamVid as it is handed out: splits, pairs, void."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from wsi_espnet.data.catalog import open_dataset
from wsi_espnet.errors import DataError


def test_the_real_folder_has_its_published_numbers_of_images(shared: Path) -> None:
    camvid = open_dataset("camvid", shared / "data" / "camvid")
    assert {split: len(camvid.samples(split)) for split in camvid.splits} == {"train": 367, "val": 101}
    assert camvid.mpp is None
    assert len(camvid.classes) == 11


def test_void_is_ignored_and_every_other_id_is_kept(shared: Path) -> None:
    root = shared / "data" / "camvid"
    sample = open_dataset("camvid", root).samples("val")[0]
    rgb, labels = sample.read()
    ids = np.asarray(Image.open(root / "valannot" / f"{sample.name}.png"))
    assert rgb.shape == (360, 480, 3)
    np.testing.assert_array_equal(labels, np.where(ids == 11, 255, ids))
    assert 11 in ids


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, px in (("train", np.zeros((4, 6, 3), np.uint8)), ("trainannot", np.full((4, 6), 3, np.uint8))):
        (tmp_path / name).mkdir()
        Image.fromarray(px).save(tmp_path / name / "a.png")
    return tmp_path


def test_a_picture_without_a_mask_is_named(folder: Path) -> None:
    shutil.copy(folder / "train" / "a.png", folder / "train" / "b.png")
    with pytest.raises(DataError, match=r"train/b\.png: there is no mask of this name"):
        open_dataset("camvid", folder).samples("train")


@pytest.mark.parametrize(
    ("mask", "said"),
    [
        (np.full((4, 6), 12, np.uint8), "holds the ids 12, which no class has; known are 0..11"),
        (np.full((4, 5), 3, np.uint8), "has 5 x 4 px and its image a.png 6 x 4"),
        (np.array([[[1, 2, 3]] * 6] * 4, np.uint8), "a mask holds one id per px"),
    ],
)
def test_a_wrong_mask_is_refused(folder: Path, mask: np.ndarray, said: str) -> None:
    Image.fromarray(mask).save(folder / "trainannot" / "a.png")
    sample = open_dataset("camvid", folder).samples("train")[0]
    with pytest.raises(DataError, match=said):
        sample.read()


def test_what_is_not_there_is_said(folder: Path) -> None:
    with pytest.raises(DataError, match="has no split 'val'; there are train"):
        open_dataset("camvid", folder).samples("val")
    with pytest.raises(DataError, match="no data set adapter 'cam'"):
        open_dataset("cam", folder)
    with pytest.raises(DataError, match="is not CamVid"):
        open_dataset("camvid", folder / "train")
    (folder / "train" / "a.png").write_bytes(b"\x89PNG")
    with pytest.raises(DataError, match=r"a\.png cannot be read as a picture"):
        open_dataset("camvid", folder).samples("train")[0].read()
