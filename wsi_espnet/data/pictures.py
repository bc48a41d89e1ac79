"""Picture files of a data set: RGB images, and masks of ids with what their values mean."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from wsi_espnet.classes import UNLABELLED
from wsi_espnet.data.adapter import Labelled, Sample
from wsi_espnet.errors import DataError

UNKNOWN = -1
"""In a lookup: a value that no mask of the data set should hold."""

Lookup = NDArray[np.int16]
"""(256,) int16: the class id of each value of a mask file, 255 where it is ignored, -1 where it is `UNKNOWN`."""

_DAMAGED = (OSError, SyntaxError, ValueError, EOFError, struct.error)
"""What Pillow raises for damaged files, by format; SyntaxError is its word for broken PNGs."""


def lookup_of(ids: Mapping[int, int] | int, *, ignored: Iterable[int] = (UNLABELLED,)) -> Lookup:
    """The lookup for masks with these values.

    Parameters
    ----------
    ids
        Class id by value; a number n stands for the values 0..n - 1, which are the class ids.
    ignored
        Values of px that belong to no class.

    Examples
    --------
    >>> lookup_of({0: 0, 255: 1}, ignored=[128])[[0, 1, 128, 255]].tolist()
    [0, -1, 255, 1]
    """
    lookup = np.full(256, UNKNOWN, np.int16)
    lookup[list(ignored)] = UNLABELLED
    for value, id_ in ids.items() if isinstance(ids, Mapping) else zip(range(ids), range(ids), strict=True):
        lookup[value] = id_
    return lookup


@dataclass(frozen=True, slots=True, eq=False)
class FileSample:
    """A picture and a mask of ids (grey or palette) of the same size.

    Parameters
    ----------
    name
        Unique within its split.
    image, mask
        Any format that Pillow reads; a mask must not be a JPEG, which blurs ids.
    lookup
        What the values of the mask mean.
    """

    name: str
    image: Path
    mask: Path
    lookup: Lookup

    def read(self) -> Labelled:
        """Decode both files and translate the mask.

        Raises
        ------
        DataError
            A file is missing or damaged, sizes differ, or the mask holds a value outside the class table; with
            all of these faults, not only the first.
        """
        faults: list[str] = []
        rgb: NDArray[np.uint8] | None = None
        ids: NDArray[np.uint8] | None = None
        try:
            rgb = read_rgb(self.image)
        except DataError as exc:
            faults += exc.faults
        try:
            ids = read_ids(self.mask)
            faults += self._outside(ids)
        except DataError as exc:
            faults += exc.faults
        if rgb is not None and ids is not None and ids.shape != rgb.shape[:2]:
            faults.append(
                f"{self.mask} has {ids.shape[1]} x {ids.shape[0]} px and its image {self.image.name} "
                f"{rgb.shape[1]} x {rgb.shape[0]}; both must be of one size"
            )
        if faults or rgb is None or ids is None:
            raise DataError(*faults)
        return Labelled(rgb, self.lookup.astype(np.uint8)[ids])

    def _outside(self, ids: NDArray[np.uint8]) -> list[str]:
        there = np.bincount(ids.ravel(), minlength=256) > 0
        wrong = np.flatnonzero(there & (self.lookup == UNKNOWN))
        if not len(wrong):
            return []
        known = _ranges(np.flatnonzero(self.lookup != UNKNOWN).tolist())
        return [f"{self.mask} holds the ids {_ranges(wrong.tolist())}, which no class has; known are {known}"]


@dataclass(frozen=True, slots=True, eq=False)
class ShrunkSample:
    """Another sample with fewer px: colours filtered as those of slides are, and the class at the middle of each px.

    Parameters
    ----------
    whole
        The other.
    factor
        Sides of a px in px of the other, at least 1.
    """

    whole: Sample
    factor: float

    @property
    def name(self) -> str:
        """Of the other."""
        return self.whole.name

    def read(self) -> Labelled:
        """Read the other and shrink it; sides are rounded to whole px.

        Raises
        ------
        DataError
            As the other's.
        """
        rgb, labels = self.whole.read()
        h, w = (max(round(side / self.factor), 1) for side in labels.shape)
        return Labelled(
            np.asarray(Image.fromarray(rgb).resize((w, h), Image.Resampling.HAMMING)),
            np.asarray(Image.fromarray(labels).resize((w, h), Image.Resampling.NEAREST)),
        )


def read_rgb(path: Path) -> NDArray[np.uint8]:
    """The px of a picture, (h, w, 3) uint8, turned upright as its EXIF data say; transparency is dropped.

    Raises
    ------
    DataError
        It is missing or damaged, or has more than 8 bits per channel.
    """
    image = _open(path)
    if image.mode.startswith(("I", "F")):
        raise DataError(f"{path} has more than 8 bits per px (mode {image.mode}); save it as 8-bit RGB or grey")
    return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))


def read_ids(path: Path) -> NDArray[np.uint8]:
    """The values of a mask file, (h, w) uint8: grey values, palette indices, or R where R = G = B.

    Raises
    ------
    DataError
        It is missing or damaged, a JPEG, coloured, or holds values above 255.
    """
    image = _open(path)
    if image.format == "JPEG":
        raise DataError(f"{path} is a JPEG, which blurs ids at every edge; save masks as PNG")
    values = np.asarray(image)
    if values.ndim == 3 and (values == values[..., :1]).all():
        values = values[..., 0]
    if values.ndim != 2:
        raise DataError(f"{path} is a {image.mode} picture; a mask holds one id per px, as grey value or palette index")
    if values.dtype != np.uint8 and (values.min() < 0 or values.max() > UNLABELLED):
        raise DataError(f"{path} holds ids from {values.min()} to {values.max()}; wanted are 0..{UNLABELLED}")
    return values.astype(np.uint8)


def _open(path: Path) -> Image.Image:
    try:
        with Image.open(path) as image:
            image.load()
    except FileNotFoundError as exc:
        raise DataError(f"{path} is missing") from exc
    except Image.DecompressionBombError as exc:
        raise DataError(
            f"{path} has too many px for one sample: {exc}; cut it into tiles, or take `wsi-espnet segment` for slides"
        ) from exc
    except _DAMAGED as exc:
        raise DataError(f"{path} cannot be read as a picture: {exc}; copy or save it again") from exc
    return image


def _ranges(values: list[int]) -> str:
    """Numbers in order, runs of them as first..last: 0..3, 7."""
    parts: list[list[int]] = []
    for value in values:
        if parts and value == parts[-1][-1] + 1:
            parts[-1] = [parts[-1][0], value]
        else:
            parts.append([value, value])
    return ", ".join(f"{a}" if a == b else f"{a}..{b}" for a, b in parts)
