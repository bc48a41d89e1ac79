"""What NGFF 0.5 metadata say about an image: levels, scale, position, channels. No px are read."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from wsi_espnet.errors import SlideError
from wsi_espnet.geometry import Region

_UM = {"nanometer": 1e-3, "micrometer": 1.0, "millimeter": 1e3, "centimeter": 1e4, "meter": 1e6}


@dataclass(frozen=True, slots=True)
class Image:
    """One multiscale image of an OME-Zarr, as its metadata describe it.

    Parameters
    ----------
    axes
        Names in the order of the arrays' dimensions; ends with ``y``, ``x``.
    paths
        The arrays, largest first.
    downsamples
        Level-0 px per level px of each: the mean of both axes, as OpenSlide defines it for slides.
    mpp
        (y, x) um per level-0 px; None where the axes have no unit of length.
    origin_um
        (y, x) um of the centre of level-0 px (0, 0); (0, 0) without a unit.
    """

    axes: tuple[str, ...]
    paths: tuple[str, ...]
    downsamples: tuple[float, ...]
    mpp: tuple[float, float] | None
    origin_um: tuple[float, float]

    def shape_yx(self, shape: Sequence[int]) -> tuple[int, int]:
        """(height, width) of an array of this image, which must hold three channels and nothing but them.

        Raises
        ------
        SlideError
            Another number of channels, time points or planes.
        """
        sizes = dict(zip(self.axes, shape, strict=False))
        extra = {axis: size for axis, size in sizes.items() if axis not in "cyx" and size != 1}
        if len(shape) != len(self.axes) or sizes.get("c") != 3 or extra:
            raise SlideError(
                "an OME-Zarr is read as a slide if it has 3 channels, one plane and one time point, "
                f"got the shape {tuple(shape)} for the axes {''.join(self.axes)}; convert it to RGB first"
            )
        return sizes["y"], sizes["x"]

    def selection(self, region: Region) -> tuple[int | slice, ...]:
        """Index of a region's px: (3, h, w) of an array of this image."""
        rows, columns = region.slices
        wanted: dict[str, int | slice] = {"c": slice(0, 3), "y": rows, "x": columns}
        return tuple(wanted.get(axis, 0) for axis in self.axes)


def parse_image(path: Path, attributes: dict[str, Any]) -> Image:
    """The first multiscale image that a group's attributes describe.

    Raises
    ------
    SlideError
        The group is of another kind or version, unfinished, or its metadata are incomplete.
    """
    ome = attributes.get("ome")
    if not isinstance(ome, dict):
        raise SlideError(f"{path} is a Zarr group without OME metadata; give an OME-Zarr 0.5 image")
    if "multiscales" not in ome:
        raise SlideError(f"{path} is not an OME-Zarr image: {_other_kind(ome)}")
    if "image-label" in ome:
        raise SlideError(f"{path} is a label image, not a picture of a slide; give the image that it belongs to")
    if attributes.get("wsi_espnet", {}).get("state") == "writing":
        raise SlideError(f"{path} is not finished; run the command that writes it again, it will go on")
    try:
        return _parse(ome["multiscales"][0])
    except (KeyError, IndexError, TypeError, ValueError) as exc:
        raise SlideError(
            f"{path} has incomplete NGFF 0.5 metadata ({type(exc).__name__}: {exc}); write the OME-Zarr again"
        ) from exc


def _other_kind(ome: dict[str, Any]) -> str:
    if "labels" in ome:
        return "it only lists label images; give the image's folder, one level up"
    if "plate" in ome or "well" in ome:
        return "it is a plate; give one of its images"
    if "bioformats2raw.layout" in ome:
        return "it is a collection; give one of its images, such as the folder 0 in it"
    return "it has no multiscales"


def _parse(multiscale: dict[str, Any]) -> Image:
    axes = tuple(axis["name"] for axis in multiscale["axes"])
    if axes[-2:] != ("y", "x"):
        raise ValueError(f"axes must end with y, x, got {axes}")
    above = _scale_and_translation(multiscale.get("coordinateTransformations", []), len(axes))
    scales, origins = [], []
    for dataset in multiscale["datasets"]:
        scale, translation = _scale_and_translation(dataset["coordinateTransformations"], len(axes))
        scales.append((scale * above[0])[-2:])
        origins.append((translation * above[0] + above[1])[-2:])
    units = [_UM.get(axis.get("unit", ""), math.nan) for axis in multiscale["axes"][-2:]]
    mpp, origin = scales[0] * units, origins[0] * units
    known = bool(np.all(np.isfinite(mpp)))
    return Image(
        axes=axes,
        paths=tuple(dataset["path"] for dataset in multiscale["datasets"]),
        downsamples=tuple(float(np.mean(scale / scales[0])) for scale in scales),
        mpp=(float(mpp[0]), float(mpp[1])) if known else None,
        origin_um=(float(origin[0]), float(origin[1])) if known else (0.0, 0.0),
    )


def _scale_and_translation(
    transformations: list[dict[str, Any]], dimensions: int
) -> tuple[np.ndarray[Any, np.dtype[np.float64]], np.ndarray[Any, np.dtype[np.float64]]]:
    scale, translation = np.ones(dimensions), np.zeros(dimensions)
    for transformation in transformations:
        values = transformation.get(transformation["type"])
        if transformation["type"] == "scale":
            scale = scale * np.asarray(values, float)
            translation = translation * np.asarray(values, float)
        elif transformation["type"] == "translation":
            translation = translation + np.asarray(values, float)
        else:
            raise ValueError(f"transformation {transformation['type']!r} is not part of NGFF 0.5")
    if scale.shape != (dimensions,) or not np.all(np.isfinite(scale) & (scale > 0)):
        raise ValueError(f"scale must be {dimensions} positive numbers, got {scale}")
    return scale, translation
