"""How commands speak: tables and JSON on stdout, progress on stderr."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

LINE_EVERY_S = 30.0
"""Seconds between two lines of progress where there is no terminal."""

Update = Callable[[int, int, str], None]
"""Told about (done, total, note)."""

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)


def print_json(value: Any) -> None:
    """One JSON document on stdout."""
    out.out(json.dumps(value, indent=2, ensure_ascii=False))


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Columns under a header; figures belong to the right, so columns whose name ends in a blank are set there."""
    table = Table(box=None, pad_edge=False, header_style="bold", show_header=any(name.strip() for name in header))
    for name in header:
        table.add_column(name.strip(), justify="right" if name.endswith(" ") else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(escape, row))
    out.print(table)


@contextlib.contextmanager
def progress_bar(what: str) -> Iterator[Update]:
    """Progress on stderr, from the first call of what comes out, with (done, total, note).

    A bar in a terminal; elsewhere, in a log or a pipe, a line every now and then.
    """
    if not err.is_terminal:
        yield _lines(what)
        return
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=err,
    )
    task = bar.add_task(what, total=None, note="")

    def update(done: int, total: int, note: str = "") -> None:
        bar.start()  # not before: a run that is refused shows no bar
        bar.update(task, completed=done, total=total, note=note)

    try:
        yield update
    finally:
        bar.stop()


def _lines(what: str) -> Update:
    last = time.monotonic()

    def update(done: int, total: int, note: str = "") -> None:
        nonlocal last
        if time.monotonic() - last >= LINE_EVERY_S:
            last = time.monotonic()
            err.print(f"{what} {done}/{total} {note}", markup=False)

    return update
