"""Which slides a batch is about: from folders, patterns, files and tables."""

from __future__ import annotations

import csv
import glob
import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path, PurePosixPath

from wsi_espnet.errors import UsageError
from wsi_espnet.outputs.opened import is_result
from wsi_espnet.outputs.result import MASK_DICOM, MASK_TIFF, slide_name
from wsi_espnet.slides.source import is_utf8, is_zarr, printable

DICOM = ".dcm"
"""A DICOM slide is several files, of which any one opens it; one of each is taken."""

SUFFIXES = frozenset({".svs", ".tif", ".tiff", ".ndpi", ".vms", ".vmu", ".scn", ".mrxs", ".svslide", ".bif", ".czi"})
"""Other files taken from a folder: formats of OpenSlide that keep a slide in one file or point to its files."""

TABLES = {".csv": ",", ".tsv": "\t"}
"""Suffix of a table, and what separates its columns."""

COLUMNS = ("path", "name", "mpp", "model", "tissue")

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Entry:
    """One slide of a batch.

    Parameters
    ----------
    slide
        The file, or an OME-Zarr folder; absolute.
    name
        Folder of its result below ``OUT/slides``, with ``/`` between parts.
    mpp
        um per level-0 px, where the table says it.
    model, tissue
        What this slide is segmented with and where, in place of what the batch says; paths are absolute.
    """

    slide: Path
    name: str
    mpp: float | None = None
    model: str | None = None
    tissue: str | None = None


def read_entries(inputs: Sequence[str | Path]) -> list[Entry]:
    """The slides that folders, patterns, tables and files name, in their order.

    Parameters
    ----------
    inputs
        A folder is searched, with all folders below it, for all but results of `segment`; a pattern holds ``*``, ``?``
        or ``[`` (``**`` is any number of folders); a ``.csv`` or ``.tsv`` is a table with a column ``path``; everything
        else is a slide.

    Raises
    ------
    UsageError
        Nothing is found, a table is wrong, or two slides would have one result folder.
    """
    entries = [entry for text in inputs for entry in _entries(str(text))]
    if not entries:
        raise UsageError("a batch needs at least one slide; name folders, patterns, tables or files")
    _ensure_apart(entries)
    return entries


def _entries(text: str) -> Iterator[Entry]:
    path = Path(text)
    # Of os.path, which answers no where it may not look.
    if os.path.isdir(path) and not is_zarr(path):
        yield from _of_folder(path)
    elif path.suffix.lower() in TABLES:
        yield from _of_table(path)
    elif not os.path.exists(path) and any(sign in text for sign in "*?["):
        yield from _of_pattern(text)
    else:
        # One that is not there is a slide all the same: it fails by itself, and not the whole batch.
        yield Entry(path.absolute(), slide_name(path))


def _of_folder(folder: Path) -> list[Entry]:
    found = []
    for path in _slides_among(_slides_below(folder, set())):
        below = path.relative_to(folder)
        found.append(Entry(path.absolute(), (PurePosixPath(*below.parent.parts) / slide_name(below)).as_posix()))
    if not found:
        raise UsageError(
            f"no slide is in {folder}; wanted are files that end in {', '.join(sorted({DICOM, *SUFFIXES}))}"
        )
    return found


def _slides_below(folder: Path, seen: set[Path]) -> Iterator[Path]:
    """All slides in a folder and in those below it that are not among the `seen`, to which links may lead back."""
    if folder.resolve() in seen:
        return
    seen.add(folder.resolve())
    try:
        paths = sorted(folder.iterdir())
        folders = {path for path in paths if path.is_dir()}
        results = {path for path in folders if is_result(path)}
    except OSError as exc:
        log.warning(
            "warning: the folder %s is left out, for it cannot be read (%s); check its permissions",
            printable(folder),
            exc.strerror,
        )
        return
    # Masks in formats of slides: what `wsi-espnet mask` left beside a result.
    masks = [folder / name for name in (MASK_TIFF, MASK_DICOM) if results]
    for path in paths:
        if path.name.startswith(".") or path in results or path in masks:
            continue
        if path in folders:
            if is_zarr(path):
                yield path
            else:
                yield from _slides_below(path, seen)
        elif path.suffix.lower() in {DICOM, *SUFFIXES}:
            yield path


