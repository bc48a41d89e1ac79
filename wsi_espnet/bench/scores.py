"""What masks are compared by: px that changed, and counts for scores; strip by strip, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from wsi_espnet import scores

GLASS = 255
"""Id of glass in the truth of a composed slide."""

_STRIP_PX = 1024


class Image2D(Protocol):
    """An array (h, w) uint8 that is read by slices: NumPy or Zarr."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(h, w)."""
        ...

    def __getitem__(self, key: Any, /) -> Any: ...


def changed_px(a: Image2D, b: Image2D, truth: Image2D, *, shift_px: int) -> int:
    """Tissue px at which `a` differs from `b`, a mask of the same px `shift_px` further right and down.

    Examples
    --------
    >>> a, b = np.array([[1, 2]], np.uint8), np.array([[0, 0, 0], [0, 1, 1]], np.uint8)
    >>> changed_px(a, b, np.array([[1, 1]], np.uint8), shift_px=1)
    1
    """
    return sum(
        int(np.count_nonzero((a[rows] != _moved(b, rows, shift_px)) & (truth[rows] != GLASS)))
        for rows in _strips(truth.shape[0])
    )


def confusion(labels: Image2D, truth: Image2D, classes: int) -> scores.Counts:
    """Counts over a whole mask, glass as void."""
    counts = np.zeros((classes + 1, classes + 1), np.int64)
    for rows in _strips(truth.shape[0]):
        counts += scores.confusion(np.asarray(truth[rows]), np.asarray(labels[rows]), classes)
    return counts


def _moved(b: Image2D, rows: slice, shift_px: int) -> NDArray[np.uint8]:
    return np.asarray(b[rows.start + shift_px : rows.stop + shift_px])[:, shift_px:]


def _strips(height: int) -> Iterator[slice]:
    for y in range(0, height, _STRIP_PX):
        yield slice(y, min(y + _STRIP_PX, height))
