"""What masks are compared by: px that changed, and IoU; strip by strip, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

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


def confusion(labels: Image2D, truth: Image2D, classes: int) -> NDArray[np.int64]:
    """Counts (true class, label) over the tissue px, (classes, classes + 1); the last column holds all other labels."""
    counts = np.zeros((classes, classes + 1), np.int64)
    for rows in _strips(truth.shape[0]):
        true = np.asarray(truth[rows])
        tissue = true != GLASS
        said = np.minimum(np.asarray(labels[rows])[tissue], classes).astype(np.int64)
        found = np.bincount(true[tissue] * np.int64(classes + 1) + said, minlength=counts.size)
        counts += found.reshape(counts.shape)
    return counts


def iou(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Intersection over union of each class from `confusion`, 0..1; nan for a class that is in neither.

    Examples
    --------
    >>> iou(np.array([[3, 1, 0], [0, 4, 0]])).tolist()
    [0.75, 0.8]
    """
    classes = len(counts)
    both = np.diagonal(counts)
    either = counts.sum(axis=1) + counts.sum(axis=0)[:classes] - both
    return np.where(either > 0, both / np.maximum(either, 1), np.nan)


def _moved(b: Image2D, rows: slice, shift_px: int) -> NDArray[np.uint8]:
    return np.asarray(b[rows.start + shift_px : rows.stop + shift_px])[:, shift_px:]


def _strips(height: int) -> Iterator[slice]:
    for y in range(0, height, _STRIP_PX):
        yield slice(y, min(y + _STRIP_PX, height))
