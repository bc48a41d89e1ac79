"""The work of one slide as a Dask graph: windows, strips, cores, pyramid.

    ("windows", r, c) --> ("window", r, c) --+--> ("own", r, c) ------------------+
                                             +--> ("strip", r, c, neighbour) --> ("block", r, c) --> ("level", 1, ...)
                                                                                       +--> ("core", r, c)

Where the network runs on a device of its own, ("read", r, c) comes before ("windows", r, c), so that any worker may
read and only those with a device compute. A window is read and computed once. Each core has one owner that gathers
what its neighbours say about it, and writes it; nothing is locked and nothing depends on the order. What the pyramid
needs of a core goes from task to task; what a run remembers of it, how many px each class has, is small. Tasks carry
paths and regions, never px of the slide (but from readers to a device).
The same graph runs on the threads of this process or on a `distributed` cluster.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import dask.threaded
from dask.callbacks import Callback
from dask.highlevelgraph import HighLevelGraph, MaterializedLayer

from wsi_espnet.errors import ClusterError, UsageError
from wsi_espnet.grid import Window
from wsi_espnet.inference import tasks
from wsi_espnet.inference.job import Index, Job, prepare, release
from wsi_espnet.inference.tasks import RETRIES, Failure

if TYPE_CHECKING:
    from distributed import Client as Client  # named again: the jobs name it through here
    from distributed import Future as Future

CONNECT_S = 10
"""How long a scheduler may take to answer, and its first worker to be there."""

Outcome = tuple[int, ...] | Failure
"""What came of a core: px of the tissue in each class, or why it could not be computed."""

OnCore = Callable[[Index, int], None]
"""Called with a finished core's index and how many are finished."""


@dataclass(frozen=True, slots=True)
class Graph:
    """A Dask graph, the keys of its cores, those at the top of its pyramid, and those of the network alone."""

    tasks: dict[Any, Any]
    cores: list[Any]
    top: list[Any]
    network: list[Any]


