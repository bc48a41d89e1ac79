"""A contact sheet shows every sample beside its classes."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from data.make import CLASSES, add, mask, picture
from PIL import Image

from wsi_espnet.data.adapter import Labelled
from wsi_espnet.data.catalog import open_dataset
from wsi_espnet.data.contact_sheet import Item, draw_sheet, pick, sheet_png
from wsi_espnet.errors import DataError
from wsi_espnet.models.catalog import class_table


def test_images_are_shown_as_they_are_and_classes_in_their_colours() -> None:
    classes = class_table("cityscapes7")
    rgb = picture(3, height=100, width=150)
    labels = np.repeat(np.array([0, 3, 255], np.uint8), 50)[None].repeat(100, axis=0)
    sheet = np.asarray(draw_sheet("title", [Item("val/a", Labelled(rgb, labels))], classes))
    top, left = 24 + 2 * 26, 24
    shown = sheet[top : top + 200, left : left + 300]
    np.testing.assert_array_equal(shown, rgb.repeat(2, axis=0).repeat(2, axis=1))
    painted = sheet[top : top + 200, left + 306 :][:, :300].astype(int)
    for id_, part in ((0, painted[4:-4, 4:94]), (3, painted[4:-4, 106:194])):
        grey = part.mean(axis=(0, 1)) - 0.55 * np.array(classes.classes[id_].color)
        assert np.ptp(grey) < 1.5  # what is left beside the tint is grey
    assert {tuple(px) for px in painted[:, 202:].reshape(-1, 3)} == {(60, 62, 66), (120, 122, 126)}


def test_a_sheet_of_every_size_of_sample_is_drawn(tmp_path: Path) -> None:
    items = [
        Item(f"val/{h}x{w}" + "x" * 80, Labelled(picture(1, height=h, width=w), mask(height=h, width=w)))
        for h, w in ((1, 1), (8, 700), (700, 8), (40, 50))
    ]
    for count in (1, 2, 4):
        sheet = Image.open(io.BytesIO(sheet_png("Präparat", items[:count], class_table("voc21"))))
        assert sheet.format == "PNG"
        assert sheet.width >= 640
    with pytest.raises(DataError, match="needs a sample that can be read"):
        draw_sheet("none", [], class_table("voc21"))


def test_unreadable_samples_are_left_out_and_splits_share_the_sheet(tmp_path: Path) -> None:
    (tmp_path / "classes.toml").write_text(CLASSES)
    for split in ("train", "val"):
        for i in range(5):
            add(tmp_path / split, f"s{i}", seed=i)
    (tmp_path / "val/images/s4.png").write_bytes(b"")
    (tmp_path / "val/images/alone.png").write_bytes(b"")
    items = pick(open_dataset("folder", tmp_path), ["train", "val"], 6)
    assert [item.caption for item in items] == ["train/s0", "train/s2", "train/s4", "val/s0", "val/s2"]
