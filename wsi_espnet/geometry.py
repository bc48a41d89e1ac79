"""Scale: how um per px lead to a pyramid level and to exact factors. Pure, no pixels are read here.

Frames, all (y, x), all with the origin at a pixel's corner:

    l0       level-0 px of the whole slide, as OpenSlide counts them
    level    px of one pyramid level; level px * downsample = l0 px
    plan     px of the image that a plan describes: the slide inside its bounds, at the plan's mpp
    um       physical space; the centre of l0 px (0, 0) lies at the source's `origin_um`, (0, 0) for a slide

Rounding is policy, written once: a location is floored, a size is ceiled, a downsample stays a float.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from wsi_espnet.errors import GeometryError, ScaleError

SNAP = 0.02
"""A level within 2 % of the wanted mpp is read as it is, and the plan's mpp is the level's own.

Scanners differ by that much between slides of one nominal power (0.2485 to 0.2527 for "40x"), while a network
that was trained with scale jitter does not notice; resampling by 1.01 would only blur.
"""

_SLACK = 1e-6  # px; keeps a float that is an integer but for rounding from being ceiled to the next one


@dataclass(frozen=True, slots=True)
class Level:
    """One level of a pyramid.

    Parameters
    ----------
    index
        0 is the finest.
    shape
        (height, width) in level px.
    downsample
        Level-0 px per level px, > 0, a float that is never rounded.
    """

    index: int
    shape: tuple[int, int]
    downsample: float


@dataclass(frozen=True, slots=True)
class Region:
    """A half-open rectangle of whole px: rows y..y+h, columns x..x+w, h and w > 0."""

    y: int
    x: int
    h: int
    w: int

    def __post_init__(self) -> None:
        if self.h <= 0 or self.w <= 0:
            raise GeometryError(f"a region needs at least one px per side, got {self.h} x {self.w}")

    @property
    def slices(self) -> tuple[slice, slice]:
        """(rows, columns) for indexing an array of the same frame."""
        return slice(self.y, self.y + self.h), slice(self.x, self.x + self.w)

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width)."""
        return self.h, self.w

    def squares(self, side: int) -> Iterator[Region]:
        """Squares of `side` px that make it up, from its corner on, smaller at its far edges, row by row."""
        for y in range(self.y, self.y + self.h, side):
            for x in range(self.x, self.x + self.w, side):
                yield Region(y, x, min(side, self.y + self.h - y), min(side, self.x + self.w - x))

    @property
    def area(self) -> int:
        """Px inside."""
        return self.h * self.w


@dataclass(frozen=True, slots=True)
class ReadPlan:
    """How an image at one mpp comes out of a slide: which level is read, where it starts, by what it shrinks.

    Parameters
    ----------
    level
        The level that is read.
    mpp
        (y, x) um per plan px; (1.0, 1.0) stands for one px where the source has no physical scale.
    shape
        (height, width) of the image in plan px.
    origin_l0
        (y, x) of the image's corner in level-0 px: the corner of the bounds or, where a level is read as it
        is, of the level px that holds it, so that no px is read half.
    l0_per_px
        (y, x) level-0 px per plan px.
    origin_um
        (y, x) um of the centre of level-0 px (0, 0): (0, 0) for a slide, the translation of an OME-Zarr.
    """

    level: Level
    mpp: tuple[float, float]
    shape: tuple[int, int]
    origin_l0: tuple[float, float]
    l0_per_px: tuple[float, float]
    origin_um: tuple[float, float] = (0.0, 0.0)

    @property
    def level_per_px(self) -> tuple[float, float]:
        """(y, x) level px per plan px: 1 reads the level as it is, above 1 shrinks, below 1 invents px."""
        return self.l0_per_px[0] / self.level.downsample, self.l0_per_px[1] / self.level.downsample

    @property
    def region(self) -> Region:
        """The whole image."""
        return Region(0, 0, *self.shape)

    @property
    def um2_per_px(self) -> float:
        """Area of one plan px in square micrometres."""
        return self.mpp[0] * self.mpp[1]


