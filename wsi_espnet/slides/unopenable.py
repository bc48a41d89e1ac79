"""Why a file does not open as a slide, in words that say what to do about it."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO

_KNOWN = {
    b"\x89PNG": "a PNG image",
    b"\xff\xd8\xff": "a JPEG image",
    b"PK\x03\x04": "a ZIP archive",
    b"%PDF": "a PDF",
}

_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # classic and BigTIFF, little and big endian

_CONVERT = "convert it to a tiled pyramid, as with: vips tiffsave IN OUT.tif --tile --pyramid --compression jpeg"


def why_unopenable(path: Path) -> str:
    """One clause on what is wrong with a file that OpenSlide does not recognise, with the remedy."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            return _why(path, file, size)
    except OSError as exc:
        return f"it cannot be read ({exc.strerror or exc}); check its permissions and the disk"


def _why(path: Path, file: BinaryIO, size: int) -> str:
    if size == 0:
        return "it is empty (0 bytes); copy or download it again"
    if path.suffix.lower() == ".mrxs" and not path.with_suffix("").is_dir():
        return f"its data folder {path.with_suffix('').name}/ is missing; copy it beside the .mrxs file"
    head = file.read(8)
    for magic, what in _KNOWN.items():
        if head.startswith(magic):
            return f"it is {what}, not a slide; {_CONVERT}"
    if head[:4] in _TIFF:
        beyond = _directory_beyond_end(file)
        if beyond is not None:
            return (
                f"it is cut off: a TIFF directory should lie at byte {beyond}, the file ends at {size}; "
                "copy or download it again"
            )
        return f"it is a TIFF that OpenSlide does not read, perhaps because it is not tiled; {_CONVERT}"
    return "OpenSlide does not know this format; give a slide file, or a folder that is an OME-Zarr"


def _directory_beyond_end(file: BinaryIO) -> int | None:
    """Offset of the first TIFF directory that reaches beyond the end of the file; None where none does.

    Follows the chain of directories of TIFF 6.0 (section 2) and BigTIFF: count of entries, entries of 12 (20)
    bytes, offset of the next.
    """
    file.seek(0)
    order = "<" if file.read(2) == b"II" else ">"
    big = struct.unpack(order + "H", file.read(2))[0] == 43
    count, entry, offset = ("Q", 20, "Q") if big else ("H", 12, "I")
    file.seek(8 if big else 4)
    seen: set[int] = set()
    at = _unpacked(file, order + offset)
    while at and at not in seen:
        seen.add(at)
        file.seek(at)
        entries = _unpacked(file, order + count)
        if entries is None:
            return at
        file.seek(entries * entry, 1)
        following = _unpacked(file, order + offset)
        if following is None:
            return at
        at = following
    return None


def _unpacked(file: BinaryIO, layout: str) -> int | None:
    data = file.read(struct.calcsize(layout))
    return int(struct.unpack(layout, data)[0]) if len(data) == struct.calcsize(layout) else None
