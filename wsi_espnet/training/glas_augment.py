"""Crops of stained tissue with what differs between slides: place, pose, scale, stain, light, glass."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image

from wsi_espnet.training import augment
from wsi_espnet.training.augment import Labels, Rgb, pose

BACKGROUND = 0

SCALES = (0.7, 1.4)
"""Source px per crop px: at 0.62 um per px this trains 0.43 to 0.87, the span from 20x scanners to half of
40x."""

STAIN_GAIN = (0.75, 1.3)
STAIN_SHIFT = 0.02
"""Each of haematoxylin, eosin and residual is scaled and shifted on its own, in units of optical density. The
range is wide because GlaS comes from one laboratory and one scanner."""

GLASS_SHARE_OF_CROPS = 0.25
"""GlaS holds no glass at all, and slides are mostly glass: every fourth crop is given some."""


def random_crop(rgb: Rgb, labels: Labels, *, side_px: int, rng: np.random.Generator) -> tuple[Rgb, Labels]:
    """One augmented crop.

    Parameters
    ----------
    rgb
        (h, w, 3) uint8.
    labels
        (h, w) uint8, moved along with `rgb`.
    side_px
        Side of the crop.
    rng
        All chance comes from here.

    Returns
    -------
    tuple
        (side_px, side_px, 3) uint8 and (side_px, side_px) uint8.
    """
    rgb, labels = place_and_scale(rgb, labels, side_px=side_px, rng=rng)
    rgb, labels = pose(rgb, labels, rng=rng)
    rgb = jitter_light(jitter_stain(rgb, rng=rng), rng=rng)
    if rng.random() < GLASS_SHARE_OF_CROPS:
        rgb, labels = add_glass(rgb, labels, rng=rng)
    return np.ascontiguousarray(rgb), np.ascontiguousarray(labels)


def mosaic(crops: Sequence[tuple[Rgb, Labels]], *, share: float, rng: np.random.Generator) -> list[tuple[Rgb, Labels]]:
    """Crops of which a share is put together from parts of four, cut along one row and one column.

    Without it the network learns one grade for all that it sees, since each GlaS image has one; on a slide, tissue
    of another grade nearby then turns its mind.
    """
    mixed = []
    for rgb, labels in crops:
        rgb, labels = rgb.copy(), labels.copy()
        if rng.random() < share:
            side = labels.shape[0]
            row, column = (int(side * rng.uniform(0.15, 0.85)) for _ in range(2))
            for part in (np.s_[:row, column:], np.s_[row:, :column], np.s_[row:, column:]):
                other_rgb, other_labels = crops[int(rng.integers(len(crops)))]
                rgb[part], labels[part] = other_rgb[part], other_labels[part]
        mixed.append((rgb, labels))
    return mixed


def place_and_scale(rgb: Rgb, labels: Labels, *, side_px: int, rng: np.random.Generator) -> tuple[Rgb, Labels]:
    """A square of random place and size, resampled to `side_px`; mirrored where the image is small."""
    side = round(side_px * float(np.exp(rng.uniform(np.log(SCALES[0]), np.log(SCALES[1])))))
    rows, columns = max(0, side - rgb.shape[0]), max(0, side - rgb.shape[1])
    if rows or columns:
        rgb = np.pad(rgb, ((0, rows), (0, columns), (0, 0)), mode="symmetric")
        labels = np.pad(labels, ((0, rows), (0, columns)), mode="symmetric")
    y = int(rng.integers(0, rgb.shape[0] - side + 1))
    x = int(rng.integers(0, rgb.shape[1] - side + 1))
    region = np.s_[y : y + side, x : x + side]
    size = (side_px, side_px)
    # Pillow's bilinear widens its kernel when it shrinks, so that coarse crops are not aliased.
    picture = Image.fromarray(rgb[region]).resize(size, Image.Resampling.BILINEAR)
    mask = Image.fromarray(labels[region]).resize(size, Image.Resampling.NEAREST)
    return np.asarray(picture), np.asarray(mask)


def jitter_stain(rgb: Rgb, *, rng: np.random.Generator) -> Rgb:
    """The same tissue stained a little more or less, within `STAIN_GAIN` and `STAIN_SHIFT`."""
    return augment.jitter_stain(rgb, gain=STAIN_GAIN, shift=STAIN_SHIFT, rng=rng)


def jitter_light(rgb: Rgb, *, rng: np.random.Generator) -> Rgb:
    """Contrast by up to 10 %, brightness by up to 8 levels."""
    contrast, brightness = rng.uniform(0.9, 1.1), rng.uniform(-8, 8)
    table = np.clip((np.arange(256) - 128) * contrast + 128 + brightness, 0, 255).astype(np.uint8)
    jittered: Rgb = table[rgb]
    return jittered


def add_glass(rgb: Rgb, labels: Labels, *, rng: np.random.Generator) -> tuple[Rgb, Labels]:
    """Bare glass over part of the crop, labelled background: a smooth random outline, soft or hard."""
    side = labels.shape[0]
    field = _smooth_noise(side, cells=int(rng.integers(1, 5)), rng=rng)
    # Anything from a corner to (one time in ten) the whole crop.
    threshold = float(np.quantile(field, min(1.0, rng.uniform(0.1, 1.1))))
    softness = rng.uniform(0.01, 0.15)
    cover = np.clip((threshold - field) / softness + 0.5, 0, 1) if threshold < field.max() else np.ones_like(field)
    mixed = rgb * (1 - cover[..., None]) + glass(side, rng=rng) * cover[..., None]
    return mixed.astype(np.uint8), np.where(cover >= 0.5, np.uint8(BACKGROUND), labels)


def glass(side_px: int, *, rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """(side, side, 3) float32, 0..255: light grey of a faint tint, faintly clouded, with the sensor's
    noise.
    """
    base = rng.uniform(215, 250) + rng.normal(0, 2.5, size=3)
    clouds = rng.uniform(0, 8) * (_smooth_noise(side_px, cells=int(rng.integers(3, 30)), rng=rng) - 0.5)
    noise = rng.normal(0, rng.uniform(0.3, 2.5), size=(side_px, side_px, 3))
    return np.clip(base + clouds[..., None] + noise, 0, 255).astype(np.float32)


def _smooth_noise(side_px: int, *, cells: int, rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """(side, side) float32 in 0..1, wavy at about side / cells px."""
    coarse = Image.fromarray(rng.normal(size=(cells + 2, cells + 2)).astype(np.float32))
    field = np.asarray(coarse.resize((side_px, side_px), Image.Resampling.BICUBIC))
    low, high = float(field.min()), float(field.max())
    return ((field - low) / max(high - low, 1e-6)).astype(np.float32)
