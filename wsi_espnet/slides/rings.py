"""Polygons onto a grid of cells: those that a polygon touches at all, or those whose centre lies in it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

Ring = NDArray[np.float64]
"""Ring of corners, closed or open: float (n, 2) as (y, x), in cells, with (0, 0) at the grid's corner."""


def cover(polygons: Sequence[Sequence[Ring]], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Cells that polygons touch: bool `shape`.

    Parameters
    ----------
    polygons
        Each a sequence of rings, the outline first and then its holes. A hole takes away only cells that it
        covers whole, and only from its own polygon. Parts beyond the grid are cut off.
    shape
        (rows, cols) of the grid.
    """
    out = np.zeros(shape, dtype=np.bool_)
    for window, local in _windows(polygons, out):
        window |= _inside(local, window.shape)
        _mark_touched(window, local)
    return out


def fill(polygons: Sequence[Sequence[Ring]], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Cells whose centre lies in a polygon: bool `shape`; arguments as in `cover`.

    Examples
    --------
    >>> ring = np.array([[0.0, 0.6], [0.0, 2.6], [2.0, 2.6], [2.0, 0.6]])
    >>> fill([[ring]], (2, 4)).astype(int).tolist()
    [[0, 1, 1, 0], [0, 1, 1, 0]]
    """
    out = np.zeros(shape, dtype=np.bool_)
    for window, local in _windows(polygons, out):
        window |= _inside(local, window.shape)
    return out


def _windows(
    polygons: Sequence[Sequence[Ring]], out: NDArray[np.bool_]
) -> Iterator[tuple[NDArray[np.bool_], NDArray[np.float64]]]:
    """The part of the grid around each polygon, and the polygon's edges from its corner on."""
    for rings in polygons:
        edges = np.concatenate([_edges(ring) for ring in rings])
        top, left = (max(0, int(np.floor(edges[:, :, a].min()))) for a in (0, 1))
        bottom, right = (min(out.shape[a], int(np.floor(edges[:, :, a].max())) + 1) for a in (0, 1))
        if top < bottom and left < right:
            yield out[top:bottom, left:right], edges - np.array([top, left], dtype=np.float64)


def _edges(ring: Ring) -> NDArray[np.float64]:
    return np.stack([ring, np.roll(ring, -1, axis=0)], axis=1)  # (n, 2 ends, 2)


def _inside(edges: NDArray[np.float64], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Cells whose centre is inside: every edge that crosses a row of centres flips all to its right."""
    low, high = edges[:, :, 0].min(axis=1), edges[:, :, 0].max(axis=1)
    first = np.clip(np.ceil(low - 0.5), 0, shape[0]).astype(np.int64)
    stop = np.clip(np.ceil(high - 0.5), 0, shape[0]).astype(np.int64)
    which, row = _runs(first, stop)
    (y0, x0), (y1, x1) = edges[which, 0].T, edges[which, 1].T
    x = x0 + (row + 0.5 - y0) / (y1 - y0) * (x1 - x0)
    col = np.clip(np.ceil(x - 0.5), 0, shape[1]).astype(np.int64)
    flips = np.zeros((shape[0], shape[1] + 1), dtype=np.uint8)
    np.add.at(flips, (row, col), 1)  # only whether it is even matters, and 256 is
    return np.bitwise_xor.accumulate(flips[:, :-1] & 1, axis=1).astype(np.bool_)


def _mark_touched(window: NDArray[np.bool_], edges: NDArray[np.float64]) -> None:
    """Set the cells that edges run through: between two crossings of grid lines an edge stays in one cell."""
    begin, end = edges[:, 0], edges[:, 1]
    which, t = [np.arange(len(edges))] * 2, [np.zeros(len(edges)), np.ones(len(edges))]
    for axis in (0, 1):
        a, b = begin[:, axis], end[:, axis]
        last = window.shape[axis] + 1  # lines beyond the window cut nothing inside it
        first = np.clip(np.floor(np.minimum(a, b)) + 1, 0, last).astype(np.int64)
        of, line = _runs(first, np.clip(np.ceil(np.maximum(a, b)), 0, last).astype(np.int64))
        which.append(of)
        t.append((line - a[of]) / (b[of] - a[of]))
    edge, at = np.concatenate(which), np.concatenate(t)
    order = np.lexsort((at, edge))
    edge, at = edge[order], at[order]
    same = edge[1:] == edge[:-1]
    edge, middle = edge[1:][same], ((at[1:] + at[:-1]) / 2)[same]
    point = begin[edge] + middle[:, None] * (end[edge] - begin[edge])
    cell = np.floor(point)
    # An edge that runs along a grid line touches neither side; which side is inside is told by the centres.
    keep = ((cell >= 0) & (cell < window.shape) & (cell != point)).all(axis=1)
    y, x = cell[keep].astype(np.int64).T
    window[y, x] = True


def _runs(first: NDArray[np.int64], stop: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(which, value) of all whole numbers first[i] <= value < stop[i], as two flat arrays."""
    count = np.maximum(stop - first, 0)
    which = np.repeat(np.arange(len(first)), count)
    offset = np.arange(int(count.sum())) - np.repeat(np.cumsum(count) - count, count)
    return which, first[which] + offset
