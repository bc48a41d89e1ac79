"""What a batch would do, and what it would take: every slide is opened and planned, nothing is computed or written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

from wsi_espnet.batch_request import options_of, request_keys, select
from wsi_espnet.batch_work import Machine, plan_slide
from wsi_espnet.budget import size_bytes
from wsi_espnet.cohort import clusters
from wsi_espnet.cohort.folder import BatchFolder, Shard
from wsi_espnet.cohort.manifest import Entry, read_entries
from wsi_espnet.cohort.settings import BatchConfig, SegmentOptions
from wsi_espnet.errors import WsiEspnetError
from wsi_espnet.machine import cores
from wsi_espnet.slides.source import open_source

MPX_PER_S = 1.5
"""Mpx/s of one CPU core, halos included, where nothing was measured in this folder yet: fp32 on a core with AVX2 has
2.1; bf16 on one that multiplies it up to 9 (docs/benchmarks.md). A GPU is many times faster."""

BYTES_PER_PX = 0.03
"""Disk per px of tissue: masks of glands with their pyramid, compressed; probabilities take about 20 times that."""

RESULT_BYTES = 3 << 20
"""Disk per slide whatever its size: overview and picture."""


@dataclass(frozen=True, slots=True)
class PlannedSlide:
    """A slide as it would be computed, or why it would not be.

    Parameters
    ----------
    name
        Of its result.
    level, mpp
        From which level it would be read, and um per px given to the network.
    windows, mpx
        Windows with tissue, and millions of px that the network would compute.
    memory_bytes
        What the process that computes it needs.
    disk_bytes
        What the result takes, about.
    note
        ``done``, or what is wrong.
    """

    name: str
    level: int | None = None
    mpp: float | None = None
    windows: int | None = None
    mpx: float | None = None
    memory_bytes: int = 0
    disk_bytes: int = 0
    note: str = ""


@dataclass(frozen=True, slots=True)
class BatchPlan:
    """What a batch would do.

    Parameters
    ----------
    slides
        All that were planned.
    processes, threads
        Workers, and windows that each computes at once.
    mpx_per_s, measured
        Speed of one thread, and whether it was measured on slides of this folder.
    """

    slides: tuple[PlannedSlide, ...]
    processes: int
    threads: int
    mpx_per_s: float
    measured: bool

    @property
    def mpx(self) -> float:
        """Millions of px that the network would compute."""
        return sum(slide.mpx or 0 for slide in self.slides)

    @property
    def seconds(self) -> float:
        """How long that takes, about."""
        return self.mpx / (self.mpx_per_s * self.processes * self.threads)

    @property
    def memory_bytes(self) -> int:
        """What all processes need at once, at most."""
        return self.processes * max((slide.memory_bytes for slide in self.slides), default=0)

    @property
    def disk_bytes(self) -> int:
        """What all results take, about."""
        return sum(slide.disk_bytes for slide in self.slides)

    def sentences(self) -> list[str]:
        """The sums, in words."""
        todo = sum(slide.windows is not None for slide in self.slides)
        source = "as measured in this folder" if self.measured else "assumed; a run with --limit 3 measures it"
        at_once = f"{self.processes} x {self.threads} windows at once, {self.mpx_per_s:.1f} Mpx/s each ({source})"
        return [
            f"{todo} slides to do of {len(self.slides)}, {self.mpx:.0f} Mpx in the network",
            f"about {_time(self.seconds)} with {at_once}",
            f"at most {self.memory_bytes / (1 << 30):.1f} GiB of memory, about {self.disk_bytes / 1e9:.2f} GB on disk",
        ]

    def as_json(self) -> dict[str, Any]:
        """All of it, JSON-able."""
        sums = ("mpx", "seconds", "memory_bytes", "disk_bytes")
        return {**asdict(self), **{name: getattr(self, name) for name in sums}}


def plan_batch(
    config: BatchConfig,
    *,
    shard: tuple[int, int] | None,
    limit: int | None,
    progress: Callable[[int, int], None],
) -> BatchPlan:
    """Plan every slide that is not done; takes about a second per slide and core, most of it to find the tissue.

    Raises
    ------
    UsageError, ModelError
        The batch as a whole cannot run.
    """
    assert config.out is not None
    folder = BatchFolder(config.out.absolute(), None if shard is None else Shard(*shard))
    entries = select(read_entries(config.slides), folder.shard)
    keys = request_keys(entries, config.segment)
    known = {row.name: row for row in folder.read()} if folder.ledgers() else {}
    done = {
        entry.name
        for entry, key in zip(entries, keys, strict=True)
        if entry.name in known and known[entry.name].state == "done" and known[entry.name].key == key
    }
    todo = [entry for entry in entries if entry.name not in done][:limit]
    processes, threads, machine = _machine(config)
    planned = {name: PlannedSlide(name, note="done") for name in done}
    with ThreadPoolExecutor(cores()) as pool:
        found = pool.map(lambda entry: _plan(entry, config.segment, machine), todo)
        for number, slide in enumerate(found, start=1):
            planned[slide.name] = slide
            progress(number, len(todo))
    speed = _measured(
        [row.mpx / row.seconds for row in known.values() if row.state == "done" and row.mpx and row.seconds]
    )
    return BatchPlan(
        slides=tuple(planned[entry.name] for entry in entries if entry.name in planned),
        processes=processes,
        threads=threads,
        mpx_per_s=speed or MPX_PER_S,
        measured=speed is not None,
    )


def _plan(entry: Entry, options: SegmentOptions, machine: Machine) -> PlannedSlide:
    own = options_of(entry, options)
    try:
        with open_source(entry.slide, mpp=own.slide_mpp) as source:
            setup = plan_slide(source, own, machine)
    except WsiEspnetError as exc:
        return PlannedSlide(entry.name, note=str(exc))
    tissue_px = sum(window.core.area for window in setup.windows.values())
    per_px = BYTES_PER_PX * (20 if own.probabilities else 1)
    return PlannedSlide(
        name=entry.name,
        level=setup.plan.level.index,
        mpp=setup.plan.mpp[1],
        windows=len(setup.windows),
        mpx=sum(window.work_px for window in setup.windows.values()) / 1e6,
        memory_bytes=setup.memory.needed_bytes,
        disk_bytes=int(tissue_px * per_px) + RESULT_BYTES,
    )


def _machine(config: BatchConfig) -> tuple[int, int, Machine]:
    """Processes, threads and what a worker is, as far as that is known without starting one."""
    options = config.cluster
    given = None if options.memory is None else size_bytes(options.memory)
    if options.kind == "local" or options.scheduler is not None:
        free = clusters.local_bytes(given)
        processes, threads = clusters.local_shape(options, cores=cores(), free_bytes=free, gpus=0)
        each = free // processes
    else:
        assert options.workers is not None
        assert options.threads is not None
        assert given is not None
        processes, threads = options.workers * options.processes, options.threads
        each = given // options.processes
    return processes, threads, Machine("cpu", config.segment.precision, threads, each)


def _measured(speeds: Sequence[float]) -> float | None:
    """The median: a slide's time is wall time, in which it shared the workers with its neighbours."""
    return sorted(speeds)[len(speeds) // 2] if speeds else None


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
