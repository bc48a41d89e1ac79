"""An OME-Zarr image on disk (NGFF 0.5), read like a slide."""

from __future__ import annotations

import hashlib
import json
import math
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from wsi_espnet.errors import ScaleError, SlideError, SlideReadError
from wsi_espnet.geometry import Level, ReadPlan, Region, plan_read
from wsi_espnet.slides.resample import read_plan, valid_part
from wsi_espnet.slides.stored_tissue import TISSUE_LABEL, cells_of
from wsi_espnet.slides.zarr_image import Image, parse_image


class ZarrSource:
    """An NGFF 0.5 image of three 8-bit channels, read at any mpp, by many threads at once.

    Its level-0 px are the px of its largest array. Chunks that are absent have the array's fill value, as
    Zarr defines it; in what `tile` writes that is white.

    Parameters
    ----------
    path
        The image's folder, which holds a zarr.json.
    mpp
        um per level-0 px, > 0; replaces what the metadata say.

    Attributes
    ----------
    vendor : str
        ``ome-zarr``.
    levels : tuple[Level, ...]
        Finest first.
    mpp : tuple[float, float] | None
        (y, x) um per level-0 px; None where the axes have no unit of length.
    bounds_l0 : Region
        All of the largest array.

    Raises
    ------
    SlideError
        The folder is damaged, unfinished, or another kind of Zarr.
    ScaleError
        `mpp` is not a positive number.
    """

    def __init__(self, path: Path | str, *, mpp: float | None = None) -> None:
        if mpp is not None and not (math.isfinite(mpp) and mpp > 0):
            raise ScaleError(f"the slide's mpp must be a positive number of um per px, got {mpp}")
        self.path = Path(path)
        self.vendor = "ome-zarr"
        self._image: Image = parse_image(self.path, _attributes(self.path))
        self._arrays = [_open_level(self.path, level) for level in self._image.paths]
        shapes = [self._image.shape_yx(array.shape) for array in self._arrays]
        self.levels = tuple(
            Level(index, shape, downsample)
            for index, (shape, downsample) in enumerate(zip(shapes, self._image.downsamples, strict=True))
        )
        self.mpp = self._image.mpp if mpp is None else (mpp, mpp)
        self.bounds_l0 = Region(0, 0, *shapes[0])

    def __repr__(self) -> str:
        height, width = self.levels[0].shape
        return f"ZarrSource({self.path.name}, {height} x {width} px, {len(self.levels)} levels, mpp={self.mpp})"

    def __enter__(self) -> ZarrSource:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Nothing is held open between reads."""

    def plan(self, mpp: float | None, *, allow_upsampling: bool = False) -> ReadPlan:
        """How to read the image at `mpp`; None reads its largest array as it is.

        Raises
        ------
        ScaleError
            The image has no scale, or is coarser than `mpp` and `allow_upsampling` is False.
        """
        return plan_read(
            self.levels,
            slide_mpp=self.mpp,
            bounds_l0=self.bounds_l0,
            mpp=mpp,
            allow_upsampling=allow_upsampling,
            origin_um=self._image.origin_um,
        )

    def read(self, plan: ReadPlan, region: Region) -> NDArray[np.uint8]:
        """Px of a region (plan px, inside `plan.shape`) at the plan's mpp: uint8 (h, w, 3).

        Raises
        ------
        GeometryError
            The region reaches beyond the plan.
        SlideReadError
            A chunk is damaged.
        """
        read_level = partial(self.read_level, plan.level)
        return read_plan(plan, region, valid=valid_part(plan.level, self.bounds_l0), read_level=read_level)

    def read_level(self, level: Level, region: Region) -> NDArray[np.uint8]:
        """Px of a region of one level as they are stored: level px inside the level -> uint8 (h, w, 3)."""
        try:
            px = self._arrays[level.index][self._image.selection(region)]
        except (OSError, ValueError, RuntimeError) as exc:  # what stores and codecs raise for damaged bytes
            raise SlideReadError(
                f"{self.path} cannot be read at level {level.index}, rows {region.y}..{region.y + region.h}, "
                f"columns {region.x}..{region.x + region.w}: a chunk is damaged; {type(exc).__name__}: {exc}"
            ) from exc
        return np.ascontiguousarray(np.moveaxis(np.asarray(px, np.uint8), 0, -1))

    def stored_tissue(self) -> NDArray[np.uint8] | None:
        """Cells (h, w) of the tissue mask that the image was written with, covering it evenly; None without.

        Raises
        ------
        SlideReadError
            It is there but damaged.
        """
        folder = self.path / "labels" / TISSUE_LABEL
        if not (folder / "zarr.json").is_file():
            return None
        array = _open_level(folder, "0")
        try:
            return cells_of(np.asarray(array[...]), _attributes(folder))
        except (OSError, ValueError, RuntimeError) as exc:
            raise SlideReadError(f"the tissue mask {folder} is damaged; {type(exc).__name__}: {exc}") from exc

    def identity(self) -> dict[str, str | int | float]:
        """Facts that tell this image from another, wherever it lies.

        The digest covers the metadata and, for every file of the largest array, its place and size.
        """
        level = self.path / self._image.paths[0]
        digest = hashlib.sha256((self.path / "zarr.json").read_bytes())
        total = 0
        for file in sorted(file for file in level.rglob("*") if file.is_file()):
            size = file.stat().st_size
            digest.update(f"{file.relative_to(level).as_posix()} {size}\n".encode())
            total += size
        facts: dict[str, str | int | float] = {
            "kind": "ome-zarr",
            "name": self.path.name,
            "bytes": total,
            "sha256": digest.hexdigest(),
        }
        if self.mpp is not None:
            facts |= {"mpp_y": self.mpp[0], "mpp_x": self.mpp[1]}
        return facts


def _attributes(path: Path) -> dict[str, Any]:
    """The attributes of a Zarr v3 group."""
    document = path / "zarr.json"
    if not document.is_file():
        older = any((path / name).is_file() for name in (".zgroup", ".zattrs", ".zarray"))
        hint = (
            "it is Zarr v2 (OME-Zarr 0.4 or older), and 0.5 is read; convert it, or read the slide itself"
            if older
            else "it holds no zarr.json"
        )
        raise SlideError(f"{path} is not an OME-Zarr 0.5 image: {hint}")
    try:
        node = json.loads(document.read_text(encoding="utf-8"))
    except (OSError, ValueError) as exc:
        raise SlideError(f"{document} cannot be read: {exc}; the OME-Zarr is damaged, write it again") from exc
    if not isinstance(node, dict) or node.get("node_type") != "group":
        raise SlideError(f"{path} is not an OME-Zarr image: it is no Zarr group; give the folder above the arrays")
    attributes = node.get("attributes", {})
    return attributes if isinstance(attributes, dict) else {}


def _open_level(folder: Path, name: str) -> zarr.Array[Any]:
    try:
        array = zarr.open_array(folder / name, mode="r", zarr_format=3)
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
    ) as exc:  # absent, or metadata that zarr does not understand
        raise SlideError(f"level {name} of {folder} cannot be opened: {exc}; write the OME-Zarr again") from exc
    if array.dtype != np.uint8:
        raise SlideError(f"{folder} holds {array.dtype} pixels, 8-bit RGB (uint8) is read; convert it first")
    return array
