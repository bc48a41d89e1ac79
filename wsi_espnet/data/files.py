"""Data sets of picture files: which image goes with which mask, and what stands alone."""

from __future__ import annotations

import csv
import io
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from wsi_espnet.classes import ClassTable
from wsi_espnet.data.adapter import Finding, Listing, Sample, Severity
from wsi_espnet.data.pictures import FileSample, Lookup
from wsi_espnet.errors import DataError

PICTURES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"})
"""Suffixes of pictures, in lower case."""

Files = dict[str, Path]
"""Files by what an image and its mask have in common."""


def read_text(path: Path) -> str:
    """A text file in UTF-8, without the mark that Excel puts before it.

    Raises
    ------
    DataError
        It cannot be read, or is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as exc:
        raise DataError(f"{path} cannot be read ({exc}); save it as UTF-8 text") from exc


def read_table(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file by the names of its columns, without spaces around values.

    Raises
    ------
    DataError
        As `read_text`, or it is not CSV.
    """
    try:
        rows = list(csv.DictReader(io.StringIO(read_text(path), newline="")))
    except csv.Error as exc:
        raise DataError(f"{path} is not a table ({exc}); save it as CSV") from exc
    return [{key: (value or "").strip() for key, value in row.items() if key} for row in rows]


class FileDataset(ABC):
    """A `Dataset` of picture files: a subclass sets the attributes and lists one split.

    Attributes
    ----------
    name, classes, mpp, splits, unions
        As in `wsi_espnet.data.adapter.Dataset`.
    root
        Its folder.
    """

    name: str
    classes: ClassTable
    splits: tuple[str, ...]
    root: Path
    mpp: float | None = None
    unions: Mapping[str, tuple[str, ...]] = {}

    @abstractmethod
    def _list(self, split: str) -> Listing:
        """One of `splits`, with findings instead of errors."""

    def listing(self, split: str) -> Listing:
        """Samples and findings of a split.

        Raises
        ------
        DataError
            There is no such split.
        """
        if split not in self.splits:
            raise DataError(f"{self.root} has no split {split!r}; there are {', '.join(self.splits)}")
        return self._list(split)

    def samples(self, split: str) -> tuple[Sample, ...]:
        """All samples of a split, by name.

        Raises
        ------
        DataError
            There is no such split, or an image or mask of it stands alone.
        """
        return self.listing(split).complete()


def pair_by_stem(images: Path, masks: Path, lookup: Lookup) -> Listing:
    """The pictures of a folder with the masks of the same stem in another, by name."""
    missing = [folder for folder in (images, masks) if not folder.is_dir()]
    if missing:  # then all files of the other folder would stand alone
        return Listing((), tuple(error(folder, "the folder is missing") for folder in missing))
    (found_images, a), (found_masks, b) = by_stem(images), by_stem(masks)
    paired = pair(found_images, found_masks, lookup)
    return Listing(paired.samples, (*a, *b, *paired.findings))


def pair(images: Files, masks: Files, lookup: Lookup | Callable[[str], Lookup]) -> Listing:
    """Images with the masks of the same key, in the order of keys.

    Parameters
    ----------
    images, masks
        Files by the key that becomes the sample's name.
    lookup
        What the values of a mask mean; a function is given the key.
    """
    findings = [error(images[key], "there is no mask of this name") for key in sorted(images.keys() - masks.keys())]
    findings += [error(masks[key], "there is no image of this name") for key in sorted(masks.keys() - images.keys())]
    samples = [
        FileSample(key, images[key], masks[key], _of(lookup, key)) for key in sorted(images.keys() & masks.keys())
    ]
    return Listing(tuple(samples), tuple(findings))


def by_stem(folder: Path) -> tuple[Files, list[Finding]]:
    """The pictures of a folder by stem, and what else is in it; hidden files are passed over."""
    files: Files = {}
    findings: list[Finding] = []
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if path.suffix.lower() not in PICTURES:
            kind = "folder" if path.is_dir() else "file"
            findings.append(warning(path, f"this {kind} is no picture ({', '.join(sorted(PICTURES))}) and is not used"))
        elif path.stem in files:
            findings.append(
                error(path, f"it has the name of {files[path.stem].name}; names must differ before the dot")
            )
        else:
            files[path.stem] = path
    if not files:
        findings.append(error(folder, "the folder holds no pictures"))
    return files, findings


def listed(
    names: Iterable[str],
    image: Callable[[str], Path],
    mask: Callable[[str], Path],
    lookup: Lookup | Callable[[str], Lookup],
) -> Listing:
    """The samples that a list names, in its order; those without files are found to be missing."""
    samples: list[FileSample] = []
    findings: list[Finding] = []
    seen: set[str] = set()
    for name in names:
        absent = [path for path in (image(name), mask(name)) if not path.is_file()]
        findings += [error(path, f"the list names {name}, but this file is missing") for path in absent]
        if name in seen:
            findings.append(error(image(name), f"the list names {name} twice"))
        elif not absent:
            samples.append(FileSample(name, image(name), mask(name), _of(lookup, name)))
        seen.add(name)
    return Listing(tuple(samples), tuple(findings))


def _of(lookup: Lookup | Callable[[str], Lookup], key: str) -> Lookup:
    return lookup(key) if callable(lookup) else lookup


def error(where: Path | str, what: str) -> Finding:
    """A finding that must be mended."""
    return Finding(Severity.ERROR, str(where), what)


def warning(where: Path | str, what: str) -> Finding:
    """A finding that one can live with."""
    return Finding(Severity.WARNING, str(where), what)
