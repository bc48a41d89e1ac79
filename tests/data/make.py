"""Small folders of images and masks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

CLASSES = """
name = "three"
[[classes]]
name = "ground"
color = [200, 200, 200]
[[classes]]
name = "bush"
color = [0, 150, 60]
[[classes]]
name = "stone"
color = [120, 60, 20]
"""


def save(path: Path, px: NDArray[np.generic]) -> Path:
    """Write a picture, and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(px).save(path)
    return path


def picture(seed: int, *, height: int = 24, width: int = 32) -> NDArray[np.uint8]:
    """Random px: no two pictures are alike."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def mask(*, height: int = 24, width: int = 32) -> NDArray[np.uint8]:
    """Three classes: half the px are 0, a quarter 1 and 2 each."""
    ids = np.zeros((height, width), np.uint8)
    ids[height // 2 :, : width // 2], ids[height // 2 :, width // 2 :] = 1, 2
    return ids


def add(folder: Path, name: str, *, seed: int) -> None:
    """A sample of a data set of the kind `folder`."""
    save(folder / "images" / f"{name}.png", picture(seed))
    save(folder / "masks" / f"{name}.png", mask())
