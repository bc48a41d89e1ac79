"""A slide on its way through a batch, what becomes of it, and who is told."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any

from wsi_espnet.batch_work import Order, Prepared
from wsi_espnet.errors import NoTissueError, WsiEspnetError

if TYPE_CHECKING:
    from wsi_espnet.inference.schedule import Future


@dataclass(frozen=True, slots=True)
class Ended:
    """What became of a slide: ``done``, ``failed`` or ``skipped``, why, and what the summary tells about it."""

    state: str
    cause: str
    facts: dict[str, Any]
    detail: str = ""


@dataclass(slots=True, eq=False)
class Task:
    """A slide in the flow.

    Parameters
    ----------
    name, place
        Of its entry; a lower place is computed first.
    order
        What workers are told, but for the token of an attempt.
    """

    name: str
    place: int
    order: Order
    token: str = ""
    attempts: int = 0
    fruitless: int = 0
    least_todo: int | None = None
    windows: int = 0
    windows_done: int = 0
    work_px: int = 0
    futures: list[Future[Any]] = field(default_factory=list)

    @property
    def load(self) -> int:
        """Tasks that it will still keep busy, about."""
        return 1 + self.windows - self.windows_done


@dataclass(frozen=True, slots=True)
class Listener:
    """Who is told what happens, always in the caller's thread: for the ledger and the logs.

    `begun` may answer with the end of a slide that must not be begun.
    """

    begun: Callable[[Task], Ended | None]
    prepared: Callable[[Task, Prepared], None]
    again: Callable[[Task, str], None]
    ended: Callable[[Task, Ended], None]
    tick: Callable[[list[Task]], None]


def ended_with(facts: dict[str, Any]) -> Ended:
    """The end of a slide whose result is closed, from what the summary tells about it."""
    failed = facts["failed_windows"]
    if not failed:
        return Ended("done", "", facts)
    said = f"{failed} of {facts['windows']} windows could not be read and are unlabelled (255) in the mask; the first: "
    return Ended("failed", said + facts["first_failure"], facts)


def ended_by(error: BaseException, trace: TracebackType | None) -> Ended:
    """The end of a slide over which a worker raised `error`."""
    if isinstance(error, NoTissueError):
        return Ended("skipped", str(error), {})
    if isinstance(error, WsiEspnetError):
        return Ended("failed", str(error), {})
    lines = traceback.format_exception(type(error), error, trace)
    return Ended("failed", f"unexpected {type(error).__name__}: {error}", {}, detail="".join(lines))
