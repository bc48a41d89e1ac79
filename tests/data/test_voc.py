"""VOC: lists, borders, SBD's masks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from data.make import picture, save
from PIL import Image

from wsi_espnet.data.catalog import open_dataset
from wsi_espnet.data.check import check
from wsi_espnet.errors import DataError


def test_real_masks_are_read_by_palette_index_with_the_border_ignored(shared: Path) -> None:
    root = shared / "data/street/voc_labelme"
    voc = open_dataset("voc", root)
    assert voc.splits == ("all",)
    samples = voc.samples("all")
    assert [sample.name for sample in samples] == ["2011_000003", "2011_000006", "2011_000025"]
    for sample in samples:
        rgb, labels = sample.read()
        palette = Image.open(root / "data_dataset_voc/SegmentationClass" / f"{sample.name}.png")
        colors = np.asarray(palette.convert("RGB"))
        for c in voc.classes.classes:
            np.testing.assert_array_equal(labels == c.id, (colors == c.color).all(axis=-1))
        assert rgb.shape[:2] == labels.shape


@pytest.fixture
def devkit(tmp_path: Path) -> Path:
    root = tmp_path / "VOCdevkit/VOC2012"
    lists = {"train": "a\nb\n", "val": "c\n", "trainval": "a\nb\nc\n"}
    lists["trainaug"] = "/JPEGImages/a.jpg /SegmentationClassAug/a.png\n" + "b\nd\n"
    for split, names in lists.items():
        save(root / "JPEGImages/a.jpg", picture(0))
        (root / "ImageSets/Segmentation").mkdir(parents=True, exist_ok=True)
        (root / f"ImageSets/Segmentation/{split}.txt").write_text(names)
    for seed, name in enumerate("abcd"):
        save(root / f"JPEGImages/{name}.jpg", picture(seed))
        save(root / f"SegmentationClassAug/{name}.png", np.full((24, 32), 2, np.uint8))
        if name != "d":
            save(root / f"SegmentationClass/{name}.png", np.full((24, 32), 1, np.uint8))
    return tmp_path


def test_lists_say_what_is_in_a_split(devkit: Path) -> None:
    voc = open_dataset("voc", devkit)
    names = {split: [s.name for s in voc.samples(split)] for split in voc.splits}
    assert names == {"train": ["a", "b"], "val": ["c"], "trainval": ["a", "b", "c"], "trainaug": ["a", "b", "d"]}


def test_a_list_may_start_with_the_mark_of_excel_but_is_in_utf_8(devkit: Path) -> None:
    path = devkit / "VOCdevkit/VOC2012/ImageSets/Segmentation/val.txt"
    path.write_text("c\n", encoding="utf-8-sig")
    assert [sample.name for sample in open_dataset("voc", devkit).samples("val")] == ["c"]
    path.write_text("\u00e4\n", encoding="latin-1")
    with pytest.raises(DataError, match=r"val\.txt cannot be read .*save it as UTF-8 text"):
        open_dataset("voc", devkit).samples("val")


def test_trainaug_takes_the_masks_of_sbd(devkit: Path) -> None:
    voc = open_dataset("voc", devkit / "VOCdevkit")
    assert {split: int(voc.samples(split)[0].read().labels[0, 0]) for split in ("train", "trainaug")} == {
        "train": 1,
        "trainaug": 2,
    }


def test_unions_of_splits_are_no_leak_but_validation_images_in_trainaug_are(devkit: Path) -> None:
    assert check(open_dataset("voc", devkit), workers=1).errors == 0
    path = devkit / "VOCdevkit/VOC2012/ImageSets/Segmentation/trainaug.txt"
    path.write_text("a\nb\nc\nd\n")
    report = check(open_dataset("voc", devkit), splits=["val", "trainaug"], workers=1)
    errors = [f.what for f in report.findings if f.severity == "error"]
    assert errors == ["the same picture as val/c, with another ground truth"]


def test_what_a_list_names_must_be_there_once(devkit: Path) -> None:
    (devkit / "VOCdevkit/VOC2012/ImageSets/Segmentation/val.txt").write_text("c\nd\nc\n\n")
    findings = open_dataset("voc", devkit).listing("val").findings
    assert [f.what for f in findings] == ["the list names d, but this file is missing", "the list names c twice"]


def test_folders_of_another_kind_are_refused(devkit: Path) -> None:
    with pytest.raises(DataError, match="no folder JPEGImages is in it"):
        open_dataset("voc", devkit / "VOCdevkit/VOC2012/ImageSets")
    (devkit / "VOCdevkit/VOC2007/JPEGImages").mkdir(parents=True)
    with pytest.raises(DataError, match=r"it holds several: .*VOC2007.*VOC2012; give one of them"):
        open_dataset("voc", devkit)
