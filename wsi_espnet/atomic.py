"""Files that are whole or absent, and sentences for disks that are full or read-only.

A file is written under another name and renamed, which a killed process cannot do half. (A machine that loses
power may still lose what its disk had not stored.) Zarr's LocalStore does the same for every key, since 3.1.
Both leave a file ending in ``.partial`` behind when they are killed.
"""

from __future__ import annotations

import contextlib
import glob
import os
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path

from wsi_espnet.errors import OutputError, ResumeError, WsiEspnetError

PARTIAL = ".partial"


def write_bytes_atomic(path: Path, data: bytes) -> None:
    """Write a file that other processes see whole or not at all; folders above it are made.

    Raises
    ------
    OutputError
        The disk is full or read-only, or something that is no folder is in the way.
    """
    with replacing(path) as partial:
        partial.write_bytes(data)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Another name beside `path`, for the block to write to; it becomes `path` when the block has ended well.

    Folders above it are made.

    Raises
    ------
    OutputError
        The disk is full or read-only, or something that is no folder is in the way.
    """
    partial = path.with_name(f"{path.name}.{uuid.uuid4().hex}{PARTIAL}")
    with output_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield partial
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)


def refuse_existing(paths: Sequence[Path]) -> None:
    """Refuse to go on where files that are about to be written are there already.

    Raises
    ------
    ResumeError
        One exists; the message names the first.
    """
    there = [path for path in paths if path.exists()]
    if there:
        raise ResumeError(
            f"{there[0]} exists and is not replaced ({len(there)} of {len(paths)} files); choose another folder, "
            "or allow it with --overwrite"
        )


def remove_partials(folder: Path) -> None:
    """Delete what a killed process left half written below a folder.

    Raises
    ------
    OutputError
        The folder is read-only.
    """
    with output_errors(folder):
        for partial in folder.rglob(f"*{PARTIAL}"):
            partial.unlink(missing_ok=True)


def remove_partials_of(path: Path) -> None:
    """Delete what killed processes left of one file.

    Raises
    ------
    OutputError
        The folder is read-only.
    """
    with output_errors(path):
        for partial in path.parent.glob(f"{glob.escape(path.name)}.*{PARTIAL}"):
            partial.unlink(missing_ok=True)


@contextlib.contextmanager
def output_errors(path: Path) -> Iterator[None]:
    """Turn an OSError of the block into an `OutputError` that names the path and the reason.

    Raises
    ------
    OutputError
        The block raised an OSError that is not already one of this package's own errors.
    """
    try:
        yield
    except WsiEspnetError:
        raise
    except OSError as exc:
        reason = exc.strerror or str(exc) or type(exc).__name__
        raise OutputError(
            f"{path} cannot be written: {reason}; free some space or choose another folder, then run again"
        ) from exc
