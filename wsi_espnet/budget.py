"""Memory as arithmetic: what a run needs is added up before it starts. All sizes are in bytes."""

from __future__ import annotations

import ctypes
import re
import sys
from dataclasses import dataclass

from wsi_espnet import machine
from wsi_espnet.errors import BudgetError, UsageError

INTERPRETER_BYTES = 600 << 20
"""Python with torch, Dask and Zarr loaded, the tile cache of OpenSlide (64 MiB) filled; measured, rounded up."""

SHARE_OF_FREE = 0.8
"""Part of the memory that is free at the start that a run takes unless told otherwise."""


MMAP_FROM_BYTES = 5 << 20
"""Blocks from this size on are returned to the system when they are freed.

By default glibc raises this limit to the largest block that was freed, up to 32 MiB, and puts the rest on heaps that
windows of many sizes leave in shreds. It lies just above a band's maps (4 MiB, `inference.maps`), of which a window
needs thousands: below them the system clears each page again and again, and a third of a run went there on a
virtual machine.
"""

HEAPS = 4
"""Heaps that threads share. In a heap of its own a thread's maps fit into the holes that its last ones left; in one
for all, slivers of other threads' work stand in between, and half of what it held was free. glibc's default is eight
per core."""

_MALLOPT = {-3: MMAP_FROM_BYTES, -1: 64 << 20, -8: HEAPS}
"""Of glibc's malloc.h: M_MMAP_THRESHOLD; M_TRIM_THRESHOLD, what may stay free at the end of a heap; M_ARENA_MAX."""

_MALLOPT_KEEP = {-4: 0, -1: 2**31 - 1, -2: 256 << 20}
"""M_MMAP_MAX: all blocks from heaps; M_TRIM_THRESHOLD, as much as it takes; M_TOP_PAD, by how much a heap grows."""

_UNITS = {
    "": 1,
    "k": 10**3,
    "m": 10**6,
    "g": 10**9,
    "t": 10**12,
    "ki": 2**10,
    "mi": 2**20,
    "gi": 2**30,
    "ti": 2**40,
}


@dataclass(frozen=True, slots=True)
class Demand:
    """What the parts of a run need.

    Parameters
    ----------
    network_bytes
        One call of the network.
    window_bytes
        One window on its way in and out of the network.
    waiting_bytes
        Strips and labels of windows that wait for a neighbour.
    fixed_bytes
        What is there once.
    """

    network_bytes: int
    window_bytes: int
    waiting_bytes: int
    fixed_bytes: int

    def total(self, workers: int) -> int:
        """Bytes that `workers` windows at once and one read ahead need."""
        windows = workers * self.network_bytes + (workers + 1) * self.window_bytes
        return INTERPRETER_BYTES + self.fixed_bytes + self.waiting_bytes + windows


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """How many windows are computed at once, on how many threads, and what that needs."""

    workers: int
    threads: int
    needed_bytes: int
    budget_bytes: int


def plan_memory(demand: Demand, *, workers: int | None, budget_bytes: int | None) -> MemoryPlan:
    """How many workers fit into a budget.

    Parameters
    ----------
    demand
        What the run needs.
    workers
        Windows computed at once; None takes one per core, or fewer where memory is short.
    budget_bytes
        What may be used; None takes `SHARE_OF_FREE` of what is free now.

    Raises
    ------
    BudgetError
        The workers that were asked for, or even a single one, do not fit.
    UsageError
        `workers` is below 1.

    Examples
    --------
    >>> demand = Demand(network_bytes=1 << 30, window_bytes=0, waiting_bytes=0, fixed_bytes=0)
    >>> plan_memory(demand, workers=2, budget_bytes=4 << 30).workers
    2
    """
    if workers is not None and workers < 1:
        raise UsageError(f"--workers must be 1 or more, got {workers}")
    budget = int(machine.free_bytes() * SHARE_OF_FREE) if budget_bytes is None else budget_bytes
    wanted = workers or machine.cores()
    fitting = wanted
    if workers is None:
        while fitting > 1 and demand.total(fitting) > budget:
            fitting -= 1
    needed = demand.total(fitting)
    if needed > budget:
        windows = "one window" if fitting == 1 else f"{fitting} windows at once"
        fewer = "" if fitting == 1 else ", fewer --workers"
        raise BudgetError(
            f"the run would need {_gib(needed)} ({windows}, {_gib(demand.network_bytes)} each in the network) and may "
            f"use {_gib(budget)}; use a smaller --window{fewer} or a larger --memory"
        )
    # One thread more than windows in the network: it reads the next window meanwhile.
    return MemoryPlan(workers=fitting, threads=fitting + 1, needed_bytes=needed, budget_bytes=budget)


def size_bytes(text: str) -> int:
    """Bytes of a size such as ``3GiB``, ``3000MB`` or ``3g``.

    Raises
    ------
    UsageError
        It is not a size.

    Examples
    --------
    >>> size_bytes("1.5 GiB"), size_bytes("200MB")
    (1610612736, 200000000)
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?i?)b?\s*", text.lower())
    if found is None or found[2] not in _UNITS:
        raise UsageError(f"a size looks like 3GiB or 3000MB, got {text!r}")
    return int(float(found[1]) * _UNITS[found[2]])


def set_up_malloc() -> None:
    """Say when this process returns freed memory to the system, before it starts threads; for glibc alone."""
    _mallopt(_MALLOPT)


def keep_freed_memory() -> None:
    """Let this process keep what it frees; for glibc alone.

    Training asks for the same sizes in every step. Returned and asked for again, they are cleared page by page: on a
    virtual machine an eighth of a step went there.
    """
    _mallopt(_MALLOPT_KEEP)


def give_back_freed() -> None:
    """Return what lies free inside the heaps to the system; for glibc alone.

    By itself glibc returns what lies free at a heap's end.
    """
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)


def _mallopt(values: dict[int, int]) -> None:
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        for name, value in values.items():
            libc.mallopt(name, value)


def _gib(size: int) -> str:
    return f"{size / (1 << 30):.2f} GiB"
