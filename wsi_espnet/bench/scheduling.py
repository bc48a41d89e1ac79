"""Scheduling: what Dask's scheduler costs per task, with the graphs of very large slides and no work in them."""

from __future__ import annotations

import time
from typing import Any

import psutil
from distributed import Client, Future, LocalCluster, as_completed

from wsi_espnet.bench.report import Report
from wsi_espnet.bench.settings import Settings
from wsi_espnet.grid import Grid
from wsi_espnet.inference import schedule
from wsi_espnet.inference.schedule import Graph
from wsi_espnet.ngff import pyramid_shapes

SIDE_PX = 100_000
"""Slides of 10 Gpx."""

TISSUE = 0.35
"""Part of each that is tissue: the upper rows of its grid."""

TASKS, QUICK_TASKS = 200_000, 10_000
WORKERS, THREADS = 1, 32
NAP_S = 0.05
"""What a window takes here: about that of a GPU that computes 170 Mpx/s."""


def run(settings: Settings) -> Report:
    """Run slides without px through a cluster on loopback, several in flight, until enough tasks are done."""
    found = simulate(QUICK_TASKS if settings.quick else TASKS)
    per_task = found["cpu_seconds"] / found["tasks"]
    per_window = found["cpu_seconds"] / found["windows"]
    rows = [
        ("slides of 10 Gpx, windows, tasks", f"{found['slides']}, {found['windows']}, {found['tasks']}"),
        ("wall time", f"{found['seconds']:.0f} s, {found['tasks'] / found['seconds']:.0f} tasks/s"),
        ("processor time of scheduler and client", f"{1e3 * per_task:.2f} ms/task, {1e3 * per_window:.1f} ms/window"),
        ("windows/s that one scheduler can serve", f"{1 / per_window:.0f}"),
        ("memory of scheduler and client", " -> ".join(f"{b / (1 << 20):.0f} MiB" for b in found["memory_bytes"])),
    ]
    return Report(
        name="scheduling",
        title="Dask's scheduler on the graphs of 10 Gpx slides, without their px",
        columns=("", "found"),
        rows=rows,
        checks=(),
        facts=found,
        notes=(
            f"each window naps for {NAP_S} s on one of {WORKERS * THREADS} threads; all other tasks do nothing.",
            "memory: after each tenth of the slides.",
        ),
    )


def simulate(tasks: int) -> dict[str, Any]:
    """Slides in a row, two in flight, until `tasks` tasks are done; what that took."""
    process = psutil.Process()
    slide = hollow_slide("0")
    slides = max(2, -(-tasks // (len(slide.tasks) + 1)))
    memory: list[int] = []
    with (
        LocalCluster(
            n_workers=WORKERS, threads_per_worker=THREADS, host="127.0.0.1", dashboard_address="127.0.0.1:0"
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        before, started = process.cpu_times(), time.monotonic()
        flying: list[Any] = []
        for number in range(slides):
            slide = hollow_slide(str(number))
            _, last = schedule.submit(
                slide, client, then=_nothing, arguments=(), priority=-number, network_resources={}
            )
            flying.append(last)
            if len(flying) == 2:
                _await(flying.pop(0), client)
            if number % max(1, slides // 10) == 0:
                memory.append(process.memory_info().rss)
        for last in flying:
            _await(last, client)
        after, stopped = process.cpu_times(), time.monotonic()
    return {
        "slides": slides,
        "windows": slides * len(slide.cores),
        "tasks": slides * (len(slide.tasks) + 1),
        "seconds": stopped - started,
        "cpu_seconds": after.user + after.system - before.user - before.system,
        "memory_bytes": memory,
    }


def _await(last: Future[Any], client: Client) -> None:
    for ended in as_completed([last], loop=client.loop):
        ended.result()


def hollow_slide(token: str) -> Graph:
    """The graph of a slide with the default windows, whose tasks wait for each other and do nothing else."""
    from wsi_espnet.geometry import Region

    grid = Grid(shape=(SIDE_PX, SIDE_PX), core_px=2560, halo_px=192, blend_px=96)
    windows = {w.index: w for w in grid.windows(lambda core: core if core.y < TISSUE * SIDE_PX else None)}
    assert all(isinstance(w.core, Region) for w in windows.values())
    shapes = [(-(-h // grid.core_px), -(-w // grid.core_px)) for h, w in pyramid_shapes(grid.shape)]
    job: Any = _Named(token)
    graph = schedule.build_graph(job, windows, list(windows), batch=1, level_shapes=shapes)
    hollow = {
        key: task if not isinstance(task, tuple) else (_work(key), *_keys(task, graph.tasks))
        for key, task in graph.tasks.items()
    }
    return Graph(hollow, graph.cores, graph.top, graph.network)


class _Named:
    """What `build_graph` asks of a job."""

    def __init__(self, token: str) -> None:
        self.token = f"{token}_hollow"
        self.blend_px = 96


def _work(key: Any) -> Any:
    return _nap if key[0] == "windows" else _nothing


def _keys(task: Any, known: dict[Any, Any]) -> list[Any]:
    """The keys that a task waits for."""
    found = []
    for part in task:
        if isinstance(part, list):
            found += _keys(part, known)
        elif isinstance(part, str | tuple) and _hashable(part) and part in known:
            found.append(part)
    return found


def _hashable(part: Any) -> bool:
    return isinstance(part, str) or all(isinstance(p, str | int) for p in part)


def _nap(*_: Any) -> None:
    time.sleep(NAP_S)


def _nothing(*_: Any) -> None:
    pass
