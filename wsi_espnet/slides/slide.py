"""A slide that OpenSlide reads: px at any mpp, in the right place, transparent px as glass."""

from __future__ import annotations

import contextlib
import hashlib
import math
import threading
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import TracebackType

import numpy as np
import openslide
from numpy.typing import NDArray
from PIL import Image

from wsi_espnet.errors import ScaleError, SlideError, SlideReadError
from wsi_espnet.geometry import Level, ReadPlan, Region, plan_read
from wsi_espnet.slides.blocks import cuts
from wsi_espnet.slides.jpeg_tiles import FORMATS, JpegTiles, find_jpeg_tiles
from wsi_espnet.slides.properties import associated_sizes, bounds_l0, file_mpp, objective_power
from wsi_espnet.slides.resample import read_plan, valid_part
from wsi_espnet.slides.unopenable import why_unopenable

CACHE_BYTES = 64 << 20
"""Decoded tiles that an open slide keeps, for all threads together: 256 of 256 x 256 px. A block's neighbours ask for
its tiles again, a row of them at most: 8 MiB for each thread that reads 8000 level px across."""

ON_GRID = frozenset({"aperio", "dicom", "generic-tiff", "hamamatsu", "philips"})
"""Formats whose tiles lie at whole px of their level: there a read may start anywhere.

In others (MIRAX, Ventana, Leica) tiles may lie between px, and OpenSlide rounds their places to 1/256 px as seen from
where a read starts, which changes px by 1 grey level.
"""