def _slides_among(paths: Iterable[Path]) -> list[Path]:
    """The same, with one file of each DICOM slide."""
    paths = list(paths)
    dicom = [path for path in paths if path.suffix.lower() == DICOM]
    if not dicom:
        return paths
    if find_spec("pydicom") is None:
        log.warning(
            "warning: %d DICOM files such as %s are left out, for which slides they belong to is read by pydicom: "
            "pip install 'wsi-espnet[dicom]', or name one file of each slide in a table",
            len(dicom),
            dicom[0],
        )
        kept = set()
    else:
        from wsi_espnet.slides.dicom import one_of_each_slide

        kept = set(one_of_each_slide(dicom))
    return [path for path in paths if path in kept or path.suffix.lower() != DICOM]


def _of_pattern(pattern: str) -> list[Entry]:
    paths = sorted(Path(found) for found in glob.glob(pattern, recursive=True))
    if not paths:
        raise UsageError(
            f"nothing matches {pattern}; quote it, so that the shell leaves it alone, and check the folder"
        )
    return [Entry(path.absolute(), slide_name(path)) for path in _slides_among(paths)]


def _of_table(table: Path) -> list[Entry]:
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file, delimiter=TABLES[table.suffix.lower()]))
    except (OSError, UnicodeDecodeError, csv.Error) as exc:
        raise UsageError(f"the table {table} cannot be read ({exc}); save it as UTF-8 text") from exc
    if not rows:
        raise UsageError(f"the table {table} holds no slide; it needs a line of column names and a line per slide")
    _ensure_columns(table, rows[0])
    return [_of_row(table, number, row) for number, row in enumerate(rows, start=2)]


def _ensure_columns(table: Path, row: Mapping[str | None, object]) -> None:
    names = [name for name in row if name is not None]
    unknown = [name for name in names if name not in COLUMNS]
    if "path" not in names or unknown:
        wrong = f"has the unknown columns {', '.join(unknown)}" if unknown else "has no column path"
        raise UsageError(f"the table {table} {wrong}; the columns are path, and if wanted {', '.join(COLUMNS[1:])}")


def _of_row(table: Path, number: int, row: Mapping[str | None, object]) -> Entry:
    if None in row or None in row.values():
        raise UsageError(f"line {number} of {table} has another number of columns than the first line; mend it")
    value = {name: str(text).strip() for name, text in row.items()}
    if not value["path"]:
        raise UsageError(f"line {number} of {table} names no slide; fill its column path")
    slide = (table.parent / value["path"]).absolute()
    tissue = value.get("tissue") or None
    return Entry(
        slide=slide,
        name=value.get("name") or slide_name(slide),
        mpp=_mpp(table, number, value.get("mpp", "")),
        model=_beside(table, value.get("model") or None),
        tissue=tissue if tissue in (None, "auto", "none") else str((table.parent / str(tissue)).absolute()),
    )


def _mpp(table: Path, number: int, text: str) -> float | None:
    if not text:
        return None
    try:
        mpp = float(text)
    except ValueError:
        mpp = 0.0
    if not 0 < mpp < float("inf"):
        raise UsageError(f"mpp in line {number} of {table} must be um per px, such as 0.25, got {text!r}")
    return mpp


def _beside(table: Path, model: str | None) -> str | None:
    """A model file beside the table; a bundled name stays as it is."""
    if model is None or not model.endswith((".safetensors", ".onnx")):
        return model
    return str((table.parent / model).absolute())


def _ensure_apart(entries: Sequence[Entry]) -> None:
    named: dict[str, Entry] = {}
    for entry in entries:
        if not is_utf8(entry.slide):
            raise UsageError(f"the name of {printable(entry.slide)} is not UTF-8, as tables and results are; rename it")
        parts = PurePosixPath(entry.name)
        if not entry.name or parts.is_absolute() or ".." in parts.parts or parts.as_posix() != entry.name:
            raise UsageError(f"{entry.name!r} cannot name the result of {entry.slide}; give a plain name, such as a/b")
        other = named.setdefault(entry.name, entry)
        if other is not entry:
            raise UsageError(
                f"{other.slide} and {entry.slide} would both have the result {entry.name}; name them in a table with "
                "the columns path and name"
            )
    for entry in entries:
        above = next((str(p) for p in PurePosixPath(entry.name).parents if str(p) in named), None)
        if above is not None:
            raise UsageError(
                f"the result {entry.name} of {entry.slide} would lie in the result {above} of {named[above].slide}; "
                "name them in a table with the columns path and name"
            )
