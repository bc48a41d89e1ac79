"""From a rectangle of one pyramid level to px at the plan's mpp; every source of pixels reads through here.

The result does not depend on how an image is cut into regions: px are computed in the cells of a lattice
that is fixed to the plan, each cell from its own position in the level, and both passes of the filter keep
to them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from wsi_espnet.errors import GeometryError
from wsi_espnet.geometry import Level, ReadPlan, Region

CELL_PX = 64
"""Side of a lattice cell in plan px; windows that start at a multiple of it waste no work.

Pillow takes the box of a resize as 32-bit floats: px far from the box's corner would be off by up to 5e-4 px,
and differently in every region. Within a cell they are the same in all.
"""

CELL_LEVEL_PX = 2048
"""Longest side of a cell in level px: where the image shrinks by more than 32, cells have fewer plan px."""

BAND_LEVEL_PX = 1 << 22
"""Level px held at once while shrinking: 4 Mpx, about 60 MB with all copies, however large the region is."""

ReadLevel = Callable[[Region], NDArray[np.uint8]]
"""Reads level px: a rectangle inside the level -> uint8 (h, w, 3)."""


def read_plan(plan: ReadPlan, region: Region, *, valid: Region, read_level: ReadLevel) -> NDArray[np.uint8]:
    """Px of one region at the plan's mpp.

    Where a plan px is a level px, px are copied. Otherwise Pillow's separable, antialiased filters are used:
    HAMMING to shrink, BILINEAR to enlarge. Measured at a factor of 2.48, in % of the amplitude kept:

        cycles per px                  HAMMING   BILINEAR   BOX
        0.4 (detail, should stay)         72        57       80
        0.6 (folds back, should go)       47        25       60

    HAMMING comes close to the mean over areas that pyramids are built with, without BOX's jitter of whole px.

    Parameters
    ----------
    plan
        How the image comes out of the level.
    region
        In plan px, inside `plan.shape`.
    valid
        The level px that exist; px beyond them repeat the nearest.
    read_level
        Called with rectangles inside `valid`.

    Returns
    -------
    numpy.ndarray
        uint8 (h, w, 3), RGB, writable.

    Raises
    ------
    GeometryError
        The region reaches beyond the plan.
    """
    _ensure_inside(plan, region)
    if plan.level_per_px == (1.0, 1.0):
        y, x = (round(origin / plan.level.downsample) for origin in plan.origin_l0)
        return _read_clamped(Region(region.y + y, region.x + x, *region.shape), valid, read_level)
    rows, columns = _Axis.of(plan, 0), _Axis.of(plan, 1)
    out = np.empty((*region.shape, 3), np.uint8)
    for down, right in _bands(rows, columns, region):
        part = _resample(rows, columns, down, right, valid, read_level)
        into_y, from_y = _meet(region.y, region.h, down.start * rows.cell, part.shape[0])
        into_x, from_x = _meet(region.x, region.w, right.start * columns.cell, part.shape[1])
        out[into_y, into_x] = part[from_y, from_x]
    return out


def valid_part(level: Level, bounds_l0: Region) -> Region:
    """The px of a level that exist and touch the bounds."""
    y, h = _overlap(bounds_l0.y, bounds_l0.h, level.downsample, level.shape[0])
    x, w = _overlap(bounds_l0.x, bounds_l0.w, level.downsample, level.shape[1])
    return Region(y, x, h, w)


def _overlap(start_l0: int, extent_l0: int, downsample: float, extent: int) -> tuple[int, int]:
    start = min(math.floor(start_l0 / downsample), extent - 1)
    stop = min(math.ceil((start_l0 + extent_l0) / downsample), extent)
    return start, max(stop - start, 1)


def _ensure_inside(plan: ReadPlan, region: Region) -> None:
    height, width = plan.shape
    if region.y < 0 or region.x < 0 or region.y + region.h > height or region.x + region.w > width:
        raise GeometryError(
            f"a region must lie inside the plan's {height} x {width} px, got rows {region.y}.."
            f"{region.y + region.h}, columns {region.x}..{region.x + region.w}; clip it first"
        )


@dataclass(frozen=True, slots=True)
class _Axis:
    """Rows or columns of a plan, cut into the cells of its lattice."""

    origin: float  # level px of the plan's first edge
    step: float  # level px per plan px
    cell: int  # plan px per cell

    @classmethod
    def of(cls, plan: ReadPlan, axis: int) -> _Axis:
        step = plan.level_per_px[axis]
        cell = max(1, min(CELL_PX, int(CELL_LEVEL_PX / step)))
        return cls(plan.origin_l0[axis] / plan.level.downsample, step, cell)

    @property
    def cell_level_px(self) -> float:
        return self.cell * self.step

    def cells(self, start: int, extent: int) -> range:
        """The cells that hold plan px start..start+extent."""
        return range(start // self.cell, -(-(start + extent) // self.cell))

    def edges(self, cell: int) -> tuple[float, float]:
        """Where a cell starts and stops, in level px."""
        return self.origin + cell * self.cell * self.step, self.origin + (cell + 1) * self.cell * self.step

    def needed(self, cell: int) -> tuple[int, int]:
        """Level px that a cell is computed from: the filters reach one px of the coarser grid."""
        reach = math.ceil(max(self.step, 1.0)) + 1
        start, stop = self.edges(cell)
        return math.floor(start) - reach, math.ceil(stop) + reach


def _bands(rows: _Axis, columns: _Axis, region: Region) -> Iterator[tuple[range, range]]:
    """Blocks of whole cells that cover a region, each of at most `BAND_LEVEL_PX` level px or one cell."""
    down, right = rows.cells(region.y, region.h), columns.cells(region.x, region.w)
    cells = max(1, int(BAND_LEVEL_PX / (rows.cell_level_px * columns.cell_level_px)))
    wide = min(cells, len(right))
    high = max(1, cells // wide)
    for y in range(down.start, down.stop, high):
        for x in range(right.start, right.stop, wide):
            yield range(y, min(y + high, down.stop)), range(x, min(x + wide, right.stop))


def _meet(start: int, extent: int, part_start: int, part_extent: int) -> tuple[slice, slice]:
    """Where an interval and a part of it meet: as a slice of the interval, and as a slice of the part."""
    first, last = max(start, part_start), min(start + extent, part_start + part_extent)
    return slice(first - start, last - start), slice(first - part_start, last - part_start)


def _resample(
    rows: _Axis, columns: _Axis, down: range, right: range, valid: Region, read_level: ReadLevel
) -> NDArray[np.uint8]:
    y0, y1 = rows.needed(down[0])[0], rows.needed(down[-1])[1]
    x0, x1 = columns.needed(right[0])[0], columns.needed(right[-1])[1]
    level_px = _read_clamped(Region(y0, x0, y1 - y0, x1 - x0), valid, read_level)
    return _one_pass(_one_pass(level_px, columns, right, axis=1), rows, down, axis=0)


def _one_pass(px: NDArray[np.uint8], lattice: _Axis, cells: range, *, axis: int) -> NDArray[np.uint8]:
    """Filter rows (axis 0) or columns (1), cell by cell; `px` starts where the first cell needs it to."""
    image = Image.fromarray(px)
    across = image.width if axis == 0 else image.height
    filter_ = Image.Resampling.HAMMING if lattice.step >= 1 else Image.Resampling.BILINEAR
    origin = lattice.needed(cells[0])[0]
    strips = []
    for cell in cells:
        first, last = lattice.needed(cell)
        start, stop = lattice.edges(cell)
        if axis == 1:
            strip = image.crop((first - origin, 0, last - origin, across))
            strip = strip.resize((lattice.cell, across), filter_, (start - first, 0, stop - first, across))
        else:
            strip = image.crop((0, first - origin, across, last - origin))
            strip = strip.resize((across, lattice.cell), filter_, (0, start - first, across, stop - first))
        strips.append(np.asarray(strip))
    return np.concatenate(strips, axis=axis)


def _read_clamped(rect: Region, valid: Region, read_level: ReadLevel) -> NDArray[np.uint8]:
    """Level px of a rectangle that may reach beyond `valid`, where the nearest px is repeated."""
    y0, y1 = _clamp(rect.y, rect.h, valid.y, valid.h)
    x0, x1 = _clamp(rect.x, rect.w, valid.x, valid.w)
    inner = read_level(Region(y0, x0, y1 - y0, x1 - x0))
    if inner.shape[:2] == rect.shape:
        return inner
    down = _missing(rect.y, rect.h, y0, y1 - y0)
    right = _missing(rect.x, rect.w, x0, x1 - x0)
    return np.pad(inner, (down, right, (0, 0)), mode="edge")


def _missing(start: int, extent: int, got: int, got_extent: int) -> tuple[int, int]:
    """How many px to repeat before and after; an interval that misses `valid` got its one nearest px."""
    before = min(max(got - start, 0), extent - got_extent)
    return before, extent - got_extent - before


def _clamp(start: int, extent: int, low: int, room: int) -> tuple[int, int]:
    high = low + room
    first = min(max(start, low), high - 1)
    return first, min(max(start + extent, first + 1), high)
