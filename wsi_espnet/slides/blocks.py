"""The blocks that OpenSlide reads a level in: each from a place that is as near to a whole level-0 px as can be."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

BLOCK_PX = 512
"""Side of the blocks that a level is read in: whole tiles of the usual sides, and 1 MB, which stays in the cache.

Measured at 2432 x 2432 px: 49 MPix/s, against 39 to 45 in one piece and 58 for OpenSlide alone, before alpha.
"""

LEAD_PX = 64
"""How many level px before a block its read may start, in search of an exact position."""

EXACT_PX = 1 / 1024
"""Positions this near to a whole px are exact: cairo, which OpenSlide draws with, rounds them to 1/256 px."""


def cuts(start: int, extent: int, downsample: float | None) -> Iterator[tuple[int, int, int]]:
    """The reads that make up an interval of level px: where each starts to read, to keep px, and stops.

    With `downsample` None a read may start anywhere; otherwise all reads of a block start at the same px.
    """
    for block in range(start // BLOCK_PX * BLOCK_PX, start + extent, BLOCK_PX):
        first, stop = max(block, start), min(block + BLOCK_PX, start + extent)
        yield first if downsample is None else _best_start(block, downsample), first, stop


def _best_start(block: int, downsample: float) -> int:
    """The level px within `LEAD_PX` before a block that lies nearest to a whole level-0 px."""
    starts = np.arange(block, max(block - LEAD_PX, 0) - 1, -1)
    exact_l0 = starts * downsample
    off = np.abs(np.rint(exact_l0) - exact_l0) / downsample
    return int(starts[np.argmin(np.where(off < EXACT_PX, 0.0, off))])
