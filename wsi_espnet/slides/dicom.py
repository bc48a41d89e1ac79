"""Which DICOM files are levels of slides, and which of them belong together; importing this needs pydicom."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import pydicom
from pydicom.errors import InvalidDicomError
from pydicom.uid import VLWholeSlideMicroscopyImageStorage


def read_headers(path: Path, only: Sequence[str] | None = None) -> pydicom.Dataset | None:
    """All but the px of a file, or its elements `only` by keyword; None of what is no DICOM or cannot be read."""
    try:
        return pydicom.dcmread(path, stop_before_pixels=True, specific_tags=None if only is None else list(only))
    except (InvalidDicomError, OSError):
        return None


def is_level(headers: pydicom.Dataset) -> bool:
    """Whether a file holds a level of a slide, not its label, overview or thumbnail (DICOM PS3.3, C.8.12.4.1.1)."""
    return headers.get("SOPClassUID") == VLWholeSlideMicroscopyImageStorage and "VOLUME" in headers.get("ImageType", ())


def one_of_each_slide(paths: Iterable[Path]) -> list[Path]:
    """Of all levels that lie in one folder and belong to one series, the first by name; it opens the slide.

    Files of other kinds, such as labels and masks, are no slides and left out. What is no DICOM in spite of its name,
    or damaged, stays: whoever opens it is told so.
    """
    slides: dict[tuple[Path, str], Path] = {}
    for path in sorted(paths):
        series = _series(path)
        if series is not None:
            slides.setdefault((path.parent, series), path)
    return list(slides.values())


def _series(path: Path) -> str | None:
    """What levels of one slide have in common; None of what is no level, the file's own name of what is damaged."""
    try:
        headers = read_headers(path, only=("SOPClassUID", "ImageType", "SeriesInstanceUID"))
        if headers is None:
            return path.name
        return str(headers.get("SeriesInstanceUID")) if is_level(headers) else None
    except Exception:  # noqa: BLE001 - values are decoded when asked for, and damaged ones raise what they will
        return path.name
