"""What slides hold besides tissue, painted over part of an image: glass, ink, the black of scanners and of borders.

Data sets of tissue show none of it, and slides are mostly that; a network that has not seen it calls it anything.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Rgb = NDArray[np.uint8]
Labels = NDArray[np.uint8]
Field = NDArray[np.float32]

INK_SHARE, BLACK_SHARE = 0.2, 0.1
"""Of the blanks; the others are glass, as on slides."""


def add_blank(rgb: Rgb, labels: Labels, *, label: int, rng: np.random.Generator) -> tuple[Rgb, Labels]:
    """Glass, ink or black over part of an image, which takes the label of glass.

    Parameters
    ----------
    rgb, labels
        (h, w, 3) and (h, w) uint8.
    label
        Class id of what has no tissue.
    rng
        All chance comes from here.

    Returns
    -------
    tuple
        As given, as new arrays.
    """
    shape = labels.shape
    kind = rng.random()
    if kind < INK_SHARE:
        cover, blank = _stroke(shape, rng), _ink(rgb, rng)
    elif kind < INK_SHARE + BLACK_SHARE:
        cover, blank = _region(shape, rng), _black(shape, rng)
    else:
        cover, blank = _region(shape, rng), _glass(shape, rng)
    mixed = rgb * (1 - cover[..., None]) + blank * cover[..., None]
    return np.clip(mixed, 0, 255).astype(np.uint8), np.where(cover >= 0.5, np.uint8(label), labels)


def _region(shape: tuple[int, ...], rng: np.random.Generator) -> Field:
    """Cover 0..1 with a smooth random outline, soft or hard: a corner up to (one time in ten) all of it."""
    field = _smooth_noise(shape, cells=int(rng.integers(1, 5)), rng=rng)
    share = float(rng.uniform(0.1, 1.1))
    if share >= 1:
        return np.ones_like(field)
    return _soft_step((np.quantile(field, share) - field) / rng.uniform(0.01, 0.15))


def _stroke(shape: tuple[int, ...], rng: np.random.Generator) -> Field:
    """Cover 0..1 along a level line of smooth noise, as a pen is drawn around something."""
    field = _smooth_noise(shape, cells=int(rng.integers(1, 4)), rng=rng)
    distance = np.abs(field - rng.uniform(0.3, 0.7))
    return _soft_step((rng.uniform(0.03, 0.2) - distance) / rng.uniform(0.005, 0.05))


def _soft_step(field: NDArray[np.floating]) -> Field:
    cover: Field = np.clip(field + 0.5, 0, 1).astype(np.float32)
    return cover


def _glass(shape: tuple[int, ...], rng: np.random.Generator) -> Field:
    """Light grey of a faint tint, faintly clouded."""
    base = rng.uniform(215, 250) + rng.normal(0, 2.5, size=3)
    clouds = rng.uniform(0, 8) * (_smooth_noise(shape, cells=int(rng.integers(3, 30)), rng=rng) - 0.5)
    return _with_noise(base + clouds[..., None], rng)


def _ink(rgb: Rgb, rng: np.random.Generator) -> Field:
    """One dark or saturated colour through which what lies below shines a little."""
    colour = rng.uniform(0, 90, size=3)
    colour[int(rng.integers(3))] += rng.uniform(0, 140)  # black, red, green or blue, more or less
    shine = rng.uniform(0, 0.35)
    return _with_noise(rgb * shine + colour * (1 - shine), rng)


def _black(shape: tuple[int, ...], rng: np.random.Generator) -> Field:
    """What a scanner leaves where it did not look, and the ground of fluorescence."""
    return _with_noise(np.broadcast_to(rng.uniform(0, 25, size=3), (*shape, 3)), rng)


def _with_noise(rgb: NDArray[np.floating], rng: np.random.Generator) -> Field:
    """The sensor's noise added; (h, w, 3) float32, 0..255."""
    noisy = rgb + rng.normal(0, rng.uniform(0.3, 2.5), size=rgb.shape)
    clipped: Field = np.clip(noisy, 0, 255).astype(np.float32)
    return clipped


def _smooth_noise(shape: tuple[int, ...], *, cells: int, rng: np.random.Generator) -> Field:
    """(h, w) float32 in 0..1, wavy at about a side / cells px."""
    coarse = Image.fromarray(rng.normal(size=(cells + 2, cells + 2)).astype(np.float32))
    field = np.asarray(coarse.resize((shape[1], shape[0]), Image.Resampling.BICUBIC))
    low, high = float(field.min()), float(field.max())
    return ((field - low) / max(high - low, 1e-6)).astype(np.float32)