def plan_read(
    levels: Sequence[Level],
    *,
    slide_mpp: tuple[float, float] | None,
    bounds_l0: Region,
    mpp: float | None,
    allow_upsampling: bool,
    origin_um: tuple[float, float] = (0.0, 0.0),
) -> ReadPlan:
    """Choose the coarsest level that still holds every detail of the wanted mpp.

    Parameters
    ----------
    levels
        Finest first.
    slide_mpp
        (y, x) um per level-0 px, > 0; None where it is not known, which only `mpp` None can do without.
    bounds_l0
        The part of the slide that holds pixels, in level-0 px.
    mpp
        Wanted um per px, > 0; None reads level 0 as it is.
    allow_upsampling
        Whether a slide coarser than `mpp` may be enlarged.
    origin_um
        (y, x) um of the centre of level-0 px (0, 0); passed on to the plan.

    Raises
    ------
    ScaleError
        The scale is not known, or the finest level is coarser than `mpp` by more than `SNAP` and enlarging
        was not allowed.

    Examples
    --------
    >>> levels = [Level(0, (4000, 6000), 1.0), Level(1, (1000, 1500), 4.0)]
    >>> whole = Region(0, 0, 4000, 6000)
    >>> plan = plan_read(levels, slide_mpp=(0.25, 0.25), bounds_l0=whole, mpp=0.5, allow_upsampling=False)
    >>> plan.level.index, plan.shape, plan.level_per_px
    (0, (2000, 3000), (2.0, 2.0))
    """
    if mpp is not None and not (math.isfinite(mpp) and mpp > 0):
        raise ScaleError(f"mpp must be a positive number of um per px, got {mpp}")
    if mpp is None:
        return _whole_level(levels[0], slide_mpp or (1.0, 1.0), bounds_l0, origin_um)
    if slide_mpp is None:
        raise ScaleError(
            f"the slide does not say how many um a px is, and {mpp:g} um per px is wanted; state it with "
            "--slide-mpp 0.5, or mpp=0.5 in Python (usual are 0.25 for 40x and 0.5 for 20x)"
        )
    level = _choose(levels, slide_mpp, mpp, allow_upsampling=allow_upsampling)
    if _is_as_wanted(level, slide_mpp, mpp):
        return _whole_level(level, slide_mpp, bounds_l0, origin_um)
    l0_per_px = (mpp / slide_mpp[0], mpp / slide_mpp[1])
    return ReadPlan(
        level=level,
        mpp=(mpp, mpp),
        shape=(max(1, _ceil(bounds_l0.h / l0_per_px[0])), max(1, _ceil(bounds_l0.w / l0_per_px[1]))),
        origin_l0=(float(bounds_l0.y), float(bounds_l0.x)),
        l0_per_px=l0_per_px,
        origin_um=origin_um,
    )


def _whole_level(
    level: Level, slide_mpp: tuple[float, float], bounds_l0: Region, origin_um: tuple[float, float]
) -> ReadPlan:
    """Plan px are the level's own px: nothing is resampled, and none lies beyond the level's edge."""
    ds = level.downsample
    y, x = _floor(bounds_l0.y / ds), _floor(bounds_l0.x / ds)
    return ReadPlan(
        level=level,
        mpp=(slide_mpp[0] * ds, slide_mpp[1] * ds),
        shape=(
            max(1, min(_ceil((bounds_l0.y + bounds_l0.h) / ds), level.shape[0]) - y),
            max(1, min(_ceil((bounds_l0.x + bounds_l0.w) / ds), level.shape[1]) - x),
        ),
        origin_l0=(y * ds, x * ds),
        l0_per_px=(ds, ds),
        origin_um=origin_um,
    )


def _is_as_wanted(level: Level, slide_mpp: tuple[float, float], wanted: float) -> bool:
    return all(abs(mpp * level.downsample / wanted - 1) <= SNAP for mpp in slide_mpp)


def _floor(px: float) -> int:
    return math.floor(px + _SLACK)


def _ceil(px: float) -> int:
    return math.ceil(px - _SLACK)


def _choose(levels: Sequence[Level], slide_mpp: tuple[float, float], wanted: float, *, allow_upsampling: bool) -> Level:
    finest = max(slide_mpp)  # the coarser axis decides where px are not square
    fine_enough = [lv for lv in levels if finest * lv.downsample <= wanted * (1 + SNAP)]
    if fine_enough:
        return max(fine_enough, key=lambda lv: lv.downsample)
    if allow_upsampling:
        return levels[0]
    got = finest * levels[0].downsample
    raise ScaleError(
        f"the slide's finest level has {got:.4g} um per px, {wanted:.4g} is wanted, and px are not invented; "
        f"allow it with --allow-upsampling, run at the slide's own scale with --mpp {got:.4g}, or, if the slide is "
        "wrong about its scale, state it with --slide-mpp"
    )
