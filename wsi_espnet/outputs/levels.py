"""Levels of an OME-Zarr: the overview's image, how ids shrink, how large a chunk is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import ZstdCodec

from wsi_espnet import ngff
from wsi_espnet.atomic import output_errors
from wsi_espnet.geometry import ReadPlan
from wsi_espnet.slides.tile_level import halved

CHUNK_PX = 512
"""Side of a chunk, the smallest piece that a viewer decodes."""

ZSTD = ZstdCodec(level=3, checksum=True)

_ROWS = 64
"""Rows of a coarser level that are made at a time."""


def write_image(
    path: Path, px: NDArray[np.uint8], plan: ReadPlan, *, levels: int, name: str, marks: dict[str, Any]
) -> None:
    """Make the root group: an RGB image (h, w, 3) of `levels` levels, placed by its (coarse) plan.

    `marks` are further attributes of the group. A group that is there keeps its attributes; its levels are written
    again, since a killed run may have written half of one.
    """
    multiscale = ngff.multiscales(
        name=name, axes="cyx", levels=[ngff.placement(plan, 2**k) for k in range(levels)], method="mean"
    )
    with output_errors(path):
        if not (path / "zarr.json").is_file():
            # One write, so that no folder is ever there without its marks.
            zarr.create_group(path, zarr_format=3, attributes=ngff.image_attributes(multiscale) | marks)
        group = zarr.open_group(path, mode="r+", zarr_format=3)
        part = np.ascontiguousarray(np.moveaxis(px, -1, 0))
        for level in range(levels):
            array = group.create_array(
                str(level),
                shape=part.shape,
                dtype="uint8",
                chunks=(3, min(CHUNK_PX, part.shape[1]), min(CHUNK_PX, part.shape[2])),
                compressors=ZSTD,
                fill_value=255,
                dimension_names=["c", "y", "x"],
                overwrite=True,
            )
            array[...] = part
            part = halved(part)


def majority(labels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The most frequent id of each 2 x 2 px, (h, w) -> (ceil(h / 2), ceil(w / 2)); the upper left one of a tie.

    Examples
    --------
    >>> majority(np.array([[1, 2, 3], [2, 0, 3]], np.uint8)).tolist()
    [[2, 3]]
    """
    even = np.pad(labels, ((0, labels.shape[0] % 2), (0, labels.shape[1] % 2)), mode="edge")
    half = np.empty((even.shape[0] // 2, even.shape[1] // 2), np.uint8)
    # Px of their own, and few enough for the processor's cache: a third of the time that strided views of all take.
    for top in range(0, len(half), _ROWS):
        rows = even[2 * top : 2 * (top + _ROWS)]
        a, b, c, d = (np.ascontiguousarray(rows[y::2, x::2]) for y in (0, 1) for x in (0, 1))
        best = half[top : top + _ROWS]
        best[...] = a
        np.copyto(best, c, where=c == d)
        np.copyto(best, b, where=(b == c) | (b == d))
        np.copyto(best, a, where=(a == b) | (a == c) | (a == d))
    return half


def chunk_px(core_px: int) -> int:
    """Side of a chunk inside a shard of `core_px`: the largest divisor of at most 512 px that is a multiple of 8.

    Examples
    --------
    >>> chunk_px(2048), chunk_px(1152), chunk_px(488)
    (512, 384, 488)
    """
    sides = [side for side in range(8, min(CHUNK_PX, core_px) + 1, 8) if core_px % side == 0]
    return max(sides)
