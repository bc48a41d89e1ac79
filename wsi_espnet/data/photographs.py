"""Pictures without ground truth: one file, or all of a folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from wsi_espnet.errors import DataError, UsageError

PICTURES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"})
"""Suffixes of pictures, in lower case."""

VIDEOS = frozenset({".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv"})
"""Suffixes of videos, in lower case."""

WIDE_MODES = frozenset({"I", "F", "I;16", "I;16B", "I;16L", "I;16N"})
"""Pillow's modes of more than 8 bits; it would cut their values off at 255."""


def read_rgb(path: Path) -> NDArray[np.uint8]:
    """A picture as (h, w, 3) uint8, turned upright as its EXIF data says; transparency is dropped.

    Raises
    ------
    DataError
        It is missing, damaged, no picture, of more than 8 bits, or far too large.
    """
    try:
        with Image.open(path) as image:
            if image.mode in WIDE_MODES:
                raise DataError(f"{path} has more than 8 bits per channel ({image.mode}); convert it to 8-bit RGB")
            return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    except FileNotFoundError as exc:
        raise DataError(f"{path} is missing") from exc
    except UnidentifiedImageError as exc:
        raise DataError(f"{path} is not a picture that can be read") from exc
    except Image.DecompressionBombError as exc:
        raise DataError(f"{path} is too large for a picture: {exc}; take `wsi-espnet segment` for slides") from exc
    except (OSError, SyntaxError) as exc:  # Pillow raises SyntaxError for broken PNGs
        raise DataError(f"{path} is damaged and cannot be read: {exc}") from exc


def find_pictures(source: Path, *, leave_out: Path) -> list[tuple[Path, Path]]:
    """Pictures with the relative path, without suffix, that their results are called by, sorted.

    Parameters
    ----------
    source
        One picture, or a folder that is searched through.
    leave_out
        A folder that is not searched: where results go.

    Raises
    ------
    UsageError
        It is a video.
    DataError
        It is missing, or holds no pictures, or two of one name.
    """
    if source.suffix.lower() in VIDEOS and not source.is_dir():
        raise UsageError(
            f"{source} is a video, and videos are not read: extract its frames first, "
            f"such as with `ffmpeg -i {source.name} frames/%06d.png`, and give that folder"
        )
    if source.is_file():
        return [(source, Path(source.stem))]
    if not source.is_dir():
        raise DataError(f"{source} is missing")
    skipped = leave_out.resolve()
    found = sorted(p for p in source.rglob("*") if p.suffix.lower() in PICTURES and p.is_file())
    pictures = [(p, p.relative_to(source).with_suffix("")) for p in found if skipped not in p.resolve().parents]
    if not pictures:
        raise DataError(f"{source} holds no pictures ({', '.join(sorted(PICTURES))})")
    names: dict[Path, Path] = {}
    for path, name in pictures:
        if name in names:
            raise DataError(f"{names[name]} and {path} would have results of one name; rename one of them")
        names[name] = path
    return pictures
