"""One run at a time: locks that end with the process that holds them, however it ends."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from wsi_espnet.atomic import output_errors
from wsi_espnet.errors import ResumeError

_held: set[int] = set()
"""Descriptors of the locks of this process."""


def _leave_to_parent() -> None:
    """Close what a child inherits: it would hold the locks of a parent that was killed until it ends itself."""
    while _held:
        os.close(_held.pop())


os.register_at_fork(after_in_child=_leave_to_parent)


@contextlib.contextmanager
def hold(path: Path, refusal: str, *, shared: bool = False, wait: bool = False) -> Iterator[None]:
    """Hold a lock file while the block runs; the file is there only meanwhile, or after a crash.

    The system lets go of the lock when the process ends, so a file that a crash left behind locks nobody out.

    Parameters
    ----------
    path
        The lock file; its folder exists.
    refusal
        What to say when another process holds it.
    shared
        Several processes may hold it at once, as long as none holds it alone.
    wait
        Wait for the others instead of refusing.

    Raises
    ------
    ResumeError
        Another process holds it.
    OutputError
        The file cannot be made.
    """
    with output_errors(path):
        file = _locked(path, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
    if file is None:
        raise ResumeError(refusal)
    _held.add(file)
    try:
        yield
    finally:
        if file in _held:  # not in a child that was forked meanwhile
            # Removed before it is let go of, and only by the last: who waits for it looks whether it is still there.
            if not shared or _is_last(file):
                path.unlink(missing_ok=True)
            _held.discard(file)
            os.close(file)


@contextlib.contextmanager
def hold_folder(folder: Path, refusal: str) -> Iterator[None]:
    """Hold a folder itself while the block runs, where no lock file can lie beside it: one that is not going to move.

    Raises
    ------
    ResumeError
        Another process holds it.
    OutputError
        It is not there.
    """
    with output_errors(folder):
        file = os.open(folder, os.O_RDONLY)
    _held.add(file)
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ResumeError(refusal) from None
        yield
    finally:
        if file in _held:
            _held.discard(file)
            os.close(file)


def is_held(path: Path) -> bool:
    """Whether a process holds the lock at `path` now."""
    try:
        try:
            file = os.open(path, os.O_RDWR)
        except PermissionError:  # another user's, which may perhaps be read: enough to ask, but over NFS
            file = os.open(path, os.O_RDONLY)
    except OSError:  # no file, no holder
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # held, or it cannot be asked: then its being there says that it is held, or was in a crash
        return True
    finally:
        os.close(file)
    return False


def _locked(path: Path, how: int) -> int | None:
    """A descriptor of the locked file; None where another process holds it."""
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(file, how)
        except BlockingIOError:
            os.close(file)
            return None
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file), path.stat()):
                return file
        os.close(file)  # its holder removed it while this process waited: another file has the name now


def _is_last(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
