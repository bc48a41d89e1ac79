"""Segment many slides, on this machine or a cluster: begun, cut short, gone on with, until all have been tried."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wsi_espnet.batch_notes import BatchProgress, Notes
from wsi_espnet.batch_request import options_of, request_keys, select
from wsi_espnet.batch_task import Task
from wsi_espnet.batch_work import Machine, Order, probe
from wsi_espnet.budget import size_bytes
from wsi_espnet.cohort import clusters
from wsi_espnet.cohort.folder import BatchFolder, Shard
from wsi_espnet.cohort.ledger import DROPPED, Ledger, Row
from wsi_espnet.cohort.manifest import Entry, read_entries
from wsi_espnet.cohort.pages import write_pages
from wsi_espnet.cohort.settings import BatchConfig, ClusterOptions, SegmentOptions
from wsi_espnet.errors import ClusterError, UsageError
from wsi_espnet.inference.job import KEPT
from wsi_espnet.resume import read_mark
from wsi_espnet.slides.slide import CACHE_BYTES

if TYPE_CHECKING:
    from distributed import Client


DASK_SHARE = 0.7
"""Part of a worker's limit from which on Dask writes what it holds to disk; a batch plans to stay below it."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class BatchResult:
    """What a batch left behind.

    Parameters
    ----------
    folder
        Where everything lies; see `wsi_espnet.cohort.folder`.
    rows
        The slides that were asked for, in their order.
    tried
        Names of those that this run began.
    seconds
        Wall time of this run.
    """

    folder: Path
    rows: tuple[Row, ...]
    tried: tuple[str, ...]
    seconds: float

    @property
    def failures(self) -> tuple[Row, ...]:
        """Slides that failed, in this run or before."""
        return tuple(row for row in self.rows if row.state == "failed")


def batch(
    slides: Sequence[str | Path],
    out: str | Path,
    *,
    config: BatchConfig | None = None,
    shard: tuple[int, int] | None = None,
    limit: int | None = None,
    overwrite: bool = False,
    progress: Callable[[BatchProgress], None] | None = None,
) -> BatchResult:
    """Segment many slides; started again, it skips what is done, goes on with what was cut short, retries what failed.

    Parameters
    ----------
    slides
        Folders, patterns, tables and files; see `wsi_espnet.cohort.manifest.read_entries`.
    out
        Folder for all results; see `wsi_espnet.cohort.folder`.
    config
        How slides are segmented, and on which machines; None takes the defaults.
    shard
        (i, n) computes every n-th slide from the i-th on; others may compute the rest, at the same time.
    limit
        Begin at most that many slides.
    overwrite
        Replace results of other slides, models or settings.
    progress
        Told how far the batch is, about once a second.

    Raises
    ------
    UsageError, ModelError, OutputError, ClusterError, DependencyError
        The batch as a whole cannot run; a slide that fails is noted and raises nothing.
    """
    started = time.monotonic()
    config = config or BatchConfig()
    if limit is not None and limit < 1:
        raise UsageError(f"--limit must be 1 or more, got {limit}")
    folder = BatchFolder(Path(out).absolute(), None if shard is None else Shard(*shard))
    entries = select(read_entries(slides), folder.shard)
    keys = request_keys(entries, config.segment)
    with contextlib.ExitStack() as stack:
        stack.enter_context(folder.alone())
        ledger = stack.enter_context(Ledger(folder.ledger, create=True))
        begun = _sync(ledger, folder, entries, keys)
        todo = [entry for entry in entries if entry.name not in begun][:limit]
        log.info("%d slides: %d are done already, %d to do", len(entries), len(begun), len(todo))
        stack.callback(write_pages, folder)
        if todo:
            _run(ledger, folder, config, entries, todo, overwrite=overwrite, progress=progress)
        wanted = {entry.name for entry in entries}
        rows = tuple(row for row in ledger.read() if row.name in wanted)
    return BatchResult(folder.out, rows, tuple(entry.name for entry in todo), time.monotonic() - started)


def _sync(ledger: Ledger, folder: BatchFolder, entries: Sequence[Entry], keys: Sequence[str]) -> set[str]:
    """Bring the ledger up to date; names of the slides that need nothing more."""
    known = {row.name: row for row in ledger.read()}
    finished = {
        entry.name
        for entry, key in zip(entries, keys, strict=True)
        if (row := known.get(entry.name)) is not None
        and row.key == key
        and (
            (row.state == "skipped" and row.cause != DROPPED)
            or (row.state == "done" and (read_mark(Path(row.result)) or {}).get("state") == "done")
        )
    }
    # What was skipped for want of tissue is no work either, but keeps its own state.
    empty = {name for name in finished if known[name].state == "skipped"}
    done = {name for name in finished if known[name].state == "done"}
    wanted = [(entry.name, str(entry.slide), key) for entry, key in zip(entries, keys, strict=True)]
    ledger.sync(wanted, done)
    ledger.update({name: {"state": "skipped", "cause": known[name].cause} for name in empty})
    return done | empty


