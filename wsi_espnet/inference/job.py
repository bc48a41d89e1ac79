"""A slide's job: what its tasks are told, and what a process holds open for it."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from wsi_espnet.budget import give_back_freed
from wsi_espnet.geometry import ReadPlan, Region
from wsi_espnet.inference.predictor import Predictor
from wsi_espnet.slides.source import PixelSource
from wsi_espnet.slides.tissue_mask import TissueMask

Index = tuple[int, int]

TIDY_EVERY = 4
"""Calls of the network after which what lies free in the heaps is returned. Windows of many sizes leave them in pieces:
on a slide of 1.6 Gpx the peak is 1.79 GiB so, 1.85 GiB otherwise, for 0.2 % of the time."""

KEPT = 2
"""Jobs without a task of their own that a process keeps open: windows of several slides take turns on a cluster."""


class Sink(Protocol):
    """Where finished cores go; picklable, and safe to call from several threads for different cores."""

    def write(
        self, core: Region, labels: NDArray[np.uint8], probabilities: NDArray[np.uint8] | None
    ) -> NDArray[np.uint8]:
        """Write a core's labels (h, w) and, if it keeps them, probabilities (C, h, w); its labels at half the scale."""
        ...

    def reduce(
        self, level: int, row: int, column: int, below: Mapping[Index, NDArray[np.uint8]]
    ) -> NDArray[np.uint8] | None:
        """Make one shard of a coarser level; its labels at half the scale, None if it was there already.

        `below` holds labels of shards of the finer level, at half their scale, by index; others are read.
        """
        ...

    def note_failure(self, index: Index, core: Region, cause: str) -> None:
        """Remember that a core could not be computed, before anything is written that lacks its word."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Job:
    """Everything that a task needs to know, small enough to be sent to a worker once.

    Parameters
    ----------
    token
        Names the job; resources opened for it are kept under this name.
    open_source, open_predictor
        Picklable; called once per process.
    plan, tissue, sink
        What is read, where the tissue is, where results go.
    blend_px
        Half the width of the strip in which neighbours are averaged; 0 takes each core as it is.
    glass
        Id of px outside the tissue.
    classes
        Number of classes.
    keep_probabilities
        Whether the sink wants them.
    slots
        Windows that one process computes at once.
    """

    token: str
    open_source: Callable[[], PixelSource]
    open_predictor: Callable[[], Predictor]
    plan: ReadPlan
    tissue: TissueMask
    sink: Sink
    blend_px: int
    glass: int
    classes: int
    keep_probabilities: bool
    slots: int


@dataclass(slots=True)
class Resources:
    """What a process holds open for a job."""

    job: Job
    lock: threading.Lock = field(default_factory=threading.Lock)
    source: PixelSource | None = None
    predictor: Predictor | None = None
    users: int = 0
    calls: int = 0
    slots: threading.Semaphore = field(init=False)

    def __post_init__(self) -> None:
        self.slots = threading.Semaphore(self.job.slots)

    def get_source(self) -> PixelSource:
        """The slide, opened by the first who asks."""
        with self.lock:
            if self.source is None:
                self.source = self.job.open_source()
            return self.source

    def get_predictor(self) -> Predictor:
        """The network, opened by the first who asks."""
        with self.lock:
            if self.predictor is None:
                self.predictor = self.job.open_predictor()
            return self.predictor

    def tidy(self) -> None:
        """Called after each call of the network."""
        with self.lock:
            self.calls += 1
            is_due = self.calls % TIDY_EVERY == 0
        if is_due:
            give_back_freed()

    def close(self) -> None:
        """Close the slide and let the network go; who asks again opens them again."""
        with self.lock:
            if self.source is not None:
                self.source.close()
            self.source = self.predictor = None


_open: dict[str, Resources] = {}
_open_lock = threading.Lock()


def prepare(job: Job) -> Predictor:
    """Open slide and network in this process, ahead of the first task."""
    with opened(job) as resources:
        resources.get_source()
        return resources.get_predictor()


def release(job: Job) -> None:
    """Close what this process holds open for a job."""
    with _open_lock:
        resources = _open.pop(job.token, None)
    if resources is not None:
        resources.close()


@contextlib.contextmanager
def opened(job: Job) -> Iterator[Resources]:
    """What is open for a job, kept open while the block runs."""
    with _open_lock:
        resources = _open.pop(job.token, None) or Resources(job)
        _open[job.token] = resources  # at the end: the order of this mapping is that of the last use
        resources.users += 1
        idle = [token for token, r in _open.items() if r.users == 0]
        # A worker of a long-lived cluster serves one job after another: what came long before is let go.
        forgotten = [_open.pop(token) for token in idle[:-KEPT]]
    for old in forgotten:
        old.close()
    try:
        yield resources
    finally:
        with _open_lock:
            resources.users -= 1
