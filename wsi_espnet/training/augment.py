"""Two looks at one image: a function per step, all chance from a generator that is given.

An image is (h, w, 3) uint8 and its labels (h, w) uint8; what moves px moves both.
"""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from skimage.color import hed_from_rgb, rgb_from_hed

from wsi_espnet.classes import UNLABELLED
from wsi_espnet.training.augment_config import AugmentConfig

Rgb = NDArray[np.uint8]
Labels = NDArray[np.uint8]

GREY = np.array([0.299, 0.587, 0.114], np.float32)
"""Shares of R, G, B in brightness: ITU-R BT.601, as in Pillow's mode L."""


def augmented(
    rgb: Rgb,
    labels: Labels,
    config: AugmentConfig,
    *,
    fill: tuple[int, int, int],
    rng: np.random.Generator,
    colours: np.random.Generator | None,
) -> tuple[Rgb, Labels]:
    """One random look.

    Parameters
    ----------
    rgb, labels
        The whole image.
    config
        Which steps, and how far they go.
    fill
        Colour of what lies outside the image; its label is 255.
    rng
        Chance of what moves px.
    colours
        Chance of what changes their values; None changes none, and moves them as it would.

    Returns
    -------
    tuple
        (*crop_px, 3) and crop_px, both uint8.
    """
    rgb, labels = scale_and_crop(rgb, labels, size_px=config.crop_px, scale=config.scale, fill=fill, rng=rng)
    rgb, labels = flip(rgb, labels, share=config.flip, rng=rng)
    if config.pose:
        rgb, labels = pose(rgb, labels, rng=rng)
    if colours is not None:
        rgb = _recoloured(rgb, config, rng=colours)
    return np.ascontiguousarray(rgb), np.ascontiguousarray(labels)


def _recoloured(rgb: Rgb, config: AugmentConfig, *, rng: np.random.Generator) -> Rgb:
    if config.stain_gain is not None or config.stain_shift:
        gains = rng.uniform(*(config.stain_gain or (1.0, 1.0)), size=3)
        shifts = rng.uniform(-config.stain_shift, config.stain_shift, size=3)
        rgb = jitter_stain(rgb, gains=gains, shifts=shifts)
    if config.white_balance or config.gamma > 1 or config.noise:
        rgb = jitter_camera(rgb, white_balance=config.white_balance, gamma=config.gamma, noise=config.noise, rng=rng)
    if config.brightness or config.contrast or config.saturation or config.hue:
        rgb = jitter_colour(
            rgb,
            brightness=config.brightness,
            contrast=config.contrast,
            saturation=config.saturation,
            hue=config.hue,
            rng=rng,
        )
    if config.jpeg_quality is not None:
        low, high = config.jpeg_quality
        rgb = compress(rgb, quality=int(rng.integers(low, high + 1)))
    return rgb


def scale_and_crop(
    rgb: Rgb,
    labels: Labels,
    *,
    size_px: tuple[int, int],
    scale: tuple[float, float],
    fill: tuple[int, int, int],
    rng: np.random.Generator,
) -> tuple[Rgb, Labels]:
    """A region of random place and size, resampled to `size_px`: what enlarging and cropping gives, with less work.

    Where the region is larger than the image, the image lies at a random place in it, amid `fill` with the label 255.
    """
    factor = float(np.exp(rng.uniform(np.log(scale[0]), np.log(scale[1]))))
    sides = [max(1, round(side / factor)) for side in size_px]
    starts = [_random_start(extent, side, rng) for extent, side in zip(labels.shape, sides, strict=True)]
    rgb = _region(rgb, starts, sides, np.array(fill, np.uint8))
    labels = _region(labels, starts, sides, np.uint8(UNLABELLED))
    if labels.shape == size_px:
        return rgb, labels
    size = (size_px[1], size_px[0])
    # Pillow's bilinear widens its kernel when it shrinks, so that small scales are not aliased.
    picture = Image.fromarray(rgb).resize(size, Image.Resampling.BILINEAR)
    return np.asarray(picture), np.asarray(Image.fromarray(labels).resize(size, Image.Resampling.NEAREST))


def _random_start(extent: int, side: int, rng: np.random.Generator) -> int:
    """Where a region begins on an axis: inside the image or, below 0, before it where it is longer."""
    low, high = sorted((0, extent - side))
    return int(rng.integers(low, high + 1))


def _region(array: NDArray[np.uint8], starts: list[int], sides: list[int], fill: NDArray[np.uint8] | np.uint8) -> Rgb:
    inside = tuple(
        slice(max(0, start), min(extent, start + side))
        for extent, start, side in zip(array.shape, starts, sides, strict=False)
    )
    if all(s.stop - s.start == side for s, side in zip(inside, sides, strict=True)):
        return array[inside]
    region = np.empty((*sides, *array.shape[2:]), np.uint8)
    region[...] = fill
    into = tuple(slice(s.start - start, s.stop - start) for s, start in zip(inside, starts, strict=True))
    region[into] = array[inside]
    return region


def mosaic(crops: Sequence[tuple[Rgb, Labels]], *, rng: np.random.Generator) -> tuple[Rgb, Labels]:
    """Four crops of one size as one, cut along a row and a column of all of them."""
    (rgb, labels), *others = ((pixels.copy(), ids.copy()) for pixels, ids in crops)
    h, w = labels.shape
    row, column = (int(side * rng.uniform(0.15, 0.85)) for side in (h, w))
    parts = (np.s_[:row, column:], np.s_[row:, :column], np.s_[row:, column:])
    for part, (other_rgb, other_labels) in zip(parts, others, strict=True):
        rgb[part], labels[part] = other_rgb[part], other_labels[part]
    return rgb, labels


