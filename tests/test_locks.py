"""Locks: one holder, none after a crash."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from wsi_espnet.errors import OutputError, ResumeError
from wsi_espnet.locks import hold, is_held

HOLDER = """
import sys, time
from pathlib import Path
from wsi_espnet.locks import hold
with hold(Path(sys.argv[1]), "no"):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_holder_is_refused_and_nothing_is_left_behind(tmp_path: Path) -> None:
    lock = tmp_path / "x.lock"
    with hold(lock, "first"):
        assert is_held(lock)
        with pytest.raises(ResumeError, match="second is refused"), hold(lock, "second is refused"):
            pass
        assert is_held(lock)
    assert not lock.exists()
    assert not is_held(lock)


def test_a_killed_holder_locks_nobody_out(tmp_path: Path) -> None:
    lock = tmp_path / "x.lock"
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(lock)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        assert is_held(lock)
        holder.kill()
    assert lock.exists()
    assert not is_held(lock)
    with hold(lock, "refused"):
        pass
    assert not lock.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_another_user_sees_who_holds_it() -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        lock = Path(folder) / "x.lock"
        with hold(lock, "no"):
            lock.chmod(0o644)
            os.seteuid(65534)
            try:
                assert is_held(lock)
            finally:
                os.seteuid(0)


def test_children_that_outlive_a_killed_holder_hold_nothing(tmp_path: Path) -> None:
    lock = tmp_path / "x.lock"
    forked = HOLDER.replace("import sys, time", "import os, sys, time").replace("print(", "os.fork(); print(", 1)
    with subprocess.Popen(
        [sys.executable, "-c", forked, str(lock)], stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as holder:
        assert holder.stdout is not None
        assert [holder.stdout.readline() for _ in range(2)] == ["held\n", "held\n"]
        assert is_held(lock)
        holder.kill()
        while holder.poll() is None:
            time.sleep(0.01)
        assert not is_held(lock)
        os.killpg(holder.pid, signal.SIGKILL)  # the child


def test_sharers_keep_out_only_those_who_want_it_alone(tmp_path: Path) -> None:
    lock = tmp_path / "x.lock"
    with hold(lock, "one", shared=True):
        with hold(lock, "two", shared=True):
            pass
        assert lock.exists()
        with pytest.raises(ResumeError), hold(lock, "alone"):
            pass
    assert not lock.exists()


def test_an_absent_folder_is_said(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="No such file"), hold(tmp_path / "absent" / "x.lock", "no"):
        pass
