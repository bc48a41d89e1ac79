"""Small pyramidal slides with known px, written with tifffile: generic TIFF or Aperio's SVS."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image

Px = NDArray[np.uint8]


def noise(height: int, width: int, *, seed: int = 0) -> Px:
    """Independent random px: the hardest image to place, since no px is like its neighbour."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def shrunk(px: Px, shape: tuple[int, int]) -> Px:
    """The same picture with another (height, width)."""
    return np.asarray(Image.fromarray(px).resize(shape[::-1], Image.Resampling.BOX))


def write_slide(
    path: Path,
    levels: Sequence[Px],
    *,
    mpp: float | None = 0.5,
    kind: Literal["generic", "aperio"] = "generic",
    compression: Literal["zlib", "jpeg"] = "zlib",
    tile_px: int = 256,
    missing: frozenset[tuple[int, int]] = frozenset(),
) -> Path:
    """Write a tiled pyramid, finest level first, as OpenSlide reads it.

    `missing` names tiles (row, column) of level 0 that are left out, which OpenSlide shows as transparent.
    """
    height, width = levels[0].shape[:2]
    with tifffile.TiffWriter(path) as tiff:
        for index, px in enumerate(levels):
            downsample = height / px.shape[0]
            tiff.write(
                _tiles(px, tile_px, missing if index == 0 else frozenset()),
                shape=px.shape,
                dtype=np.uint8,
                photometric="ycbcr" if compression == "jpeg" else "rgb",
                tile=(tile_px, tile_px),
                compression=compression,
                compressionargs={"level": 95} if compression == "jpeg" else {},
                subfiletype=1 if index and kind == "generic" else 0,
                description=_aperio(px, (height, width), mpp) if kind == "aperio" else None,
                metadata=None,
                software=False,
                **_resolution(mpp, downsample),
            )
            if kind == "aperio" and index == 0:
                _thumbnail(tiff, px)
    return path


def _tiles(px: Px, side: int, missing: frozenset[tuple[int, int]]) -> Iterator[Px | None]:
    rows, columns = -(-px.shape[0] // side), -(-px.shape[1] // side)
    padded = np.pad(px, ((0, rows * side - px.shape[0]), (0, columns * side - px.shape[1]), (0, 0)), mode="edge")
    for row in range(rows):
        for column in range(columns):
            tile = padded[row * side : (row + 1) * side, column * side : (column + 1) * side]
            yield None if (row, column) in missing else np.ascontiguousarray(tile)


def _resolution(mpp: float | None, downsample: float) -> dict[str, object]:
    if mpp is None:
        return {}
    per_cm = 1e4 / (mpp * downsample)
    return {"resolution": (per_cm, per_cm), "resolutionunit": "CENTIMETER"}


def _aperio(px: Px, shape: tuple[int, int], mpp: float | None) -> str:
    height, width = shape
    head = f"Aperio Image Library v12.0.15 \r\n{width}x{height} [0,0 {width}x{height}]"
    scaled = "" if px.shape[:2] == shape else f" -> {px.shape[1]}x{px.shape[0]}"
    return f"{head} (256x256){scaled} JPEG/RGB Q=95|AppMag = 20" + ("" if mpp is None else f"|MPP = {mpp:.4f}")


def _thumbnail(tiff: tifffile.TiffWriter, px: Px) -> None:
    small = shrunk(px, (max(1, px.shape[0] // 16), max(1, px.shape[1] // 16)))
    tiff.write(
        small,
        photometric="rgb",
        compression="jpeg",
        rowsperstrip=16,
        metadata=None,
        software=False,
        description=f"Aperio Image Library v12.0.15 \r\n{px.shape[1]}x{px.shape[0]} -> thumbnail - ",
    )
