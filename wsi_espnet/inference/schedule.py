"""The work of one slide as a Dask graph: windows, strips, cores, pyramid.

    ("window", r, c) --+--> ("own", r, c) ------------------+
                       +--> ("strip", r, c -> neighbour) --> ("core", r, c) --> ("level", 1, r/2, c/2) --> ...

A window is read and computed once. Each core has one owner that gathers what its neighbours say about it, and
writes it; nothing is locked and nothing depends on the order. Tasks carry paths and regions, never px of the slide.
The same graph runs on the threads of this process or on a `distributed` cluster.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import dask
import dask.threaded
import numpy as np
from dask.callbacks import Callback
from numpy.typing import NDArray

from wsi_espnet.errors import SlideReadError, UsageError
from wsi_espnet.geometry import ReadPlan, Region
from wsi_espnet.grid import Span, Window
from wsi_espnet.inference.predictor import Predictor
from wsi_espnet.inference.stitch import Own, Piece, Strip, blend, split
from wsi_espnet.slides.source import PixelSource
from wsi_espnet.slides.tissue_mask import TissueMask

Index = tuple[int, int]
Graph = dict[Any, Any]

RETRIES = 2
"""Further attempts at a window that cannot be read, each with the slide opened anew, before it is given up."""


class Sink(Protocol):
    """Where finished cores go; picklable, and safe to call from several threads for different cores."""

    def write(self, core: Region, labels: NDArray[np.uint8], probabilities: NDArray[np.uint8] | None) -> None:
        """Write a core's labels (h, w) and, if it keeps them, probabilities (C, h, w)."""
        ...

    def reduce(self, level: int, row: int, column: int) -> None:
        """Make one shard of a coarser level."""
        ...


@dataclass(frozen=True, slots=True)
class Failure:
    """A window that could not be read: its index on the grid, its core in plan px, and why."""

    index: Index
    core: Region
    cause: str


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

    def close(self) -> None:
        with self.lock:
            if self.source is not None:
                self.source.close()
            self.source = self.predictor = None


_open: dict[str, _Resources] = {}
_open_lock = threading.Lock()


def prepare(job: Job) -> Predictor:
    """Open slide and network in this process, ahead of the first task."""
    resources = _resources(job)
    resources.get_source()
    return resources.get_predictor()


def release(job: Job) -> None:
    """Close what this process holds open for a job."""
    with _open_lock:
        resources = _open.pop(job.token, None)
    if resources is not None:
        resources.close()


def _resources(job: Job) -> _Resources:
    with _open_lock:
        if job.token not in _open:
            # A worker of a long-lived cluster serves one job after another: what came before is let go.
            for token in list(_open):
                _open.pop(token).close()
            _open[job.token] = _Resources(job)
        return _open[job.token]


def build_graph(
    job: Job,
    windows: Mapping[Index, Window],
    todo: Sequence[Index],
    *,
    batch: int,
    level_shapes: Sequence[tuple[int, int]],
) -> tuple[Graph, list[Any], list[Any]]:
    """The graph that finishes the cores in `todo` and the pyramid above them.

    Parameters
    ----------
    job
        What tasks are told.
    windows
        All windows with work, by index; neighbours of `todo` are computed again where they are finished already.
    todo
        Cores to finish.
    batch
        Windows per call of the network.
    level_shapes
        (rows, columns) of shards on every level of the pyramid.

    Returns
    -------
    tuple
        Graph; keys of the cores; keys at the top of the pyramid.
    """
    graph: Graph = {"job": job}
    meets = {index: _neighbours(index, windows) if job.blend_px else {} for index in windows}
    needed = sorted({n for index in todo for n in (index, *meets[index])})
    for group in _groups(needed, windows, batch):
        key = ("windows", *group[0])
        graph[key] = (_compute, "job", tuple(windows[i] for i in group), tuple(meets[i] for i in group))
        for place, index in enumerate(group):
            graph[("window", *index)] = (_item, key, place)
    for index in todo:
        graph[("own", *index)] = (_own, ("window", *index))
        for other in meets[index]:
            graph[("strip", *other, *index)] = (_strip, ("window", *other), index)
        strips = [("strip", *other, *index) for other in sorted(meets[index])]
        others = tuple(windows[other] for other in sorted(meets[index]))
        graph[("core", *index)] = (_finish, "job", windows[index], others, ("own", *index), strips)
    top = _add_levels(graph, todo, level_shapes)
    return graph, [("core", *index) for index in todo], top


def run_threads(graph: Graph, keys: Sequence[Any], *, threads: int, on_core: Callable[[], None]) -> list[Any]:
    """Run on threads of this process; `on_core` is called after each finished core, in the caller's thread."""

    def posttask(key: Any, *_: Any) -> None:
        if isinstance(key, tuple) and key[0] == "core":
            on_core()

    with Callback(posttask=posttask):
        return list(dask.threaded.get(graph, list(keys), num_workers=threads))


