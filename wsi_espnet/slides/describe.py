"""What a slide is, and how a model would read it."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from wsi_espnet.errors import ScaleError
from wsi_espnet.slides.slide import Slide
from wsi_espnet.slides.source import PixelSource


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class LevelInfo(_Frozen):
    """One level of a pyramid; `mpp` is (y, x) um per px of this level."""

    index: int
    height: int
    width: int
    downsample: float
    mpp: tuple[float, float] | None


class BoundsInfo(_Frozen):
    """The part of a slide that holds px, in level-0 px."""

    y: int
    x: int
    height: int
    width: int


class ReadInfo(_Frozen):
    """How a model that wants `model_mpp` um per px reads the slide.

    Parameters
    ----------
    model_mpp
        um per px that the model was trained at.
    level
        The level that is read; None where the slide is refused.
    factor
        (y, x) level px per px that the model sees: 1 reads the level as it is, 2 shrinks it to half.
    mpp
        (y, x) um per px that the model gets.
    height, width
        Size of the image in these px.
    refused
        Why the slide cannot be read at this scale, with the remedy; None where it can.
    """

    model_mpp: float
    level: int | None = None
    factor: tuple[float, float] | None = None
    mpp: tuple[float, float] | None = None
    height: int | None = None
    width: int | None = None
    refused: str | None = None


class SlideInfo(_Frozen):
    """Facts about a slide, for people and as JSON.

    Parameters
    ----------
    path, vendor
        What was opened, and OpenSlide's name of the format, or ``ome-zarr``.
    levels
        Finest first.
    mpp
        (y, x) um per level-0 px; None where the file does not say.
    power
        Nominal power of the objective; None where the file does not say.
    bounds
        The part that holds px.
    associated_images
        (height, width) of label, macro and such.
    reads
        How a model would read the slide; None where no model was given.
    """

    path: str
    vendor: str
    levels: tuple[LevelInfo, ...]
    mpp: tuple[float, float] | None
    power: float | None
    bounds: BoundsInfo
    associated_images: dict[str, tuple[int, int]]
    reads: ReadInfo | None


def describe(source: PixelSource, *, model_mpp: float | None) -> SlideInfo:
    """Facts about an open slide, and how a model at `model_mpp` um per px would read it.

    Parameters
    ----------
    source
        An open slide or OME-Zarr; one without a scale is described too.
    model_mpp
        The scale that a model wants; None leaves `reads` empty.
    """
    return SlideInfo(
        path=str(source.path),
        vendor=source.vendor,
        levels=tuple(
            LevelInfo(
                index=level.index,
                height=level.shape[0],
                width=level.shape[1],
                downsample=level.downsample,
                mpp=_times(source.mpp, level.downsample),
            )
            for level in source.levels
        ),
        mpp=source.mpp,
        power=source.power if isinstance(source, Slide) else None,
        bounds=BoundsInfo(
            y=source.bounds_l0.y,
            x=source.bounds_l0.x,
            height=source.bounds_l0.h,
            width=source.bounds_l0.w,
        ),
        associated_images=dict(source.associated_images) if isinstance(source, Slide) else {},
        reads=None if model_mpp is None else _reads(source, model_mpp),
    )


def _reads(source: PixelSource, model_mpp: float) -> ReadInfo:
    try:
        plan = source.plan(model_mpp)
    except ScaleError as exc:
        return ReadInfo(model_mpp=model_mpp, refused=str(exc))
    return ReadInfo(
        model_mpp=model_mpp,
        level=plan.level.index,
        factor=plan.level_per_px,
        mpp=plan.mpp,
        height=plan.shape[0],
        width=plan.shape[1],
    )


def _times(mpp: tuple[float, float] | None, downsample: float) -> tuple[float, float] | None:
    return None if mpp is None else (mpp[0] * downsample, mpp[1] * downsample)