def _run(
    ledger: Ledger,
    folder: BatchFolder,
    config: BatchConfig,
    entries: Sequence[Entry],
    todo: Sequence[Entry],
    *,
    overwrite: bool,
    progress: Callable[[BatchProgress], None] | None,
) -> None:
    from wsi_espnet.batch_flow import Flow, SchedulerLost

    options = config.cluster
    torch = any(options_of(entry, config.segment).through_torch for entry in todo)
    gpus = _gpus(config) if torch else config.cluster.gpus or 0
    with clusters.open_cluster(options, gpus=gpus) as connect, Notes(ledger, folder, todo, progress) as notes:
        flow: Flow | None = None
        lost_at: float | None = None
        while True:
            try:
                with connect() as client:
                    what = options.scheduler or f"the {options.kind} cluster"
                    patience = None if options.kind != "local" and options.scheduler is None else options.patience_s
                    clusters.await_workers(client, patience_s=patience, what=what)
                    if flow is None:
                        log.info("dashboard: %s", client.dashboard_link)
                        machine, gpu_share, apart = _survey(client, config, torch=torch)
                        places = {entry.name: place for place, entry in enumerate(entries)}
                        tasks = [
                            Task(
                                e.name, places[e.name], _order(e, folder, config.segment, machine, overwrite=overwrite)
                            )
                            for e in todo
                        ]
                        flow = Flow(tasks, notes.listener(), gpu_share=gpu_share, read_apart=apart)
                    lost_at = None
                    flow.run(client)
                    return
            except SchedulerLost:
                log.warning("warning: the scheduler at %s went away; waiting for it", options.scheduler)
                lost_at = time.monotonic()
            except UsageError as exc:
                if flow is None or lost_at is None:
                    raise
                if time.monotonic() - lost_at > options.patience_s:
                    raise ClusterError(
                        f"the scheduler at {options.scheduler} went away and was not back after "
                        f"{options.patience_s:.0f} s; what is finished is kept, run the same command again to go on"
                    ) from exc


def _gpus(config: BatchConfig) -> int:
    """GPUs of this machine that the batch uses."""
    if config.segment.device == "cpu" or config.cluster.kind != "local":
        return 0
    # Imported here: a batch that runs exported files needs no torch.
    from wsi_espnet.inference.torch_backend import gpu_count

    found = gpu_count()
    return found if config.cluster.gpus is None else min(found, config.cluster.gpus)


def _survey(client: Client, config: BatchConfig, *, torch: bool) -> tuple[Machine, float, bool]:
    """What the workers are, the part of a GPU that one call takes, and whether others read for those with a GPU.

    Without `torch`, every worker decides by itself what runs an exported file.
    """
    workers = list(client.scheduler_info(n_workers=-1)["workers"].values())
    threads = max(w["nthreads"] for w in workers)
    with_gpu = [w for w in workers if w.get("resources", {}).get("GPU")]
    has_gpu = bool(with_gpu) or bool(config.cluster.gpus and config.cluster.kind != "local")
    if has_gpu and config.segment.device == "cpu":
        has_gpu = False
    if not torch:
        return Machine("cpu", config.segment.precision, threads, _worker_bytes(workers, config.cluster)), 0.0, False
    device, precision = client.submit(
        probe,
        config.segment.device,
        config.segment.precision,
        key=f"probe-{os.urandom(6).hex()}",
        pure=False,
        resources={"GPU": 1} if has_gpu else None,
    ).result()
    apart = has_gpu and len(with_gpu) < len(workers)
    share = 0.0 if not has_gpu else 1.0 if apart else 0.999 / threads  # so that the shares of all threads fit into 1
    return Machine(device, precision, threads, _worker_bytes(workers, config.cluster)), share, apart


def _worker_bytes(workers: Sequence[dict[str, Any]], options: ClusterOptions) -> int:
    """What one worker may use for its windows: slides of other jobs that it keeps open have their caches besides."""
    limits = [w["memory_limit"] for w in workers if w["memory_limit"]]
    if limits:
        each = int(min(limits) * DASK_SHARE)
    else:
        each = clusters.local_bytes(None if options.memory is None else size_bytes(options.memory)) // len(workers)
    return max(1, each - KEPT * CACHE_BYTES)


def _order(entry: Entry, folder: BatchFolder, options: SegmentOptions, machine: Machine, *, overwrite: bool) -> Order:
    return Order(
        token="",
        slide=entry.slide,
        out=folder.result(entry.name),
        picture=folder.picture(entry.name),
        options=options_of(entry, options),
        machine=machine,
        overwrite=overwrite,
    )
