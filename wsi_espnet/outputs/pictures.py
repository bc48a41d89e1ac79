"""Labels as PNG files: palette masks, ids, and tints over the picture."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from wsi_espnet.classes import ClassTable
from wsi_espnet.outputs.paint import paint_classes

Palette = NDArray[np.uint8]
"""(256, 3) uint8: R, G, B of each value that a mask may hold."""


def class_palette(classes: ClassTable) -> Palette:
    """The colours of a class table; black for ids that are no class."""
    palette = np.zeros((256, 3), np.uint8)
    for c in classes.classes:
        palette[c.id] = c.color
    return palette


def voc_palette() -> Palette:
    """The palette of PASCAL VOC's masks: bits 0, 1, 2 of an id, then 3, 4, 5 and so on, are the bits of R, G, B from
    the highest down (the devkit's VOClabelcolormap).

    Examples
    --------
    >>> voc_palette()[[1, 15, 255]].tolist()
    [[128, 0, 0], [192, 128, 128], [224, 224, 192]]
    """
    palette = np.zeros((256, 3), np.uint8)
    ids = np.arange(256)
    for group in range(3):  # of three bits each; the ninth does not exist
        for channel in range(3):
            palette[:, channel] |= (((ids >> (3 * group + channel)) & 1) << (7 - group)).astype(np.uint8)
    return palette


def palette_png(labels: NDArray[np.uint8], palette: Palette) -> bytes:
    """PNG whose values are the ids, (h, w) uint8, shown in the colours of a palette."""
    image = Image.fromarray(labels)
    image.putpalette(palette.tobytes())  # makes it a palette image of the same values
    return _png(image)


def id_png(ids: NDArray[np.uint8]) -> bytes:
    """Grey PNG whose values are ids, (h, w) uint8."""
    return _png(Image.fromarray(ids))


def overlay(rgb: NDArray[np.uint8], labels: NDArray[np.uint8], classes: ClassTable) -> NDArray[np.uint8]:
    """A picture (h, w, 3) uint8 in grey, tinted by class; glass and px of no class are left as they are."""
    return np.asarray(paint_classes(rgb, labels, np.ones(labels.shape, np.bool_), classes))


def rgb_png(rgb: NDArray[np.uint8]) -> bytes:
    """PNG of a picture (h, w, 3) uint8."""
    return _png(Image.fromarray(rgb))


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
