"""Pictures without ground truth: one file, or all of a folder."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from wsi_espnet.data.files import PICTURES
from wsi_espnet.errors import DataError


def find_pictures(source: Path, *, leave_out: Iterable[Path]) -> list[tuple[Path, Path]]:
    """Pictures with the relative path, without suffix, that their results are called by, sorted.

    Parameters
    ----------
    source
        One picture, or a folder that is searched through.
    leave_out
        Folders that are not searched: where results go.

    Raises
    ------
    DataError
        It is missing, is one of `leave_out` or below, or holds no pictures, or two of one name.
    """
    if not source.exists():
        raise DataError(f"{source} is missing")
    skipped = {folder.resolve() for folder in leave_out}
    if not skipped.isdisjoint([source.resolve(), *source.resolve().parents]):
        # Else results could take the place of the pictures that they are made from.
        raise DataError(f"{source} lies where results go; choose another folder for the results")
    if source.is_file():
        return [(source, Path(source.stem))]
    found = sorted(p for p in source.rglob("*") if p.suffix.lower() in PICTURES and p.is_file())
    pictures = [(p, p.relative_to(source).with_suffix("")) for p in found if skipped.isdisjoint(p.resolve().parents)]
    if not pictures:
        raise DataError(f"{source} holds no pictures ({', '.join(sorted(PICTURES))})")
    names: dict[Path, Path] = {}
    for path, name in pictures:
        if name in names:
            raise DataError(f"{names[name]} and {path} would have results of one name; rename one of them")
        names[name] = path
    return pictures
