"""Where the maps of a window lie, and the bands of rows that go through them."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from wsi_espnet.inference.kernels import Array
from wsi_espnet.models.espnet import DILATIONS

BAND_BYTES = 4 << 20
"""Of the widest map in one band. Of half of it threads wait more often for each other, as Python is in every step."""

REACH = max(DILATIONS)
"""Rows of zeros above and below each map."""


class Workspace:
    """Memory for the maps of one window after the other; two windows at once need two.

    Fresh memory costs about as much as what is computed into it: the system clears every page that it lends.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = torch.uint16 if dtype == torch.bfloat16 else dtype
        self._blocks: dict[str, Tensor] = {}

    def array(self, name: str, *shape: int) -> Array:
        """Dense, with anything in it; what an earlier caller got under that name is overwritten."""
        count = math.prod(shape)
        found = self._blocks.get(name)
        if found is None or found.numel() < count:
            found = None
            self._blocks.pop(name, None)  # before there is another
            found = self._blocks[name] = torch.empty(count, dtype=self.dtype)  # begins at a cache line, numpy's may not
        values: Array = found.numpy()[:count].reshape(shape)
        return values

    def bands(self, rows: int, values: int) -> Iterator[tuple[int, int]]:
        """Rows cut into bands of about `BAND_BYTES`, where one row has `values`."""
        step = max(4, BAND_BYTES // (values * self.dtype.itemsize))
        for start in range(0, rows, step):
            yield start, min(start + step, rows)


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