def run_cluster(graph: Graph, keys: Sequence[Any], *, address: str, on_core: Callable[[], None]) -> list[Any]:
    """Run on the `distributed` scheduler at `address`; lost workers' tasks are computed again elsewhere.

    Raises
    ------
    UsageError
        Nobody answers at the address.
    """
    from distributed import Client, as_completed

    try:
        client = Client(address, timeout="20s", set_as_default=False)
    except (OSError, ValueError) as exc:
        raise UsageError(f"no Dask scheduler answers at {address}: {exc}; start one with `dask scheduler`") from exc
    with client:
        futures = client.get(graph, list(keys), sync=False, retries=RETRIES)
        for future in as_completed([f for f, key in zip(futures, keys, strict=True) if key[0] == "core"]):
            if future.status == "finished":
                on_core()
        return list(client.gather(futures))


def _groups(needed: Sequence[Index], windows: Mapping[Index, Window], batch: int) -> list[list[Index]]:
    """Windows that go through the network together: of one size, in the order of the grid."""
    if batch == 1:
        return [[index] for index in needed]
    groups: dict[tuple[int, int], list[list[Index]]] = {}
    for index in needed:
        rows, columns = windows[index].read
        same = groups.setdefault((rows.length, columns.length), [[]])
        if len(same[-1]) == batch:
            same.append([])
        same[-1].append(index)
    return [group for same in groups.values() for group in same]


def _neighbours(index: Index, windows: Mapping[Index, Window]) -> dict[Index, Window]:
    """Computed windows whose reach meets this window's box, or whose box it reaches."""
    found = {}
    for row in range(index[0] - 1, index[0] + 2):
        for column in range(index[1] - 1, index[1] + 2):
            other = windows.get((row, column))
            if other is not None and (row, column) != index:
                found[row, column] = other
    return found


def _add_levels(graph: Graph, todo: Sequence[Index], level_shapes: Sequence[tuple[int, int]]) -> list[Any]:
    children: dict[Index, Any] = {index: ("core", *index) for index in todo}
    for level in range(1, len(level_shapes)):
        parents: dict[Index, list[Any]] = {}
        for (row, column), key in children.items():
            parents.setdefault((row // 2, column // 2), []).append(key)
        for (row, column), keys in parents.items():
            graph[("level", level, row, column)] = (_reduce, "job", level, row, column, keys)
        children = {index: ("level", level, *index) for index in parents}
    return list(children.values()) if len(level_shapes) > 1 else []


# Tasks. Each runs on a worker, with the job as its first argument.


def _compute(
    job: Job, windows: tuple[Window, ...], meets: tuple[dict[Index, Window], ...]
) -> list[tuple[Own, dict[Index, Piece]] | Failure]:
    """Read and segment windows of one size; a window that cannot be read becomes a Failure."""
    resources = _resources(job)
    read = [_read(job, resources, window) for window in windows]
    good = [px for px in read if not isinstance(px, Failure)]
    if good:
        predictor = resources.get_predictor()
        with resources.slots:
            prediction = predictor.predict(np.stack(good))
    results: list[tuple[Own, dict[Index, Piece]] | Failure] = []
    place = 0
    for window, px, near in zip(windows, read, meets, strict=True):
        if isinstance(px, Failure):
            results.append(px)
            continue
        labels, probabilities = prediction.labels[place], prediction.probabilities[place]
        place += 1
        results.append(
            split(window, near, labels, probabilities, blend_px=job.blend_px, keep_all=job.keep_probabilities)
        )
    return results


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
    (y0, y1), (x0, x1) = ((max(0, s.start), min(n, s.stop)) for s, n in zip(read, plan.shape, strict=True))
    px = source.read(plan, Region(y0, x0, y1 - y0, x1 - x0))
    before = y0 - read[0].start, x0 - read[1].start
    after = read[0].stop - y1, read[1].stop - x1
    if not any((*before, *after)):
        return px
    return np.pad(px, ((before[0], after[0]), (before[1], after[1]), (0, 0)), mode="symmetric")


def _item(results: list[Any], place: int) -> Any:
    return results[place]


def _own(result: tuple[Own, dict[Index, Piece]] | Failure) -> Own | Failure:
    return result if isinstance(result, Failure) else result[0]


def _strip(result: tuple[Own, dict[Index, Piece]] | Failure, index: Index) -> Piece | None:
    """What a window says about its neighbour at `index`; None where it does not reach it or failed."""
    return None if isinstance(result, Failure) else result[1].get(index)


def _finish(
    job: Job, window: Window, others: tuple[Window, ...], own: Own | Failure, pieces: list[Piece | None]
) -> Failure | None:
    """Blend, put glass outside the tissue, write."""
    if isinstance(own, Failure):
        return own
    strips = [Strip(other, piece) for other, piece in zip(others, pieces, strict=True) if piece is not None]
    labels, probabilities = blend(
        window, own, strips, blend_px=job.blend_px, classes=job.classes, keep_all=job.keep_probabilities
    )
    rows, columns = (
        slice(window.box.y - window.core.y, window.box.y - window.core.y + window.box.h),
        slice(window.box.x - window.core.x, window.box.x - window.core.x + window.box.w),
    )
    full = np.full(window.core.shape, job.glass, np.uint8)
    full[rows, columns] = np.where(job.tissue.sample(window.box), labels, np.uint8(job.glass))
    kept = None
    if probabilities is not None:
        kept = np.zeros((job.classes, *window.core.shape), np.uint8)
        kept[:, rows, columns] = probabilities
    job.sink.write(window.core, full, kept)
    return None


def _reduce(job: Job, level: int, row: int, column: int, _children: list[Any]) -> None:
    job.sink.reduce(level, row, column)
