"""Bilinear resizing without torch, px for px what `torch.nn.functional.interpolate` gives."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

Floats = NDArray[np.float32]


def resize(x: Floats, height: int, width: int) -> Floats:
    """(B, C, h, w) float32 -> (B, C, height, width), bilinear between px centres; `x` itself where nothing changes.

    Averages over what falls into a px where a side shrinks to less than half, which plain bilinear would skip.
    """
    old = x.shape[-2:]
    if old == (height, width):
        return x
    skips = max(old[0] / height, old[1] / width) > 2
    rows = _weights(old[0], height, averaging=skips)
    columns = _weights(old[1], width, averaging=skips)
    planes = x.reshape(-1, *old)
    resized = np.stack([columns.dot(rows.dot(plane).T).T for plane in planes])
    return resized.reshape(*x.shape[:2], height, width)


@lru_cache(maxsize=16)  # the pictures of a folder mostly have one size
def _weights(old: int, new: int, *, averaging: bool) -> sparse.csr_array:
    """(new, old): what each px of a resized line takes from the line as it was.

    A triangle around the px's centre; `averaging` widens it by how much the line shrinks.
    """
    step = old / new
    reach = max(1.0, step) if averaging else 1.0
    centre = (np.arange(new) + 0.5) * step - 0.5
    if not averaging:
        centre = np.clip(centre, 0, old - 1)  # beyond the outermost centres, the outermost px
    first = np.floor(centre - reach).astype(np.int64) + 1
    taken = first[:, None] + np.arange(int(np.ceil(2 * reach)) + 1)
    weights = np.maximum(0, 1 - np.abs(taken - centre[:, None]) / reach)
    weights[(taken < 0) | (taken >= old)] = 0
    weights /= weights.sum(axis=1, keepdims=True)
    lines = np.repeat(np.arange(new), taken.shape[1])
    entries = weights.ravel().astype(np.float32), (lines, np.clip(taken, 0, old - 1).ravel())
    return sparse.csr_array(entries, shape=(new, old))
