"""Composed small slides, tiny networks, and what two results must have in common."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from slides.make import write_slide

from wsi_espnet.classes import ClassTable, TissueClass
from wsi_espnet.models.card import EspNetConfig, ModelCard, Normalisation
from wsi_espnet.models.espnet import build
from wsi_espnet.models.weights import save_model

Px = NDArray[np.uint8]

MPP = 0.5
"""um per px of all slides and networks here."""

CLASSES = ClassTable(
    name="three",
    classes=(
        TissueClass(id=0, name="glass", color=(255, 255, 255)),
        TissueClass(id=1, name="stroma", color=(230, 120, 160)),
        TissueClass(id=2, name="gland", color=(70, 40, 150)),
    ),
    glass=0,
)


def reach_px(p: int, q: int) -> int:
    """Px beyond which an ESPNet (p, q) with its decoder sees nothing, to each side.

    The encoder sees 399 + 128 p + 256 q px, the decoder widens that by 132.
    """
    return -(-(399 + 128 * p + 256 * q + 132) // 2)


def tiny_model(
    path: Path, *, p: int = 0, q: int = 1, core_px: int = 256, halo_px: int = 32, mpp: float | None = MPP, seed: int = 3
) -> Path:
    """A network of random weights with a card; small enough to be run hundreds of times."""
    torch.manual_seed(seed)
    config = EspNetConfig(p=p, q=q, classes=len(CLASSES))
    module = build(config).eval()
    card = ModelCard(
        name="tiny",
        summary="random weights",
        network=config,
        classes=CLASSES,
        mpp=mpp,
        normalisation=Normalisation(mean=(200.0, 160.0, 190.0), std=(40.0, 50.0, 40.0)),
        data="none",
        terms="none",
        split="none",
        scores={},
        limits="means nothing",
        source="made by the tests",
        core_px=core_px,
        halo_px=halo_px,
    )
    return save_model(path, module, card)


def blobs(height: int, width: int, *, seed: int = 0, share: float = 0.5) -> Px:
    """Pink and violet tissue with structure on white glass; about `share` of it is tissue."""
    rng = np.random.default_rng(seed)
    coarse, fine, grain = (
        gaussian_filter(rng.standard_normal((height, width)).astype(np.float32), sigma) for sigma in (60, 8, 1)
    )
    tissue = coarse > np.quantile(coarse, 1 - share)
    gland = fine > 0
    px = np.where(gland[..., None], (120, 60, 160), (225, 150, 190)).astype(np.float32)
    px += 60 * (grain / grain.std() / 4)[..., None]
    px[~tissue] = 245
    return np.clip(px, 0, 255).astype(np.uint8)


def small_slide(path: Path, px: Px, *, mpp: float | None = MPP) -> Path:
    """An Aperio slide of two levels."""
    return write_slide(path, [px, px[::4, ::4]], mpp=mpp, kind="aperio")


def files_below(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, by its relative path."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def differing_files(a: Path, b: Path) -> list[str]:
    """Names of the files that two folders do not have in common, or that differ; none if they are equal."""
    left, right = files_below(a), files_below(b)
    return sorted(name for name in left.keys() | right.keys() if left.get(name) != right.get(name))
