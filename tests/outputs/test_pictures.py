"""Masks as other programs read them."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
from PIL import Image

from wsi_espnet.models.catalog import class_table
from wsi_espnet.outputs.pictures import class_palette, id_png, overlay, palette_png, voc_palette

LABELS = np.array([[0, 1, 2], [20, 255, 7]], np.uint8)


def open_png(content: bytes) -> Image.Image:
    return Image.open(io.BytesIO(content))


def test_a_palette_mask_holds_ids_and_shows_class_colours() -> None:
    classes = class_table("voc21")
    image = open_png(palette_png(LABELS, class_palette(classes)))
    assert image.mode == "P"
    np.testing.assert_array_equal(np.asarray(image), LABELS)
    shown = np.asarray(image.convert("RGB"))
    assert tuple(shown[0, 1]) == classes.classes[1].color
    assert tuple(shown[1, 0]) == classes.classes[20].color


def test_the_palette_of_voc_is_the_published_one(shared: Path) -> None:
    published = json.loads((shared / "data/labels/voc_palette256.json").read_text())["palette256"]
    assert voc_palette().tolist() == published
    real = Image.open(next((shared / "data/street/voc_labelme/data_dataset_voc/SegmentationClass").glob("*.png")))
    stored = np.asarray(real.getpalette()).reshape(-1, 3)
    np.testing.assert_array_equal(voc_palette()[: len(stored)], stored)


def test_ids_are_grey_values() -> None:
    image = open_png(id_png(LABELS))
    assert image.mode == "L"
    np.testing.assert_array_equal(np.asarray(image), LABELS)


def test_an_overlay_leaves_px_of_no_class_as_they_are() -> None:
    rgb = np.full((2, 3, 3), (10, 200, 30), np.uint8)
    shown = overlay(rgb, LABELS, class_table("voc21"))
    changed = (shown != rgb).any(-1)
    np.testing.assert_array_equal(changed, LABELS != 255)
