"""Where the tissue of a slide lies: found by colour, given by a file, or everywhere."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from wsi_espnet.errors import NoTissueError, SlideReadError
from wsi_espnet.geometry import ReadPlan, Region, plan_read
from wsi_espnet.slides.source import PixelSource
from wsi_espnet.slides.stain import find_tissue_cells
from wsi_espnet.slides.tissue_file import load_tissue
from wsi_espnet.slides.tissue_mask import GLASS, RIM, TISSUE, TissueMask, cell_um, coarsen
from wsi_espnet.slides.whole import each_block

__all__ = ["TissueMask", "everything", "find_tissue", "lay_over", "load_tissue"]

_SMALLEST_BLOCK = 64  # cells; damage is narrowed down to blocks of half a millimetre


def everything(plan: ReadPlan) -> TissueMask:
    """A mask of one cell that calls the whole image tissue."""
    return TissueMask(np.ones((1, 1), dtype=np.bool_), plan.shape, "none")


def find_tissue(source: PixelSource, plan: ReadPlan) -> TissueMask:
    """Tissue by its colour, from a low level of the slide, and a rim of about 100 um around it.

    Cells are about 8 um, or one px of the plan where that is coarser. What counts as tissue, and every
    number in that, is in `wsi_espnet.slides.stain`. Parts that cannot be read count as tissue, so that they
    are reported when the slide is segmented instead of being passed off as glass.

    Parameters
    ----------
    source
        The slide.
    plan
        The image that the mask is for. Its own px are not read.

    Raises
    ------
    NoTissueError
        There is no tissue.
    SlideReadError
        No part of the slide can be read.
    """
    coarse = _coarse_plan(source, plan)
    rgb, unread = _read_all(source, coarse)
    found, with_rim = find_tissue_cells(rgb, coarse.mpp, unread)
    if not found.any():
        raise NoTissueError(
            f"no tissue was found on {source.path}: all of it looks like glass, pen or a black border; "
            "segment all of it with --tissue none, or give a mask or an outline with --tissue FILE"
        )
    rows, cols = (_span(plan, coarse, axis) for axis in (0, 1))
    shape = tuple(
        min(px, math.ceil(stop - start - 1e-6)) for px, (start, stop) in zip(plan.shape, (rows, cols), strict=True)
    )
    tissue, segmented = (coarsen(part, (shape[0], shape[1]), rows=rows, cols=cols) for part in (found, with_rim))
    return TissueMask(_cells(tissue, segmented), plan.shape, "auto")


def lay_over(cells: NDArray[np.uint8], plan: ReadPlan) -> TissueMask:
    """Tissue that was found before, as uint8 cells over all of the plan's image, coarsened where they are finer."""
    shape = min(cells.shape[0], plan.shape[0]), min(cells.shape[1], plan.shape[1])
    tissue, segmented = (coarsen(part, shape) for part in (cells == TISSUE, cells != GLASS))
    return TissueMask(_cells(tissue, segmented), plan.shape, "auto")


def _cells(tissue: NDArray[np.bool_], segmented: NDArray[np.bool_]) -> NDArray[np.uint8]:
    cells = np.full(tissue.shape, GLASS, np.uint8)
    cells[segmented] = RIM
    cells[tissue] = TISSUE
    return cells


def _coarse_plan(source: PixelSource, plan: ReadPlan) -> ReadPlan:
    size = cell_um(plan)
    if math.sqrt(plan.um2_per_px) >= size:
        return plan
    return plan_read(
        source.levels,
        slide_mpp=source.mpp or (1.0, 1.0),  # a source without a scale is read at one um per px
        bounds_l0=source.bounds_l0,
        mpp=size,
        allow_upsampling=True,
    )


def _span(plan: ReadPlan, coarse: ReadPlan, axis: int) -> tuple[float, float]:
    """Where one axis of the plan's image starts and stops, in px of the coarse plan; nothing is rounded."""
    start_l0 = plan.origin_l0[axis] - coarse.origin_l0[axis]
    stop_l0 = start_l0 + plan.shape[axis] * plan.l0_per_px[axis]
    return start_l0 / coarse.l0_per_px[axis], stop_l0 / coarse.l0_per_px[axis]


def _read_all(source: PixelSource, plan: ReadPlan) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """uint8 (h, w, 3) of a whole plan, block by block, and where it could not be read: bool (h, w)."""
    rgb = np.full((*plan.shape, 3), 255, dtype=np.uint8)
    unread = np.zeros(plan.shape, dtype=np.bool_)
    each_block(plan, lambda block: _read_block(source, plan, block, rgb, unread))
    if unread.all():
        raise SlideReadError(
            f"{source.path}: no part of it can be read at {math.sqrt(plan.um2_per_px):.3g} um per px; the "
            "file is damaged or incomplete, copy it again"
        )
    return rgb, unread


def _read_block(
    source: PixelSource, plan: ReadPlan, block: Region, rgb: NDArray[np.uint8], unread: NDArray[np.bool_]
) -> None:
    """Read a block; where it fails, its quarters, until the damage is narrowed down."""
    try:
        rgb[block.slices] = source.read(plan, block)
    except SlideReadError:
        longest = max(block.shape)
        if longest <= _SMALLEST_BLOCK:
            unread[block.slices] = True
            return
        for quarter in block.squares(-(-longest // 2)):
            _read_block(source, plan, quarter, rgb, unread)
