"""A batch: what a second worker gains, and for what share of their time workers wait for their next task."""

from __future__ import annotations

import logging
import shutil
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from distributed import Client, LocalCluster

from wsi_espnet.batch import batch
from wsi_espnet.bench.report import Check, Report
from wsi_espnet.bench.settings import MODEL, Settings
from wsi_espnet.cohort.settings import BatchConfig, ClusterOptions, SegmentOptions

SIDE_PX, QUICK_SIDE_PX = 6144, 3072
SLIDES = 6
GAIN, OVERHEAD = 1.7, 0.03

log = logging.getLogger(__name__)


def run(settings: Settings) -> Report:
    """Run the same slides with one worker process, with two, and with one of two threads."""
    side = QUICK_SIDE_PX if settings.quick else SIDE_PX
    folder = _slides(settings.slide(side, side).path, settings.out / "batch")
    shapes = {"1 process": (1, 1), "2 processes": (2, 1), "1 process of 2 threads": (1, 2)}
    found = {name: measure(folder, settings.out / "batch" / "out", *shape) for name, shape in shapes.items()}
    gain = found["1 process"]["seconds"] / found["2 processes"]["seconds"]
    overhead = found["2 processes"]["between_tasks"]
    rows = [
        (
            name,
            f"{f['seconds']:.1f} s",
            f"{f['mpx'] / f['seconds']:.2f}",
            f"{f['between_tasks']:.1%}",
            f"{f['ends']:.1%}",
            str(f["tasks"]),
        )
        for name, f in found.items()
    ]
    return Report(
        name="batch",
        title=f"{SLIDES} slides of {side} x {side} px, network in bands",
        columns=("workers", "time", "Mpx/s", "between tasks", "ends", "tasks"),
        rows=rows,
        checks=(
            Check("2 processes, relative to 1", f">= {GAIN} x", f"{gain:.2f} x", gain >= GAIN),
            Check("time between tasks, 2 processes", f"< {OVERHEAD:.0%}", f"{overhead:.1%}", overhead < OVERHEAD),
        ),
        facts={"slides": SLIDES, "side_px": side, "runs": found},
        notes=(
            "time: from the first task's start to the last one's end; starting the processes is not counted.",
            "between tasks: of threads x time, while all threads compute windows: scheduling, transfers, waiting.",
            "ends: of the same, before every thread has a window to compute, and after one has no more.",
        ),
    )


def measure(slides: Path, out: Path, processes: int, threads: int) -> dict[str, Any]:
    """Run a batch on a fresh cluster; time, Mpx, and the shares of the threads' time that no task took."""
    log.info("batch: %d processes of %d threads", processes, threads)
    shutil.rmtree(out, ignore_errors=True)
    with (
        LocalCluster(
            n_workers=processes,
            threads_per_worker=threads,
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",
            memory_limit=0,
            silence_logs=logging.CRITICAL,
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        client.run(_import)
        client.get_task_stream()  # from its first call on, tasks are remembered
        config = BatchConfig(
            segment=SegmentOptions(model=MODEL, device="cpu"),
            cluster=ClusterOptions(scheduler=cluster.scheduler_address),
        )
        done = batch([slides], out, config=config)
        tasks = client.get_task_stream()
    return {
        "mpx": sum(row.mpx for row in done.rows),
        "tasks": len(tasks),
        "states": sorted({row.state for row in done.rows}),
        **shares(tasks),
    }


def shares(tasks: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Seconds of the run, and the parts of the threads' time in it that no task took, from Dask's task stream.

    The run is filling up until every thread has begun a window, and draining from when the first has ended its last:
    then a thread has nothing to do, however fast the scheduler is. In between, what no task takes is overhead.
    """
    spans: dict[tuple[str, int], list[tuple[float, float]]] = defaultdict(list)
    windows: dict[tuple[str, int], list[tuple[float, float]]] = defaultdict(list)
    for task in tasks:
        of = task["worker"], task["thread"]
        computed = [(s["start"], s["stop"]) for s in task["startstops"] if s["action"] == "compute"]
        spans[of] += computed
        if task["key"][0] == "windows":
            windows[of] += computed
    everything = [span for thread in spans.values() for span in thread]
    begin, end = min(start for start, _ in everything), max(stop for _, stop in everything)
    full = max(min(start for start, _ in thread) for thread in windows.values())
    drain = min(max(stop for _, stop in thread) for thread in windows.values())
    threads = len(windows)

    def idle(start: float, stop: float) -> float:
        busy = sum(max(0.0, min(b, stop) - max(a, start)) for a, b in everything)
        return (threads * (stop - start) - busy) / (threads * (end - begin))

    return {"seconds": end - begin, "between_tasks": idle(full, drain), "ends": idle(begin, full) + idle(drain, end)}


def _import() -> None:
    import wsi_espnet.batch_work
    import wsi_espnet.inference.torch_backend  # noqa: F401  torch takes seconds


def _slides(slide: Path, folder: Path) -> Path:
    made = folder / f"slides-{slide.stem}"
    made.mkdir(parents=True, exist_ok=True)
    for number in range(SLIDES):
        copy = made / f"s{number}{slide.suffix}"
        if not copy.exists():
            shutil.copy(slide, copy)
    return made
