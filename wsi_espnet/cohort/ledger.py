"""The ledger of a batch: what became of each slide, in one SQLite file that a kill at any moment leaves whole.

One process writes it, the one that started the batch; others read it meanwhile. It keeps a rollback journal rather
than a write-ahead log, because the latter needs memory that readers on other machines of a shared disk do not have.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from wsi_espnet.errors import OutputError, UsageError

State = Literal["waiting", "running", "done", "failed", "skipped"]
STATES: tuple[State, ...] = ("waiting", "running", "done", "failed", "skipped")

FORMAT = 1
"""Counted up when the tables change."""

DROPPED = "not among the slides of the last run"
"""Cause of a slide that is skipped because it is not asked for any more."""

PATIENCE_S = 60.0
"""How long one of reader and writer waits for the other."""

_TABLES = """
CREATE TABLE IF NOT EXISTS slides (
    name TEXT PRIMARY KEY, place INTEGER NOT NULL, slide TEXT NOT NULL, key TEXT NOT NULL,
    state TEXT NOT NULL, cause TEXT NOT NULL DEFAULT '', attempts INTEGER NOT NULL DEFAULT 0,
    started REAL, seconds REAL, windows INTEGER NOT NULL DEFAULT 0, windows_done INTEGER NOT NULL DEFAULT 0,
    mpx REAL NOT NULL DEFAULT 0, result TEXT NOT NULL DEFAULT '', facts TEXT NOT NULL DEFAULT '{}'
);
CREATE TABLE IF NOT EXISTS batch (key TEXT PRIMARY KEY, value TEXT NOT NULL);
"""


@dataclass(frozen=True, slots=True)
class Row:
    """What is known about one slide.

    Parameters
    ----------
    name, place, slide
        Name of its result, its number in the manifest from 0, its file.
    key
        Digest of everything that was asked for; another key is another request.
    state, cause
        What became of it, and why it failed or was skipped.
    attempts
        How often it was begun.
    started, seconds
        When it was last begun (s since 1970), and how long that took.
    windows, windows_done
        Windows to compute in the last attempt, and how many of them are finished.
    mpx
        Millions of px that the network computed in the last attempt.
    result
        The mask, once there is one.
    facts
        What the summary tells: mpp, model, level, areas.
    """

    name: str
    place: int
    slide: str
    key: str
    state: State
    cause: str
    attempts: int
    started: float | None
    seconds: float | None
    windows: int
    windows_done: int
    mpx: float
    result: str
    facts: dict[str, Any]


class Ledger:
    """An open ledger; used in a ``with`` block.

    Raises
    ------
    OutputError
        The file cannot be written: here and in every method that changes it.
    UsageError
        The file is of another version of this package.
    """

    def __init__(self, path: Path, *, create: bool = False) -> None:
        self.path = path
        with self._errors():
            # Opened for writing by readers too: whoever comes first after a kill undoes what was half written.
            uri = f"{path.absolute().as_uri()}?mode={'rwc' if create else 'rw'}"
            self._db = sqlite3.connect(uri, uri=True, timeout=PATIENCE_S, isolation_level=None)
            if create:
                with self._transaction():
                    for statement in _TABLES.split(";")[:-1]:
                        self._db.execute(statement)
                    self._db.execute("INSERT OR IGNORE INTO batch VALUES ('format', ?)", (json.dumps(FORMAT),))
            said = self._db.execute("SELECT value FROM batch WHERE key = 'format'").fetchone()
            found = None if said is None else json.loads(said[0])
        if found != FORMAT:
            self._db.close()
            raise UsageError(
                f"{path} is a ledger of format {found}, and this version reads {FORMAT}; choose another folder"
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._db.close()

    def read(self) -> list[Row]:
        """All slides, in the order of the manifest."""
        with self._errors():
            found = self._db.execute("SELECT * FROM slides ORDER BY place, name").fetchall()
        return [Row(*(*values[:-1], json.loads(values[-1]))) for values in found]

    def sync(self, wanted: Iterable[tuple[str, str, str]], finished: Iterable[str]) -> None:
        """Make the ledger list what is asked for now.

        Parameters
        ----------
        wanted
            (name, slide, key) of each slide, in the order of the manifest.
        finished
            Names of those whose result is there and is what is asked for; all others wait.
        """
        rows = [(name, place, slide, key) for place, (name, slide, key) in enumerate(wanted)]
        with self._errors(), self._transaction():
            # Slides that are not asked for any more come last; what is done stays done.
            self._db.execute("UPDATE slides SET place = place + ?", (1 << 40,))
            self._db.execute("UPDATE slides SET state = 'skipped', cause = ? WHERE state != 'done'", (DROPPED,))
            self._db.executemany(
                "INSERT INTO slides (name, place, slide, key, state) VALUES (?, ?, ?, ?, 'waiting') "
                "ON CONFLICT (name) DO UPDATE SET place = excluded.place, slide = excluded.slide, "
                "key = excluded.key, state = 'waiting', cause = ''",
                rows,
            )
            self._db.executemany(
                "UPDATE slides SET state = 'done', cause = '' WHERE name = ?", [(name,) for name in finished]
            )
            for place, (name,) in enumerate(
                self._db.execute("SELECT name FROM slides WHERE place >= ? ORDER BY place", (1 << 40,)).fetchall(),
                start=len(rows),
            ):
                self._db.execute("UPDATE slides SET place = ? WHERE name = ?", (place, name))

    def update(self, changes: Mapping[str, Mapping[str, Any]]) -> None:
        """Change columns of slides, all or none: {name: {column: value}}, columns as in `Row`."""
        with self._errors(), self._transaction():
            for name, values in changes.items():
                assert values.keys() <= set(Row.__slots__), values.keys()
                columns = ", ".join(f"{column} = ?" for column in values)
                stored = [json.dumps(v) if column == "facts" else v for column, v in values.items()]
                self._db.execute(f"UPDATE slides SET {columns} WHERE name = ?", (*stored, name))

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            # A full disk may have ended the transaction already.
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as exc:
            raise OutputError(
                f"the ledger {self.path} cannot be used: {exc}; free some space, check that the file may be written, "
                "and run again"
            ) from exc
