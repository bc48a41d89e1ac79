"""Slides on their way through a cluster: begun as others end, tried again when workers die, noted as they go.

    waiting --> prepare (a task) --> windows ... conclude (one graph) --> done, failed, or waiting again

Only this process knows all slides; workers know one task each. What it holds of a slide in flight is bounded, so its
memory does not grow with the number of slides.
"""

from __future__ import annotations

import queue
import time
import uuid
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from distributed import CancelledError, Client, Future, KilledWorker
from distributed.client import ClosedClientError

from wsi_espnet import batch_work
from wsi_espnet.batch_task import Ended, Listener, Task, ended_by, ended_with
from wsi_espnet.batch_work import Order
from wsi_espnet.errors import WsiEspnetError
from wsi_espnet.inference import schedule
from wsi_espnet.inference.tasks import RETRIES

AHEAD = 4
"""Windows in flight per thread of the cluster from which on no further slide is begun: enough that no thread waits."""

FRUITLESS = 3
"""Attempts in a row that lose a worker and finish not one window more, before a slide is given up.

Dask itself tries each task on three workers before it says that it kills them.
"""

TICK_S = 1.0
"""How often progress is told while nothing ends."""

_PREPARE_FIRST = 1 << 30
"""Beginning a slide comes before all windows: it is asked for only when threads are about to run dry."""


class SchedulerLost(Exception):  # noqa: N818  an event, which the caller answers by connecting again
    """The scheduler went away; what was in flight waits again."""


@dataclass(frozen=True, slots=True)
class _Event:
    task: Task
    token: str
    kind: str
    future: Future[Any]


