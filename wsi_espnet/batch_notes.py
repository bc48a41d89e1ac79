"""What a batch writes down while it runs: the ledger, a log for each slide, the pages, and how far it is."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from wsi_espnet.batch_task import Ended, Listener, Task
from wsi_espnet.batch_work import Prepared
from wsi_espnet.cohort.folder import BatchFolder
from wsi_espnet.cohort.ledger import Ledger
from wsi_espnet.cohort.manifest import Entry
from wsi_espnet.cohort.pages import write_pages
from wsi_espnet.errors import OutputError, ResumeError
from wsi_espnet.outputs.result import keep_alone

REPORT_EVERY_S = 300.0
"""How often summary, failures and index are written while a batch runs."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class BatchProgress:
    """How far a run is.

    Parameters
    ----------
    ended, total
        Slides that came to an end and slides to do, in this run.
    running
        Slides in flight.
    windows
        Windows finished in this run.
    mpx
        Millions of px that the network computed for slides that ended.
    """

    ended: int
    total: int
    running: int
    windows: int
    mpx: float


class Notes:
    """Writes down what happens to slides, and holds the lock of each result while it is in flight.

    Parameters
    ----------
    ledger, folder
        Where to.
    todo
        The slides of this run.
    progress
        Told how far it is.
    """

    def __init__(
        self,
        ledger: Ledger,
        folder: BatchFolder,
        todo: Sequence[Entry],
        progress: Callable[[BatchProgress], None] | None,
    ) -> None:
        self._ledger, self._folder, self._progress = ledger, folder, progress
        self._attempts = {row.name: row.attempts for row in ledger.read()}
        self._total, self._ended = len(todo), 0
        self._windows, self._mpx = 0, 0.0
        self._locks: dict[str, contextlib.ExitStack] = {}
        self._started: dict[str, float] = {}
        self._reported = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for locks in self._locks.values():
            locks.close()

    def listener(self) -> Listener:
        """The methods below, as the flow wants them."""
        return Listener(self.begun, self.prepared, self.again, self.ended, self.tick)

    def begun(self, task: Task) -> Ended | None:
        """A slide is given to the workers; the end of it where its result cannot be written here."""
        if task.name not in self._locks:
            locks = contextlib.ExitStack()
            try:
                locks.enter_context(keep_alone(task.order.out, task.order.slide))
            except (ResumeError, OutputError) as exc:
                return Ended("failed", str(exc), {})
            self._locks[task.name] = locks
            self._started[task.name] = time.monotonic()
        attempts = self._attempts.get(task.name, 0) + task.attempts
        self._folder.log(task.name, f"begun, attempt {attempts}: {task.order.slide}")
        self._change(task, state="running", cause="", attempts=attempts, started=time.time(), seconds=None)
        return None

    def prepared(self, task: Task, prepared: Prepared) -> None:
        """It is known what there is to do."""
        for note in prepared.notes:
            self._folder.log(task.name, note)
        self._change(task, windows=task.windows, windows_done=0)

    def again(self, task: Task, cause: str) -> None:
        """What a slide had in flight was lost; it waits once more."""
        self._folder.log(
            task.name, f"{cause}; tried again, {task.windows_done} of {task.windows} windows were finished"
        )
        self._windows += task.windows_done
        self._change(task, state="waiting", cause=cause)

    def ended(self, task: Task, ended: Ended) -> None:
        """A slide is done, failed or skipped."""
        self._ended += 1
        mpx = task.work_px / 1e6
        self._mpx += mpx
        self._windows += task.windows_done
        seconds = time.monotonic() - self._started.pop(task.name, time.monotonic())
        if task.name in self._locks:
            self._locks.pop(task.name).close()
        self._folder.log(task.name, f"{ended.state} after {seconds:.1f} s, {mpx:.0f} Mpx" + _colon(ended.cause))
        if ended.detail:
            self._folder.log(task.name, ended.detail)
        if ended.state == "failed":
            log.warning("failed: %s: %s", task.name, ended.cause)
        facts = dict(ended.facts)
        self._change(
            task,
            state=ended.state,
            cause=ended.cause,
            seconds=seconds,
            mpx=mpx,
            windows_done=task.windows_done,
            result=facts.pop("result", ""),
            facts=facts,
        )

    def tick(self, running: list[Task]) -> None:
        """Time has passed."""
        self._ledger.update({task.name: {"windows_done": task.windows_done} for task in running})
        if self._progress is not None:
            windows = self._windows + sum(task.windows_done for task in running)
            self._progress(BatchProgress(self._ended, self._total, len(running), windows, self._mpx))
        if time.monotonic() - self._reported >= REPORT_EVERY_S:
            write_pages(self._folder)
            self._reported = time.monotonic()

    def _change(self, task: Task, **values: Any) -> None:
        self._ledger.update({task.name: values})


def _colon(cause: str) -> str:
    return f": {cause}" if cause else ""
