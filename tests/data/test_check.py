"""A check tells everything that is wrong, once, and goes on."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from data.make import CLASSES, add, mask, picture, save

from wsi_espnet.data.catalog import open_dataset
from wsi_espnet.data.check import check


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "classes.toml").write_text(CLASSES)
    for split, seed in (("train", 0), ("val", 100)):
        for i in range(3):
            add(tmp_path / split, f"good{i}", seed=seed + i)
    return tmp_path


def findings(folder: Path) -> list[str]:
    return [str(f).replace(f"{folder}/", "") for f in check(open_dataset("folder", folder), workers=2).findings]


def test_a_sound_folder_has_no_findings_and_the_right_counts(folder: Path) -> None:
    told: list[tuple[int, int, str]] = []
    report = check(open_dataset("folder", folder), workers=2, progress=lambda *at: told.append(at))
    assert report.findings == ()
    for split in report.splits:
        assert (split.listed, split.read, split.ignored_px, split.sizes) == (3, 3, 0, {(24, 32): 3})
        assert split.shares == (0.5, 0.25, 0.25)
    assert told == [(i, 3, split) for split in ("train", "val") for i in (1, 2, 3)]


def test_twenty_kinds_of_damage_are_twenty_findings(folder: Path) -> None:
    train, val = folder / "train", folder / "val"
    save(train / "images/no_mask.png", picture(1000))
    save(train / "masks/no_image.png", mask())
    (train / "images/notes.txt").write_text("remember")
    names = "bad_cut bad_empty mask_cut mask_size mask_id mask_color mask_high mask_jpeg"
    for seed, name in enumerate(f"{names} link deep void flat again other_truth dup_name".split(), start=200):
        add(train, name, seed=seed)

    cut(train / "images/bad_cut.png")
    (train / "images/bad_empty.png").write_bytes(b"")
    cut(train / "masks/mask_cut.png")
    save(train / "masks/mask_size.png", mask(height=20))
    save(train / "masks/mask_id.png", mask() + 1)
    save(train / "masks/mask_color.png", picture(3))
    save(train / "masks/mask_high.png", mask().astype(np.uint16) * 200)
    (train / "masks/mask_jpeg.png").unlink()
    save(train / "masks/mask_jpeg.jpg", mask())
    (train / "images/link.png").unlink()
    (train / "images/link.png").symlink_to("nowhere.png")
    save(train / "images/deep.png", picture(4)[..., 0].astype(np.uint16) * 9)
    save(train / "masks/void.png", np.full((24, 32), 255, np.uint8))
    save(train / "images/flat.png", np.full((24, 32, 3), 77, np.uint8))
    shutil.copy(train / "images/good0.png", train / "images/again.png")
    shutil.copy(train / "images/good1.png", train / "images/other_truth.png")
    save(train / "masks/other_truth.png", mask()[::-1])
    save(train / "images/dup_name.jpg", picture(5))
    shutil.copy(train / "images/good2.png", val / "images/good2.png")
    for path in (val / "masks").iterdir():
        save(path, np.minimum(mask(), 1))

    found = findings(folder)
    assert len(found) == 20
    assert [strip_reason(line) for line in found] == [
        "error    train/images/dup_name.png: it has the name of dup_name.jpg; names must differ before the dot",
        "warning  train/images/notes.txt: this file is no picture and is not used",
        "error    train/images/no_mask.png: there is no mask of this name",
        "error    train/masks/no_image.png: there is no image of this name",
        "error    train/bad_cut: train/images/bad_cut.png cannot be read as a picture",
        "error    train/bad_empty: train/images/bad_empty.png cannot be read as a picture",
        "error    train/deep: train/images/deep.png has more than 8 bits per px (mode I;16)",
        "warning  train/flat: the picture is one colour throughout, (77, 77, 77)",
        "error    train/link: train/images/link.png is missing",
        "error    train/mask_color: train/masks/mask_color.png is a RGB picture",
        "error    train/mask_cut: train/masks/mask_cut.png cannot be read as a picture",
        "error    train/mask_high: train/masks/mask_high.png holds ids from 0 to 400",
        "error    train/mask_id: train/masks/mask_id.png holds the ids 3, which no class has",
        "error    train/mask_jpeg: train/masks/mask_jpeg.jpg is a JPEG, which blurs ids at every edge",
        "error    train/mask_size: train/masks/mask_size.png has 32 x 20 px and its image mask_size.png 32 x 24",
        "warning  train/void: no px of it has a class: all are ignored",
        "warning  val: no px of stone",
        "warning  train/good0: the same picture as train/again",
        "error    train/other_truth: the same picture as train/good1, with another ground truth",
        "error    val/good2: the same picture as train/good2, with another ground truth",
    ]


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-600])


def strip_reason(line: str) -> str:
    """A finding without what Pillow says and without its remedy."""
    head = line.split("picture: ")[0] + ("picture" if "picture: " in line else "")
    head = head.replace("no picture (.bmp, .jpeg, .jpg, .png, .tif, .tiff, .webp) and", "no picture and")
    return head if "names must" in head else head.split("; ")[0]


def test_whole_folders_that_are_missing_or_empty_are_one_finding(folder: Path) -> None:
    shutil.rmtree(folder / "train/masks")
    shutil.rmtree(folder / "val/images")
    (folder / "val/images").mkdir()
    assert findings(folder)[:2] == [
        "error    train/masks: the folder is missing",
        "error    val/images: the folder holds no pictures",
    ]


def test_a_picture_in_two_splits_is_found_however_it_is_stored(folder: Path) -> None:
    save(folder / "val/images/leak.tif", picture(1))
    save(folder / "val/masks/leak.png", mask())
    assert findings(folder) == [
        "error    val/leak: the same picture as train/good1; no picture may be in two splits",
    ]


def test_one_split_and_a_few_samples_can_be_checked_alone(folder: Path) -> None:
    (folder / "train/images/good1.png").write_bytes(b"")
    data = open_dataset("folder", folder)
    assert check(data, splits=["val"], workers=1).errors == 0
    report = check(data, splits=["train"], limit=2, workers=1)
    assert (report.splits[0].listed, report.splits[0].read, report.errors) == (3, 2, 0)
    save(folder / "train/masks/good0.png", np.zeros((24, 32), np.uint8))
    save(folder / "train/masks/good2.png", np.zeros((24, 32), np.uint8))
    report = check(data, splits=["train"], limit=2, workers=1)
    assert [f.what for f in report.findings] == ["no px of bush, stone among the 2 samples that were read"]


def test_the_result_does_not_depend_on_the_number_of_threads(shared: Path) -> None:
    data = open_dataset("camvid", shared / "data/camvid")
    assert check(data, splits=["val"], limit=20, workers=1) == check(data, splits=["val"], limit=20, workers=3)
