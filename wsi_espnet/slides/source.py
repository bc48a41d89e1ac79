"""Where pixels come from: a slide file or an OME-Zarr, behind one protocol."""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

from wsi_espnet.errors import SlideError
from wsi_espnet.geometry import Level, ReadPlan, Region
from wsi_espnet.slides.slide import Slide
from wsi_espnet.slides.zarr_source import ZarrSource


class PixelSource(Protocol):
    """An image pyramid that can be read at any mpp, by many threads at once.

    Attributes
    ----------
    path
        File or folder that it was opened from.
    vendor
        Kind of file, such as ``aperio`` or ``ome-zarr``.
    levels
        Finest first.
    mpp
        (y, x) um per level-0 px; None where the file does not say.
    bounds_l0
        The part that holds pixels, in level-0 px.
    """

    path: Path
    vendor: str
    levels: tuple[Level, ...]
    mpp: tuple[float, float] | None
    bounds_l0: Region

    def plan(self, mpp: float | None, *, allow_upsampling: bool = False) -> ReadPlan:
        """How to read the source at `mpp` um per px; None reads level 0 as it is.

        Raises
        ------
        ScaleError
            No scale is known, or the source is coarser than `mpp` and may not be enlarged.
        """
        ...

    def read(self, plan: ReadPlan, region: Region) -> NDArray[np.uint8]:
        """Pixels of a region (plan px, inside `plan.shape`): uint8 (h, w, 3), RGB, glass is white.

        Raises
        ------
        GeometryError
            The region reaches beyond the plan.
        SlideReadError
            The source is damaged there.
        """
        ...

    def identity(self) -> dict[str, str | int | float]:
        """Facts that tell this source from another, wherever it lies: for a fingerprint, JSON-able."""
        ...

    def close(self) -> None:
        """Let go of the file."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def open_source(path: Path | str, *, mpp: float | None = None) -> PixelSource:
    """Open a slide file, or a folder that is an OME-Zarr image.

    Parameters
    ----------
    path
        A slide that OpenSlide reads (the .mrxs of a MIRAX slide, one .dcm of a DICOM one), or an OME-Zarr
        folder.
    mpp
        um per level-0 px, > 0; replaces what the file says.

    Raises
    ------
    SlideError
        Nothing is there, or it is damaged, or neither a slide nor an OME-Zarr image.
    ScaleError
        `mpp` is not a positive number.
    """
    path = Path(path)
    if not is_utf8(path):
        raise SlideError(
            f"the name of {printable(path)} is not UTF-8, as every file of its result would have to be; rename it"
        )
    return ZarrSource(path, mpp=mpp) if is_zarr(path) else Slide(path, mpp=mpp)


def is_zarr(path: Path) -> bool:
    """Whether a path is a folder that is a Zarr; False for one that may not be looked into."""
    return any(os.path.isfile(path / name) for name in ("zarr.json", ".zgroup", ".zattrs"))


def is_utf8(path: Path) -> bool:
    """Whether a path is text: names on a disk are bytes, of which old ones may be Latin-1."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


def printable(path: Path) -> str:
    """A path that may not be text, with escapes for what is none."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")
