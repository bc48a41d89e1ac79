"""The ledger: whole after every kill, and read while it is written."""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import os
import signal
import sqlite3
import time
from functools import partial
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import pytest

from wsi_espnet.cohort.ledger import Ledger
from wsi_espnet.errors import OutputError, UsageError

NAMES = ("a", "b", "c")


def wanted(*names: str, key: str = "k") -> list[tuple[str, str, str]]:
    return [(name, f"/slides/{name}.svs", key) for name in names]


def states(ledger: Ledger) -> dict[str, str]:
    return {row.name: row.state for row in ledger.read()}


def test_slides_wait_in_their_order_and_keep_what_is_noted(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    with Ledger(path, create=True) as ledger:
        ledger.sync(wanted("c", "a", "b"), finished=())
        ledger.update({"a": {"state": "running", "attempts": 1, "started": 5.0}, "c": {"facts": {"mpp": [0.5, 0.5]}}})
    with Ledger(path) as ledger:
        c, a, b = ledger.read()
    assert (c.name, c.place, c.state, c.facts) == ("c", 0, "waiting", {"mpp": [0.5, 0.5]})
    assert (a.state, a.attempts, a.started, a.seconds) == ("running", 1, 5.0, None)
    assert (b.slide, b.key, b.windows) == ("/slides/b.svs", "k", 0)


def test_a_new_manifest_keeps_what_is_done_and_skips_what_is_gone(tmp_path: Path) -> None:
    with Ledger(tmp_path / "ledger.sqlite", create=True) as ledger:
        ledger.sync(wanted("a", "b", "c", "d"), finished=())
        ledger.update({"a": {"state": "done"}, "b": {"state": "done"}, "c": {"state": "failed", "cause": "torn"}})
        ledger.sync(wanted("e", "c", "b"), finished=["b"])
        assert states(ledger) == {"e": "waiting", "c": "waiting", "b": "done", "a": "done", "d": "skipped"}
        assert [row.place for row in ledger.read()] == [0, 1, 2, 3, 4]
        assert {row.name: row.cause for row in ledger.read() if row.cause} == {
            "d": "not among the slides of the last run"
        }


def _write_for_ever(path: Path, begun: Event) -> None:
    with Ledger(path) as ledger:
        for count in itertools.count(1):
            ledger.update({name: {"attempts": count, "cause": "x" * (count % 5000)} for name in NAMES})
            if count == 3:
                begun.set()


def test_killed_at_any_moment_a_change_is_whole_or_absent(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    processes = multiprocessing.get_context("forkserver")
    with Ledger(path, create=True) as ledger:
        ledger.sync(wanted(*NAMES), finished=())
    for round_ in range(12):
        # Told by an event rather than read from the ledger: a reader waits long for a writer that never rests.
        begun = processes.Event()
        writer = processes.Process(target=_write_for_ever, args=(path, begun))
        writer.start()
        assert begun.wait(60)
        time.sleep(0.007 * round_)
        assert writer.pid is not None
        os.kill(writer.pid, signal.SIGKILL)
        writer.join()
        with Ledger(path) as ledger:
            attempts = {row.attempts for row in ledger.read()}
            ledger.update({name: {"attempts": 0} for name in NAMES})
        assert len(attempts) == 1


def test_a_reader_and_the_writer_do_not_disturb_each_other(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    with Ledger(path, create=True) as writer:
        writer.sync(wanted(*NAMES), finished=())
        with Ledger(path) as reader:
            for count in range(50):
                writer.update({name: {"attempts": count} for name in NAMES})
                assert {row.attempts for row in reader.read()} == {count}


statements: list[str] = []


class _Traced(sqlite3.Connection):
    """Notes its statements in `statements`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.set_trace_callback(statements.append)


def test_five_thousand_slides_take_one_transaction(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Each waits for the disk."""
    names = [f"case{i // 10}/slide{i}" for i in range(5000)]
    monkeypatch.setattr(sqlite3, "connect", partial(sqlite3.connect, factory=_Traced))
    with Ledger(tmp_path / "ledger.sqlite", create=True) as ledger:
        for finished in ([], names[:200]):
            statements.clear()
            ledger.sync(wanted(*names), finished=finished)
            assert statements.count("COMMIT") == 1
            assert len(statements) < len(names) + len(finished) + 10
        statements.clear()
        ledger.update({name: {"state": "done"} for name in names[200:300]})
        assert statements.count("COMMIT") == 1
        assert sum(row.state == "done" for row in ledger.read()) == 300


def test_what_is_no_ledger_is_said(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    with pytest.raises(OutputError, match="unable to open"):
        Ledger(path)
    path.write_text("no database, certainly not one of SQLite's, which begin otherwise")
    with pytest.raises(OutputError, match="not a database"):
        Ledger(path)


def test_another_format_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    with Ledger(path, create=True):
        pass
    for change, said in (("UPDATE batch SET value = '99'", "format 99"), ("DELETE FROM batch", "format None")):
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
            db.execute(change)
        with pytest.raises(UsageError, match=said):
            Ledger(path)


def test_a_ledger_that_cannot_grow_is_said_and_stays_whole(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    with Ledger(path, create=True) as ledger:
        ledger.sync(wanted(*NAMES), finished=())
        pages = ledger._db.execute("PRAGMA page_count").fetchone()[0]
        ledger._db.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(OutputError, match="full"):
            ledger.update({"a": {"state": "done", "cause": "x" * 100_000}})
        assert set(states(ledger).values()) == {"waiting"}
    with sqlite3.connect(path) as db:
        assert db.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
    db.close()
