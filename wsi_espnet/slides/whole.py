"""All of a coarse plan, read at once: for finding tissue and for overviews."""

from __future__ import annotations

from collections.abc import Callable

from wsi_espnet.geometry import ReadPlan, Region
from wsi_espnet.threads import on_threads

BLOCK_PX = 512
"""Side of one read: a slide has dozens of them for the threads to share, and each starts at a cell of the lattice in
which px are resampled."""


def each_block(plan: ReadPlan, read: Callable[[Region], None]) -> None:
    """Call `read` with blocks that cover a plan, on threads; what it raises is raised here."""
    on_threads(read, plan.region.squares(BLOCK_PX))