class Slide:
    """A slide behind OpenSlide, read at any mpp, by many threads at once.

    Positions. OpenSlide takes a location in whole level-0 px. On a level whose downsample is not a whole
    number, most level px do not start at one, and OpenSlide then interpolates: px come out blurred and
    shifted by up to half a level-0 px, differently for every location. So levels are read in the blocks of
    a fixed lattice, each from the best location within `blocks.LEAD_PX` before it, and a px does not depend on the
    region it is read in. Its residual shift is 0 where that location is exact to `blocks.EXACT_PX`, and never above
    half a level-0 px, which is 0.5 / downsample level px. Levels with a whole downsample are exact. Levels of
    plain JPEG tiles do not go through OpenSlide (`wsi_espnet.slides.jpeg_tiles`): the same px, several times as fast.

    Failures. After an error an OpenSlide handle refuses every further read: it is replaced by a fresh one,
    and the read is repeated alone before it is blamed.

    Parameters
    ----------
    path
        The slide file: the .mrxs of a MIRAX slide, any .dcm of a DICOM one.
    mpp
        um per level-0 px, > 0; replaces what the file says.

    Attributes
    ----------
    vendor : str
        OpenSlide's name of the format.
    levels : tuple[Level, ...]
        Finest first.
    mpp : tuple[float, float] | None
        (y, x) um per level-0 px; None where the file does not say.
    bounds_l0 : Region
        The part that holds px: the file's bounds where it states all four, else the whole slide.
    power : float | None
        Nominal power of the objective, such as 20; shown, never used for the scale.
    properties : Mapping[str, str]
        What OpenSlide found in the file.
    associated_images : Mapping[str, tuple[int, int]]
        (height, width) of label, macro and such, which are not read.

    Raises
    ------
    SlideError
        The file is missing, damaged, or no slide.
    ScaleError
        `mpp` is not a positive number.
    """

    def __init__(self, path: Path | str, *, mpp: float | None = None) -> None:
        if mpp is not None and not (math.isfinite(mpp) and mpp > 0):
            raise ScaleError(f"the slide's mpp must be a positive number of um per px, got {mpp}")
        self.path = Path(path)
        self._given_mpp = mpp
        self._lock = threading.Lock()
        self._tiles_lock = threading.Lock()
        self._tiles: dict[int, JpegTiles] | None = None  # found at the first read: `info` reads nothing
        self._cache = openslide.OpenSlideCache(CACHE_BYTES)
        handle = self._open()
        self._handle: openslide.OpenSlide | None = handle
        self.properties: Mapping[str, str] = dict(handle.properties)
        self.vendor = self.properties[openslide.PROPERTY_NAME_VENDOR]
        self.levels = tuple(
            Level(index, (height, width), float(downsample))
            for index, ((width, height), downsample) in enumerate(
                zip(handle.level_dimensions, handle.level_downsamples, strict=True)
            )
        )
        self.mpp = file_mpp(self.properties) if mpp is None else (mpp, mpp)
        self.bounds_l0 = bounds_l0(self.properties, self.levels[0].shape)
        self.power = objective_power(self.properties)
        self.associated_images = associated_sizes(self.properties)

    def __repr__(self) -> str:
        height, width = self.levels[0].shape
        levels = len(self.levels)
        return f"Slide({self.path.name}, {self.vendor}, {height} x {width} px, {levels} levels, mpp={self.mpp})"

    def __reduce__(self) -> tuple[Callable[..., Slide], tuple[Path, float | None]]:
        return _reopen, (self.path, self._given_mpp)

    def __enter__(self) -> Slide:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file; a read that is under way in another thread ends first."""
        with self._lock:
            self._handle = None  # OpenSlide closes it when the last thread lets go: closing earlier would crash

    def plan(self, mpp: float | None, *, allow_upsampling: bool = False) -> ReadPlan:
        """How to read the slide at `mpp` um per px; None reads level 0 as it is.

        Raises
        ------
        ScaleError
            The slide does not say its scale, or is coarser than `mpp` and `allow_upsampling` is False.
        """
        return plan_read(
            self.levels,
            slide_mpp=self.mpp,
            bounds_l0=self.bounds_l0,
            mpp=mpp,
            allow_upsampling=allow_upsampling,
        )

    def read(self, plan: ReadPlan, region: Region) -> NDArray[np.uint8]:
        """Px of a region at the plan's mpp.

        Parameters
        ----------
        plan
            From `plan` of this slide.
        region
            In plan px, inside `plan.shape`.

        Returns
        -------
        numpy.ndarray
            uint8 (h, w, 3), RGB; white where the slide is transparent. The same px however regions are cut.

        Raises
        ------
        GeometryError
            The region reaches beyond the plan.
        SlideReadError
            The file is damaged there.
        """
        read_level = partial(self.read_level, plan.level)
        return read_plan(plan, region, valid=valid_part(plan.level, self.bounds_l0), read_level=read_level)

    def read_level(self, level: Level, region: Region) -> NDArray[np.uint8]:
        """Px of a region of one level as they are stored: level px inside the level -> uint8 (h, w, 3)."""
        self._opened()
        tiles = self._jpeg_tiles().get(level.index)
        if tiles is not None:
            with contextlib.suppress(SlideReadError):  # OpenSlide tries in its turn, and says what is wrong
                return tiles.read(region)
        return self._read_drawn(level, region)

    def _jpeg_tiles(self) -> dict[int, JpegTiles]:
        """Levels that do not need OpenSlide, by index."""
        with self._tiles_lock:
            if self._tiles is None:
                can = self.vendor in FORMATS
                self._tiles = find_jpeg_tiles(self.path, self.levels, judge=self._read_drawn) if can else {}
            return self._tiles

    def _read_drawn(self, level: Level, region: Region) -> NDArray[np.uint8]:
        """`read_level` through OpenSlide."""
        out = np.empty((*region.shape, 3), np.uint8)
        exact = level.downsample.is_integer() and self.vendor in ON_GRID
        columns = list(cuts(region.x, region.w, None if exact else level.downsample))
        for y_start, y, y_stop in cuts(region.y, region.h, None if exact else level.downsample):
            for x_start, x, x_stop in columns:
                image = self._read_rgba(level, Region(y_start, x_start, y_stop - y_start, x_stop - x_start))
                kept = np.asarray(_on_white(image))[y - y_start :, x - x_start :]
                out[y - region.y : y_stop - region.y, x - region.x : x_stop - region.x] = kept
        return out

    def identity(self) -> dict[str, str | int | float]:
        """Facts that tell this slide, read at this scale, from another; the same wherever the file lies."""
        facts: dict[str, str | int | float] = {
            "kind": "slide",
            "name": self.path.name,
            "bytes": self.path.stat().st_size,
            "quickhash": self.properties.get(openslide.PROPERTY_NAME_QUICKHASH1) or _digest_of_ends(self.path),
        }
        if self.mpp is not None:
            facts |= {"mpp_y": self.mpp[0], "mpp_x": self.mpp[1]}
        return facts

    def _open(self) -> openslide.OpenSlide:
        try:
            self.path.stat()
        except (FileNotFoundError, NotADirectoryError) as exc:
            raise SlideError(f"there is no slide at {self.path}") from exc
        except OSError as exc:
            raise SlideError(
                f"{self.path} cannot be read ({exc.strerror}); check its permissions and the disk"
            ) from exc
        if self.path.is_dir():
            raise SlideError(
                f"{self.path} is a folder, not a slide; give the slide file (for MIRAX the .mrxs beside the "
                "folder, for DICOM one of its .dcm files), or an OME-Zarr folder, which holds a zarr.json"
            )
        try:
            handle = openslide.OpenSlide(self.path)
        except openslide.OpenSlideUnsupportedFormatError as exc:
            raise SlideError(f"{self.path} does not open as a slide: {why_unopenable(self.path)}") from exc
        except openslide.OpenSlideError as exc:
            raise SlideError(f"{self.path} is damaged or of an unsupported kind; OpenSlide says: {exc}") from exc
        handle.set_cache(self._cache)
        return handle

    def _opened(self) -> openslide.OpenSlide:
        handle = self._handle
        if handle is None:
            raise SlideError(f"{self.path} was closed and cannot be read; open it again")
        return handle

    def _read_rgba(self, level: Level, region: Region) -> Image.Image:
        handle = self._opened()
        try:
            return _read_region(handle, level, region)
        except openslide.OpenSlideError:
            return self._read_again(handle, level, region)

    def _read_again(self, broken: openslide.OpenSlide, level: Level, region: Region) -> Image.Image:
        """Repeat a read that failed, alone: another thread's bad read breaks the handle for all of them."""
        with self._lock:
            fresh = self._open()
            try:
                return _read_region(fresh, level, region)
            except openslide.OpenSlideError as exc:
                fresh = self._open()
                y, x, h, w = (round(px * level.downsample) for px in (region.y, region.x, region.h, region.w))
                raise SlideReadError(
                    f"{self.path} cannot be read at level {level.index}, level-0 rows {y}..{y + h}, columns "
                    f"{x}..{x + w}: the file is damaged there; OpenSlide says: {exc}"
                ) from exc
            finally:
                if self._handle is broken:
                    self._handle = fresh  # the broken one closes when the last thread lets go of it


def _digest_of_ends(path: Path) -> str:
    """SHA-256 of a file's first and last MiB, for formats that OpenSlide has no quick hash of."""
    with path.open("rb") as file:
        digest = hashlib.sha256(file.read(1 << 20))
        file.seek(max(file.seek(0, 2) - (1 << 20), 0))
        digest.update(file.read())
    return digest.hexdigest()


def _reopen(path: Path, mpp: float | None) -> Slide:
    return Slide(path, mpp=mpp)


def _read_region(handle: openslide.OpenSlide, level: Level, region: Region) -> Image.Image:
    location = round(region.x * level.downsample), round(region.y * level.downsample)
    return handle.read_region(location, level.index, (region.w, region.h))


def _on_white(image: Image.Image) -> Image.Image:
    """RGBA (not premultiplied) as RGB on glass: where alpha is 0, and it is so beyond the scan, white."""
    alpha = image.getchannel("A")
    rgb = image.convert("RGB")
    if alpha.getextrema() == (255, 255):
        return rgb
    white = Image.new("RGB", image.size, (255, 255, 255))
    white.paste(rgb, mask=alpha)
    return white