def build_graph(
    job: Job,
    windows: Mapping[Index, Window],
    todo: Sequence[Index],
    *,
    batch: int,
    level_shapes: Sequence[tuple[int, int]],
    read_apart: bool = False,
) -> Graph:
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
    read_apart
        Whether reading has tasks of its own, so that another worker than the network's may do it.

    Returns
    -------
    Graph
        Its keys carry the job's token, so that jobs on one scheduler do not meet.
    """

    def key(kind: str, *place: int) -> tuple[Any, ...]:
        return (kind, job.token, *place)  # the kind alone is the group that Dask keeps count of, for good

    name = f"job-{job.token}"
    graph: dict[Any, Any] = {name: job}
    meets = {index: _neighbours(index, windows) if job.blend_px else {} for index in windows}
    needed = {n for index in todo for n in (index, *meets[index])}
    network = []
    for group in _groups(windows, batch):
        if needed.isdisjoint(group):
            continue
        together = key("windows", *group[0])
        members, near = tuple(windows[i] for i in group), tuple(meets[i] for i in group)
        if read_apart:
            network.append(together)
            graph[key("read", *group[0])] = (tasks.read, name, members)
            graph[together] = (tasks.predict, name, members, near, key("read", *group[0]))
        else:
            graph[together] = (tasks.compute, name, members, near)
        for place, index in enumerate(group):
            graph[key("window", *index)] = (tasks.item, together, place)
    for index in todo:
        others = sorted(meets[index])
        for other in others:
            graph[key("strip", *other, *index)] = (tasks.strip, key("window", *other), index)
        graph[key("own", *index)] = (tasks.own, key("window", *index))
        graph[key("block", *index)] = (
            tasks.finish,
            name,
            windows[index],
            tuple(windows[other] for other in others),
            key("own", *index),
            [key("strip", *other, *index) for other in others],
        )
        graph[key("core", *index)] = (tasks.counts, key("block", *index))
    cores = [key("core", *index) for index in todo]
    top = _add_levels(graph, {index: key("block", *index) for index in todo}, level_shapes, name, key)
    return Graph(graph, cores, top, network)


def run_threads(job: Job, graph: Graph, *, threads: int, on_core: OnCore) -> list[Outcome]:
    """Run on threads of this process; for each core px of the tissue in each class, or why it could not be computed.

    `on_core` is called in the caller's thread. What it raises ends the run, once the windows in work are finished.
    """
    places = set(graph.cores)
    done = 0

    def posttask(key: Any, *_: Any) -> None:
        nonlocal done
        if key in places:
            done += 1
            on_core(key[2:], done)

    try:
        prepare(job)
        # A pool of its own: left only when its threads are idle, so that nothing is closed under a task.
        with ThreadPoolExecutor(threads) as pool, Callback(posttask=posttask):
            results = dask.threaded.get(graph.tasks, [*graph.cores, *graph.top], pool=pool)
    finally:
        release(job)
    return list(results[: len(graph.cores)])


@contextlib.contextmanager
def connect(address: str | None) -> Iterator[Client | None]:
    """A client of the `distributed` scheduler at `address`; None for a run in this process.

    Raises
    ------
    UsageError
        Nobody answers at the address, or there is no worker to do anything.
    """
    if address is None:
        yield None
        return
    # Imported here: a run in this process needs no cluster, and importing it takes longer than small slides do.
    from distributed import Client

    try:
        client = Client(address, timeout=CONNECT_S, set_as_default=False)
    except (OSError, ValueError) as exc:
        raise UsageError(
            f"no Dask scheduler answers at {address} ({type(exc).__name__}); start one with `dask scheduler`, and "
            "workers with `dask worker`"
        ) from exc
    with client:
        try:
            client.wait_for_workers(1, timeout=CONNECT_S)
        except TimeoutError as exc:
            raise UsageError(
                f"the Dask scheduler at {address} has no worker after {CONNECT_S} s; start one with "
                f"`dask worker {address}`, then run again"
            ) from exc
        yield client


def run_cluster(graph: Graph, client: Client, *, on_core: OnCore) -> list[Outcome]:
    """As `run_threads`, on a `distributed` cluster; lost workers' tasks are computed again elsewhere.

    Workers must see slide, model and output under the same paths as this process.

    Raises
    ------
    ClusterError
        Workers died over one task again and again, or the scheduler went away.
    """
    from distributed import CancelledError, KilledWorker, as_completed
    from distributed.client import ClosedClientError
    from distributed.comm.core import CommClosedError

    kept = "what is finished is kept, run the same command again to go on"
    try:
        futures = client.get(graph.tasks, [*graph.cores, *graph.top], sync=False, retries=RETRIES)
        cores = futures[: len(graph.cores)]
        indices = {future.key: key[2:] for future, key in zip(cores, graph.cores, strict=True)}
        for done, future in enumerate(as_completed(cores, loop=client.loop), start=1):
            if future.status == "finished":
                on_core(indices[future.key], done)
        client.gather(futures[len(graph.cores) :])
        return list(client.gather(cores))
    except KilledWorker as exc:
        raise ClusterError(
            f"workers died {exc.allowed_failures + 1} times over one task; they may need more memory (`dask worker "
            f"--memory-limit`), or the slide crashes what reads it; {kept}"
        ) from exc
    except (CancelledError, ClosedClientError, CommClosedError) as exc:
        raise ClusterError(f"the Dask scheduler went away; {kept}") from exc


def submit(
    graph: Graph,
    client: Client,
    *,
    then: Callable[..., Any],
    arguments: Sequence[Any],
    priority: int,
    network_resources: Mapping[str, float],
) -> tuple[list[Future[Any]], Future[Any]]:
    """Start a graph on a cluster, and one call after its last task.

    Parameters
    ----------
    graph
        From `build_graph`.
    client
        Of the cluster.
    then, arguments
        Called as ``then(*arguments, results of the cores, results of the top)`` once all of these are there.
    priority
        Larger numbers are computed first.
    network_resources
        Dask resources that each call of the network takes; other tasks take none.

    Returns
    -------
    tuple
        Futures of the cores, in the order of the graph, and of the last call.
    """
    last = ("conclude", graph.cores[0][1])
    # Layers, since resources belong to some tasks only; none of them may need each other in a circle.
    names = {"network": set(graph.network) or {key for key in graph.tasks if _is(key, "windows")}}
    names["before"] = {key for key in graph.tasks if _is(key, "read") or not isinstance(key, tuple)}
    names["after"] = graph.tasks.keys() - names["network"] - names["before"]
    tasks_of = {layer: {key: graph.tasks[key] for key in keys} for layer, keys in names.items()}
    tasks_of["after"][last] = (then, *arguments, graph.cores, graph.top)
    layers = {
        layer: MaterializedLayer(
            tasks_of[layer],
            annotations={"resources": dict(network_resources)} if layer == "network" and network_resources else None,
        )
        for layer in ("before", "network", "after")
    }
    whole = HighLevelGraph(layers, {"before": set(), "network": {"before"}, "after": {"before", "network"}})
    *cores, concluded = client.get(whole, [*graph.cores, last], sync=False, retries=RETRIES, priority=priority)
    return cores, concluded


def _is(key: Any, kind: str) -> bool:
    return isinstance(key, tuple) and key[0] == kind


def _groups(windows: Mapping[Index, Window], batch: int) -> list[list[Index]]:
    """Windows that go through the network together: of one size, the same ones whatever is still to be done."""
    groups: dict[tuple[int, int], list[list[Index]]] = {}
    for index, window in windows.items():
        rows, columns = window.read
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


def _add_levels(
    graph: dict[Any, Any],
    blocks: dict[Index, Any],
    level_shapes: Sequence[tuple[int, int]],
    name: str,
    key: Callable[..., tuple[Any, ...]],
) -> list[Any]:
    """Each shard of a level waits for the up to four below it; the keys of the last level come back."""
    children = blocks
    for level in range(1, len(level_shapes)):
        parents: dict[Index, dict[Index, Any]] = {}
        for (row, column), child in children.items():
            parents.setdefault((row // 2, column // 2), {})[row, column] = child
        for (row, column), below in parents.items():
            places = tuple(below)
            graph[key("level", level, row, column)] = (
                tasks.reduce,
                name,
                level,
                row,
                column,
                places,
                list(below.values()),
            )
        children = {index: key("level", level, *index) for index in parents}
    return list(children.values()) if len(level_shapes) > 1 else []
