"""What the tasks of a slide do, and what a process holds open for them."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from wsi_espnet.budget import give_back_freed
from wsi_espnet.errors import SlideReadError
from wsi_espnet.geometry import ReadPlan, Region
from wsi_espnet.grid import Span, Window, within
from wsi_espnet.inference.columns import wanted_columns
from wsi_espnet.inference.predictor import Predictor
from wsi_espnet.inference.stitch import Own, Packed, Piece, Strip, blend, split
from wsi_espnet.scores import count_ids
from wsi_espnet.slides.source import PixelSource
from wsi_espnet.slides.tissue_mask import TissueMask

Index = tuple[int, int]

TIDY_EVERY = 4
"""Calls of the network after which what lies free in the heaps is returned. Windows of many sizes leave them in pieces:
on a slide of 1.6 Gpx the peak is 1.79 GiB so, 1.85 GiB otherwise, for 0.2 % of the time."""

RETRIES = 2
"""Further attempts at a window that cannot be read, each with the slide opened anew, before it is given up."""

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


@dataclass(frozen=True, slots=True)
class Failure:
    """A window that could not be read: its index on the grid, its core in plan px, and why."""

    index: Index
    core: Region
    cause: str


@dataclass(frozen=True, slots=True)
class Written:
    """A core that is written.

    Parameters
    ----------
    counts
        Px of the tissue in each class.
    half
        Labels at half the scale, for the pyramid.
    """

    counts: tuple[int, ...]
    half: Packed


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
class _Resources:
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
        with self.lock:
            if self.source is None:
                self.source = self.job.open_source()
            return self.source

    def get_predictor(self) -> Predictor:
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
        with self.lock:
            if self.source is not None:
                self.source.close()
            self.source = self.predictor = None


_open: dict[str, _Resources] = {}
_open_lock = threading.Lock()


def prepare(job: Job) -> Predictor:
    """Open slide and network in this process, ahead of the first task."""
    with _resources(job) as resources:
        resources.get_source()
        return resources.get_predictor()


def release(job: Job) -> None:
    """Close what this process holds open for a job."""
    with _open_lock:
        resources = _open.pop(job.token, None)
    if resources is not None:
        resources.close()


@contextlib.contextmanager
def _resources(job: Job) -> Iterator[_Resources]:
    """What is open for a job, kept open while the block runs."""
    with _open_lock:
        resources = _open.pop(job.token, None) or _Resources(job)
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


def compute(
    job: Job, windows: tuple[Window, ...], meets: tuple[dict[Index, Window], ...]
) -> list[tuple[Own, dict[Index, Piece]] | Failure]:
    """Read and segment windows of one size; a window that cannot be read becomes a Failure."""
    return predict(job, windows, meets, read(job, windows))


def read(job: Job, windows: tuple[Window, ...]) -> list[NDArray[np.uint8] | Failure]:
    """Px of windows, (h, w, 3) uint8 each; a window that cannot be read becomes a Failure."""
    with _resources(job) as resources:
        return [_read(job, resources, window) for window in windows]


def predict(
    job: Job,
    windows: tuple[Window, ...],
    meets: tuple[dict[Index, Window], ...],
    read: list[NDArray[np.uint8] | Failure],
) -> list[tuple[Own, dict[Index, Piece]] | Failure]:
    """Segment windows of one size that have been read; a Failure stays one."""
    with _resources(job) as resources:
        if all(isinstance(px, Failure) for px in read):
            return [px for px in read if isinstance(px, Failure)]
        # Failed windows keep their place: a batch of another size might round differently.
        batch = [_blank(w) if isinstance(px, Failure) else px for w, px in zip(windows, read, strict=True)]
        columns = [wanted_columns(window, job.tissue) for window in windows]
        predictor = resources.get_predictor()
        with resources.slots:
            said = predictor.predict(batch[0][None] if len(batch) == 1 else np.stack(batch), columns)
        resources.tidy()
    return [
        px
        if isinstance(px, Failure)
        else split(window, near, labels, probabilities, blend_px=job.blend_px, keep_all=job.keep_probabilities)
        for window, near, px, labels, probabilities in zip(windows, meets, read, *said, strict=True)
    ]


def _blank(window: Window) -> NDArray[np.uint8]:
    return np.zeros((window.read[0].length, window.read[1].length, 3), np.uint8)


def _read(job: Job, resources: _Resources, window: Window) -> NDArray[np.uint8] | Failure:
    for attempt in range(1 + RETRIES):
        try:
            return read_window(resources.get_source(), job.plan, window.read)
        except SlideReadError as exc:
            if attempt == RETRIES:
                return Failure(window.index, window.core, str(exc))
    raise AssertionError("unreachable")


def read_window(source: PixelSource, plan: ReadPlan, read: tuple[Span, Span]) -> NDArray[np.uint8]:
    """Px of a window, mirrored where it leaves the image: uint8 (h, w, 3).

    Raises
    ------
    SlideReadError
        A part of it cannot be read.
    """
    region, beyond = within(read, plan.shape)
    px = source.read(plan, region)
    return np.pad(px, (*beyond, (0, 0)), mode="symmetric") if np.any(beyond) else px


def item(results: list[Any], place: int) -> Any:
    """One window's result out of a group's."""
    return results[place]


def own(result: tuple[Own, dict[Index, Piece]] | Failure) -> Own | Failure:
    """What a window keeps for itself."""
    return result if isinstance(result, Failure) else result[0]


def strip(result: tuple[Own, dict[Index, Piece]] | Failure, index: Index) -> Piece | Failure | None:
    """What a window says about its neighbour at `index`; None where it does not reach it."""
    return result if isinstance(result, Failure) else result[1].get(index)


def finish(
    job: Job,
    window: Window,
    others: tuple[Window, ...],
    own: Own | Failure,
    pieces: list[Piece | Failure | None],
) -> Written | Failure:
    """Blend, put glass outside the tissue and no probability of anything, write.

    Failures are noted first, so that a resume knows what lacks them.
    """
    for failure in (own, *pieces):
        if isinstance(failure, Failure):
            job.sink.note_failure(failure.index, failure.core, failure.cause)
    if isinstance(own, Failure):
        return own
    strips = [Strip(other, piece) for other, piece in zip(others, pieces, strict=True) if isinstance(piece, Piece)]
    labels, probabilities = blend(
        window, own, strips, blend_px=job.blend_px, classes=job.classes, keep_all=job.keep_probabilities
    )
    rows, columns = (
        slice(window.box.y - window.core.y, window.box.y - window.core.y + window.box.h),
        slice(window.box.x - window.core.x, window.box.x - window.core.x + window.box.w),
    )
    full = np.full(window.core.shape, job.glass, np.uint8)
    inside = job.tissue.sample(window.box)
    full[rows, columns] = np.where(inside, labels, np.uint8(job.glass))
    kept = None
    if probabilities is not None:
        kept = np.zeros((job.classes, *window.core.shape), np.uint8)
        kept[:, rows, columns] = np.where(inside, probabilities, np.uint8(0))
    half = job.sink.write(window.core, full, kept)
    counted = job.tissue.counted(window.box, labels, glass=job.glass)
    return Written(tuple(count_ids(labels, counted, job.classes)[: job.classes].tolist()), Packed.of(half))


def counts(written: Written | Failure) -> tuple[int, ...] | Failure:
    """What a run remembers of a core: px of the tissue in each class."""
    return written if isinstance(written, Failure) else written.counts


def reduce(
    job: Job,
    level: int,
    row: int,
    column: int,
    places: Sequence[Index],
    below: Sequence[Written | Failure | Packed | None],
) -> Packed | None:
    """Make one shard of the pyramid, once everything below it is there; its own half, for the next."""
    halves = [part.half if isinstance(part, Written) else part for part in below]
    known = {place: half.array() for place, half in zip(places, halves, strict=True) if isinstance(half, Packed)}
    half = job.sink.reduce(level, row, column, known)
    return None if half is None else Packed.of(half)
