"""A mask as a pyramidal OME-TIFF: class ids in one channel, written band by band."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import tifffile
from numpy.typing import NDArray

from wsi_espnet.atomic import replacing
from wsi_espnet.classes import UNLABELLED, ClassTable
from wsi_espnet.geometry import Region
from wsi_espnet.machine import cores
from wsi_espnet.outputs.stored import LabelImage, read_labels

TILE_PX = 512
"""Side of a tile, a multiple of 16 as TIFF asks for."""

BUFFER_BYTES = 32 << 20
"""Tiles that wait for the cores that compress them."""

NAMESPACE = "wsi_espnet/classes"
"""Of the annotation that says which class an id is."""


def write_ome_tiff(
    path: Path,
    levels: Sequence[LabelImage],
    classes: ClassTable,
    *,
    mpp: tuple[float, float],
    name: str,
    facts: str,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write levels of class ids as one image of a BigTIFF, the coarser ones as its sub-images (SubIFDs).

    That is where OME-TIFF 6.0 and later keep pyramids (docs.openmicroscopy.org/ome-model/6.3.1/ome-tiff). Ids are
    grey values and not a palette: what reads a palette's colours loses the ids.

    Parameters
    ----------
    path
        The file; it is there when all of it is, and not before.
    levels
        Class ids (h, w) uint8, largest first, each half as large as the one before.
    classes
        What the ids mean: an annotation of the image, from id to name.
    mpp
        (y, x) um per px of the largest level.
    name, facts
        Name and description of the image.
    progress
        Told about (read, total) bands of `TILE_PX` rows.

    Raises
    ------
    OutputError
        A chunk of the levels is damaged, or the disk is full or read-only.
    """
    total = sum(-(-level.shape[0] // TILE_PX) for level in levels)
    done = 0

    def tiles(level: LabelImage) -> Iterator[NDArray[np.uint8]]:
        nonlocal done
        height, width = level.shape
        for y in range(0, height, TILE_PX):
            band = read_labels(level, Region(y, 0, min(TILE_PX, height - y), width))
            padded = np.pad(band, ((0, TILE_PX - band.shape[0]), (0, -width % TILE_PX)))
            done += 1
            if progress is not None:
                progress(done, total)
            for x in range(0, width, TILE_PX):
                yield np.ascontiguousarray(padded[:, x : x + TILE_PX])

    names = {str(c.id): c.name for c in classes.classes} | {str(UNLABELLED): "unlabelled"}
    metadata = {
        "axes": "YX",
        "Name": name,
        "Description": facts,
        "PhysicalSizeY": mpp[0],
        "PhysicalSizeYUnit": "µm",
        "PhysicalSizeX": mpp[1],
        "PhysicalSizeXUnit": "µm",
        "MapAnnotation": {"Namespace": NAMESPACE, **names},
    }
    with replacing(path) as partial, tifffile.TiffWriter(partial, bigtiff=True, ome=True) as tiff:
        for number, level in enumerate(levels):
            tiff.write(
                tiles(level),
                shape=tuple(level.shape),
                dtype=np.uint8,
                tile=(TILE_PX, TILE_PX),
                photometric="minisblack",
                compression="zlib",
                maxworkers=cores(),
                buffersize=BUFFER_BYTES,
                resolution=(1e4 / (mpp[1] * 2**number), 1e4 / (mpp[0] * 2**number)),
                resolutionunit="CENTIMETER",
                **({"metadata": metadata, "subifds": len(levels) - 1} if number == 0 else {"subfiletype": 1}),
            )