class Flow:
    """Slides through one client.

    Parameters
    ----------
    tasks
        In the order in which they are begun.
    listener
        Told about everything.
    gpu_share
        Part of a worker's resource ``GPU`` that a call of the network takes; 0 asks for none.
    read_apart
        Whether workers without a GPU read for those that have one.
    """

    def __init__(self, tasks: Iterable[Task], listener: Listener, *, gpu_share: float, read_apart: bool) -> None:
        self._waiting = deque(tasks)
        self._active: dict[str, Task] = {}
        self._tell = listener
        self._resources = {"GPU": gpu_share} if gpu_share else {}
        self._read_apart = read_apart
        self._events: queue.SimpleQueue[_Event] = queue.SimpleQueue()

    def run(self, client: Client) -> None:
        """Bring all slides to their end.

        Raises
        ------
        SchedulerLost
            The connection to the scheduler ended; called again with another client, it goes on.
        OutputError
            What happens cannot be noted.
        """
        ticked = time.monotonic()
        while self._waiting or self._active:
            try:
                self._begin(client)
                for event in self._happened():
                    self._handle(client, event)
            except WsiEspnetError:  # of what is written here: the ledger, a log
                raise
            except (OSError, ClosedClientError):  # of the connection: what slides do is caught where they do it
                self._give_back()
                raise SchedulerLost from None
            if client.status != "running":
                self._give_back()
                raise SchedulerLost
            if time.monotonic() - ticked >= TICK_S:
                ticked = time.monotonic()
                self._tell.tick(list(self._active.values()))

    def _begin(self, client: Client) -> None:
        threads = sum(client.nthreads().values()) if self._waiting else 0
        room = AHEAD * max(1, threads)
        load = sum(task.load for task in self._active.values())
        while self._waiting and load < room:
            task = self._waiting.popleft()
            task.token = f"{uuid.uuid4().hex[:12]}_{task.name}"
            task.attempts += 1
            task.windows = task.windows_done = task.work_px = 0
            refused = self._tell.begun(task)
            if refused is not None:
                self._tell.ended(task, refused)
                continue
            self._active[task.token] = task
            future = client.submit(
                batch_work.prepare,
                _order(task),
                key=("prepare", task.token),
                priority=_PREPARE_FIRST - task.place,
                retries=1,  # what an earlier run left behind on a worker may still be in the way
                pure=False,
            )
            task.futures = [future]
            self._watch(task, "prepared", future)
            load += task.load

    def _watch(self, task: Task, kind: str, future: Future[Any]) -> None:
        token = task.token
        future.add_done_callback(lambda ended: self._events.put(_Event(task, token, kind, ended)))

    def _happened(self) -> list[_Event]:
        """Everything that has happened, or nothing after a while."""
        found: list[_Event] = []
        try:
            found.append(self._events.get(timeout=TICK_S))
            while True:
                found.append(self._events.get_nowait())
        except queue.Empty:
            return found

    def _handle(self, client: Client, event: _Event) -> None:
        task, future = event.task, event.future
        if self._active.get(event.token) is not task:
            return  # of an attempt that was given up
        if event.kind == "core":
            task.windows_done += future.status == "finished"
        elif future.status == "finished":
            if event.kind == "prepared":
                self._compute(client, task, future)
            else:
                facts = self._result(task, future)
                if facts is not None:
                    self._end(task, ended_with(facts))
        else:
            self._failed(task, future)

    def _compute(self, client: Client, task: Task, future: Future[Any]) -> None:
        prepared = self._result(task, future)
        if prepared is None:
            return
        task.windows = len(prepared.todo)
        task.work_px = sum(prepared.setup.windows[index].work_px for index in prepared.todo)
        if task.least_todo is None or task.windows < task.least_todo:
            task.least_todo, task.fruitless = task.windows, 0
        self._tell.prepared(task, prepared)
        priority = -task.place
        arguments = (_order(task), prepared)
        if not prepared.todo:
            last = client.submit(
                batch_work.conclude,
                *arguments,
                [],
                [],
                key=("conclude", task.token),
                priority=priority,
                retries=RETRIES,
                pure=False,
            )
            cores: list[Future[Any]] = []
        else:
            graph = schedule.build_graph(
                prepared.job,
                prepared.setup.windows,
                prepared.todo,
                batch=prepared.setup.execution.batch,
                level_shapes=prepared.level_shapes,
                read_apart=self._read_apart,
            )
            cores, last = schedule.submit(
                graph,
                client,
                then=batch_work.conclude,
                arguments=arguments,
                priority=priority,
                network_resources=self._resources,
            )
        task.futures = [*cores, last]
        for core in cores:
            self._watch(task, "core", core)
        self._watch(task, "concluded", last)

    def _result(self, task: Task, future: Future[Any]) -> Any:
        """What a finished task gave; None, and the slide begins anew, where it was lost on the way here."""
        try:
            return future.result()
        except (CancelledError, KilledWorker, OSError, TimeoutError) as exc:
            self._again(task, f"{type(exc).__name__} while its result was fetched")
            return None

    def _failed(self, task: Task, future: Future[Any]) -> None:
        if future.status == "error":
            error = future.exception()
            if not isinstance(error, KilledWorker):
                self._end(task, ended_by(error, future.traceback()))
                return
            cause = f"a worker died {error.allowed_failures + 1} times over {_kind(error.task)}"
            self._again(task, cause)
        else:
            # The scheduler went away, and perhaps came back: no fault of the slide.
            self._again(task, "the scheduler went away and took its work with it", counts=False)

    def _again(self, task: Task, cause: str, *, counts: bool = True) -> None:
        self._drop(task)
        task.fruitless += counts
        if task.fruitless > FRUITLESS:
            said = f"{cause}, in {task.fruitless} attempts in a row; it may need more memory than a worker has, or "
            self._tell.ended(task, Ended("failed", said + "crash the program that reads it", {}))
            return
        self._tell.again(task, cause)
        self._waiting.appendleft(task)

    def _end(self, task: Task, ended: Ended) -> None:
        self._drop(task)
        self._tell.ended(task, ended)

    def _drop(self, task: Task) -> None:
        del self._active[task.token]
        task.futures = []

    def _give_back(self) -> None:
        """Let all slides in flight wait again, in their order, without holding it against them."""
        for task in sorted(self._active.values(), key=lambda t: t.place, reverse=True):
            self._drop(task)
            self._tell.again(task, "the scheduler went away")
            self._waiting.appendleft(task)


def _order(task: Task) -> Order:
    return replace(task.order, token=task.token)


def _kind(key: object) -> str:
    """The kind of work of a task, from its key."""
    return str(key[0] if isinstance(key, tuple) else key).partition("-")[0]
