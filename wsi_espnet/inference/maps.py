"""Where the maps of a window lie, and the bands of rows that go through them, cut to the columns that are wanted."""

from __future__ import annotations

import contextlib
import math
import mmap
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from wsi_espnet.inference.kernels import Array
from wsi_espnet.inference.predictor import Columns
from wsi_espnet.models.espnet import DILATIONS

BAND_BYTES = 4 << 20
"""Of the widest map in one band. Of half of it threads wait more often for each other, as Python is in every step."""

REACH = max(DILATIONS)
"""Rows of zeros above and below each map."""


@dataclass(frozen=True, slots=True)
class Band:
    """Rows `start` to `stop` of a map, which are computed in the columns `begin` to `end`; elsewhere they are zeros."""

    start: int
    stop: int
    begin: int
    end: int

    @property
    def width(self) -> int:
        """Columns that are computed."""
        return self.end - self.begin

    def times(self, factor: int) -> Band:
        """The same band of a map whose sides are as many times as long."""
        return Band(self.start * factor, self.stop * factor, self.begin * factor, self.end * factor)


class Workspace:
    """Memory for the maps of one window after the other; two windows at once need two.

    Fresh memory costs about as much as what is computed into it: the system clears every page that it lends.

    Attributes
    ----------
    columns
        What is wanted of the window at hand; None is all of it.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self._kept_as = np.dtype(np.uint16 if dtype == torch.bfloat16 else np.float32)
        self.columns: Columns | None = None
        self._blocks: dict[str, mmap.mmap] = {}

    def array(self, name: str, *shape: int) -> Array:
        """Dense, with anything in it; what an earlier caller got under that name is overwritten."""
        count = math.prod(shape)
        size = max(1, count * self._kept_as.itemsize)
        block = self._blocks.get(name)
        if block is None or not _grown(block, size):
            block = None
            self._blocks.pop(name, None)  # before there is another
            block = self._blocks[name] = _mapping(size)
        values: Array = np.frombuffer(block, self._kept_as, count).reshape(shape)
        return values

    def bands(self, rows: int, width: int, channels: int) -> Iterator[Band]:
        """A map at stride 4 or 8 cut into bands of about `BAND_BYTES`, where each px comes with `channels` values."""
        step = max(4, BAND_BYTES // (width * channels * self.dtype.itemsize))
        for start in range(0, rows, step):
            stop = min(start + step, rows)
            yield Band(start, stop, *self._wanted(start, stop, rows, width))

    def _wanted(self, start: int, stop: int, rows: int, width: int) -> tuple[int, int]:
        """First column that is wanted in some of the rows, and the one behind the last."""
        if self.columns is None:
            return 0, width
        unit = rows // len(self.columns)
        wanted = self.columns[start // unit : -(-stop // unit)]
        wanted = wanted[wanted[:, 0] < wanted[:, 1]]
        return (unit * int(wanted[:, 0].min()), unit * int(wanted[:, 1].max())) if len(wanted) else (0, 0)


def _mapping(size: int) -> mmap.mmap:
    """Memory of its own, in huge pages where there are any: those of a window are cleared in a sixth of the time."""
    if not hasattr(mmap, "MAP_PRIVATE"):
        return mmap.mmap(-1, size)
    block = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):  # a kernel without them
            block.madvise(mmap.MADV_HUGEPAGE)
    return block


def _grown(block: mmap.mmap, size: int) -> bool:
    """Whether a mapping is that large, or has become so; what it had is not cleared again."""
    if len(block) >= size:
        return True
    try:
        block.resize(size)
    except (BufferError, OSError, SystemError):  # somebody still looks at it; a system that cannot
        return False
    return True


class Map:
    """A map (rows, W, C) that is filled from top to bottom, with `REACH` rows of zeros above and below it.

    Parameters
    ----------
    workspace, name
        Where it lies.
    rows, width, channels
        Its size.
    left, right
        Columns of zeros beside it.
    """

    def __init__(
        self, workspace: Workspace, name: str, rows: int, width: int, channels: int, *, left: int = 0, right: int = 0
    ) -> None:
        self.rows, self.width, self.channels, self.left = rows, width, channels, left
        self._values = workspace.array(name, rows + 2 * REACH, left + width + right, channels)
        self._values[:REACH] = 0
        self._values[REACH + rows :] = 0
        self._values[:, :left] = 0
        self._values[:, left + width :] = 0

    def take(self, start: int, stop: int) -> Array:
        """View of rows with the columns beside them; -REACH <= start < stop <= rows + REACH."""
        return self._values[REACH + start : REACH + stop]

    def fill(self, band: Band, channels: slice = slice(None)) -> Array:
        """As `take`, for somebody who fills the columns of a band; all others become zeros, in these channels."""
        rows = self.take(band.start, band.stop)
        rows[:, : self.left + band.begin, channels] = 0
        rows[:, self.left + band.end :, channels] = 0
        return rows