def paste(onto: tuple[Rgb, Labels], other: tuple[Rgb, Labels], *, rng: np.random.Generator) -> tuple[Rgb, Labels]:
    """`onto` with half of the other crop's classes, drawn at random, where they stand there (ClassMix).

    Olsson et al. 2021, arXiv 2007.07936, section 3.1, with labels where they have predictions. Cars are then met on
    other roads and poles before other walls.
    """
    classes = np.setdiff1d(other[1], [UNLABELLED])
    pasted = np.isin(other[1], rng.permutation(classes)[: (len(classes) + 1) // 2])
    return np.where(pasted[..., None], other[0], onto[0]), np.where(pasted, other[1], onto[1])


def flip(rgb: Rgb, labels: Labels, *, share: float, rng: np.random.Generator) -> tuple[Rgb, Labels]:
    """Mirrored left to right in `share` of the cases; streets keep their sky above."""
    return (rgb[:, ::-1], labels[:, ::-1]) if rng.random() < share else (rgb, labels)


def pose(rgb: Rgb, labels: Labels, *, rng: np.random.Generator) -> tuple[Rgb, Labels]:
    """One of the eight turns and mirrorings of a square; tissue has no up."""
    turns, mirrored = int(rng.integers(0, 4)), bool(rng.integers(0, 2))
    rgb, labels = np.rot90(rgb, turns), np.rot90(labels, turns)
    return (rgb[:, ::-1], labels[:, ::-1]) if mirrored else (rgb, labels)


def jitter_stain(rgb: Rgb, *, gains: NDArray[np.float64], shifts: NDArray[np.float64]) -> Rgb:
    """The same tissue stained a little more or less (Tellez et al. 2018, doi 10.1109/TMI.2018.2820199).

    Colour is taken apart into haematoxylin, eosin and a residual with the matrix of Ruifrok and Johnston (2001); each
    is multiplied with its gain and shifted by its shift, in units of optical density.
    """
    to_jittered = (hed_from_rgb @ np.diag(gains) @ rgb_from_hed).astype(np.float32)
    density = _DENSITY[rgb] @ to_jittered + (shifts @ rgb_from_hed).astype(np.float32)
    jittered: Rgb = np.clip(256.0 * np.exp(-density) - 1.0, 0, 255).astype(np.uint8)
    return jittered


_DENSITY = -np.log((np.arange(256, dtype=np.float32) + 1) / 256)
"""Optical density of each 8-bit value; the 1 keeps black finite."""


def jitter_camera(rgb: Rgb, *, white_balance: float, gamma: float, noise: float, rng: np.random.Generator) -> Rgb:
    """The same scene in light of another colour, by a camera with another curve and a noisier sensor.

    The values, as shares of 255, are raised to a power drawn log-uniformly from 1 / `gamma` to `gamma`. Each channel
    is multiplied by a number of its own within 1 +- `white_balance`; then normal noise is added to each value, its
    standard deviation drawn from 0 to `noise`, the same for the whole image.
    """
    gains = (1 + rng.uniform(-white_balance, white_balance, size=3)).astype(np.float32)
    power = np.exp(rng.uniform(-np.log(gamma), np.log(gamma))) if gamma > 1 else 1.0
    curve = (255 * (np.arange(256) / 255) ** power).astype(np.float32)
    px = curve[rgb] * gains
    if noise:
        px += np.float32(rng.uniform(0, noise)) * rng.standard_normal(px.shape, dtype=np.float32)
    jittered: Rgb = np.clip(np.rint(px), 0, 255).astype(np.uint8)
    return jittered


def compress(rgb: Rgb, *, quality: int) -> Rgb:
    """What is left of an image in a JPEG of that quality, 1 to 100, with colours at half the resolution."""
    file = io.BytesIO()
    Image.fromarray(rgb).save(file, "JPEG", quality=quality, subsampling="4:2:0")
    return np.asarray(Image.open(file))


def jitter_colour(
    rgb: Rgb, *, brightness: float, contrast: float, saturation: float, hue: float, rng: np.random.Generator
) -> Rgb:
    """Light and colour changed by up to these shares; 0 for all of them changes nothing.

    Brightness multiplies, contrast stretches around the mean grey, saturation around each px's own grey; hue turns
    the circle of hues by up to `hue` of it.
    """
    light, stretch, colour = (1 + rng.uniform(-x, x) for x in (brightness, contrast, saturation))
    turn = rng.uniform(-hue, hue)
    px = rgb.astype(np.float32) * light
    grey = px @ GREY
    px = (px - grey.mean()) * stretch + grey.mean()
    grey = (px @ GREY)[..., None]
    jittered = np.clip(np.rint((px - grey) * colour + grey), 0, 255).astype(np.uint8)
    return _turn_hue(jittered, turn) if hue else jittered


def _turn_hue(rgb: Rgb, turn: float) -> Rgb:
    hsv = np.array(Image.fromarray(rgb).convert("HSV"))
    hsv[..., 0] += np.uint8(round(turn * 256) % 256)  # the circle is 0..255 and wraps around
    return np.asarray(Image.fromarray(hsv, "HSV").convert("RGB"))
