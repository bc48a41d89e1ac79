"""Loops whose turns do not need each other, on all cores of this process."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

MOST = 8
"""Threads at most: each holds some 60 MB while it shrinks a part of a slide (`wsi_espnet.slides.resample`)."""

Item = TypeVar("Item")
Found = TypeVar("Found")


def on_threads(function: Callable[[Item], Found], items: Iterable[Item]) -> list[Found]:
    """What `function` gives for each item, in their order; what it raises is raised here.

    Worth it for what releases Python's lock: reading slides, Zarr, most of NumPy and SciPy.
    """
    with ThreadPoolExecutor(min(MOST, len(os.sched_getaffinity(0)))) as pool:
        return list(pool.map(function, items))
