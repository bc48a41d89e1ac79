"""Who may write to an output folder: nobody's work is overwritten, a run that was cut short goes on.

A folder that this package writes is a Zarr group whose attributes hold, under ``wsi_espnet``:

    kind          which command writes it
    fingerprint   everything that the bytes depend on: source, scale, settings
    state         "writing" until the last byte is there, then "done"
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from wsi_espnet.atomic import PARTIAL, output_errors, remove_partials
from wsi_espnet.errors import OutputError, ResumeError
from wsi_espnet.locks import hold, hold_folder

KEY = "wsi_espnet"

Claim = Literal["new", "resumed", "done"]
"""What was found: nothing (or it was removed), the same run cut short, or the same run finished."""


@contextlib.contextmanager
def alone(out: Path) -> Iterator[None]:
    """Keep other processes out of an output folder while the block runs; folders above it are made.

    The lock lies beside the folder, which may be replaced meanwhile; a link to the folder has the same one.

    Raises
    ------
    ResumeError
        Another process is writing there.
    OutputError
        The lock cannot be made, or `out` is a link to nothing.
    """
    place = out.resolve()
    if out.is_symlink() and not place.exists():  # a disk that is not mounted, perhaps: nothing is made in its place
        raise OutputError(f"{out} is a link to {place}, which is not there; make that folder, or choose another one")
    with output_errors(out):
        place.parent.mkdir(parents=True, exist_ok=True)
    refusal = f"another process is writing to {out}; wait until it has ended, or choose another folder"
    # Where nothing may be made beside the folder, at the mount point of a container say, nothing may move it either.
    fixed = place.is_dir() and not os.access(place.parent, os.W_OK, effective_ids=True)
    with hold_folder(place, refusal) if fixed else hold(place.parent / f"{place.name}.lock", refusal):
        yield


def claim_folder(out: Path, fingerprint: dict[str, Any], *, kind: str, overwrite: bool, resume: bool) -> Claim:
    """Decide whether a run may write to a folder, and make room for it.

    Parameters
    ----------
    out
        The folder; nothing is created in it here.
    fingerprint
        JSON-able facts that the result depends on.
    kind
        Which command writes it.
    overwrite
        Remove a Zarr group that is there. Nothing but a Zarr group or an empty folder is ever removed.
    resume
        Go on with, or accept, a result of the same fingerprint.

    Raises
    ------
    ResumeError
        Something else is there, or `resume` is False and the same result is there.
    OutputError
        What is there cannot be removed.
    """
    if not out.exists() or (out.is_dir() and all(path.name.endswith(PARTIAL) for path in out.iterdir())):
        remove_partials(out)
        return "new"
    if overwrite:
        _remove_group(out)
        return "new"
    mark = read_mark(out)
    if mark is None or mark.get("kind") != kind:
        raise ResumeError(
            f"{out} exists and was not written by wsi-espnet {kind}; choose another folder, or replace it, "
            "if it is a Zarr group, with --overwrite"
        )
    differing = _differing(mark.get("fingerprint"), fingerprint)
    if differing:
        raise ResumeError(
            f"{out} holds the result of another run, which differs in {', '.join(differing)}; choose another "
            "folder, or replace it with --overwrite"
        )
    if not resume:
        raise ResumeError(f"{out} already holds this result and it was asked not to resume; use --overwrite")
    if mark.get("state") == "done":
        return "done"
    remove_partials(out)
    return "resumed"


def remove_folder(folder: Path) -> None:
    """Remove a folder with all that is in it; of a link, what it points at, in whose place is an empty folder then.

    Raises
    ------
    OutputError
        It cannot be removed.
    """
    place = folder.resolve()
    # Renamed first: killed in between, no half of it keeps its name.
    removed = place.with_name(f"{place.name}.{uuid.uuid4().hex}.removed")
    with output_errors(folder):
        place.rename(removed)
        if folder.is_symlink():  # nothing is written through a link to nothing
            place.mkdir()
        shutil.rmtree(removed)


def ensure_apart(source: Path, out: Path) -> None:
    """Refuse an output that is the input, holds it or lies in it.

    Raises
    ------
    ResumeError
        It does.
    """
    a, b = source.resolve(), out.resolve()
    if a == b or a in b.parents or b in a.parents:
        raise ResumeError(f"the output {out} is, holds or lies in the input {source}; choose another folder")


def mark(fingerprint: dict[str, Any], *, kind: str, state: Literal["writing", "done"]) -> dict[str, Any]:
    """The attributes that mark a group as this package's: to be merged with the others."""
    return {KEY: {"kind": kind, "fingerprint": fingerprint, "state": state}}


def read_mark(out: Path) -> dict[str, Any] | None:
    """What `mark` left in a folder; None where there is none, or no readable Zarr group."""
    node = _group(out)
    found = None if node is None else node.get("attributes", {}).get(KEY)
    return found if isinstance(found, dict) else None


def _group(out: Path) -> dict[str, Any] | None:
    try:
        node = json.loads((out / "zarr.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):  # absent, unreadable, not JSON: not a group that is known to be ours
        return None
    return node if isinstance(node, dict) and node.get("node_type") == "group" else None


def _remove_group(out: Path) -> None:
    if _group(out) is None:
        raise ResumeError(f"{out} is not a Zarr group and is never removed, --overwrite or not; choose another folder")
    remove_folder(out)


def _differing(found: Any, wanted: dict[str, Any], prefix: str = "") -> list[str]:
    """Dotted names of the entries in which two JSON-able mappings differ."""
    if not isinstance(found, dict):
        return [prefix.rstrip(".") or "its fingerprint"]
    names = []
    for key in sorted(found.keys() | wanted.keys()):
        a, b = found.get(key), json.loads(json.dumps(wanted.get(key)))
        if a != b:
            names += _differing(a, b, f"{prefix}{key}.") if isinstance(b, dict) else [f"{prefix}{key}"]
    return names
