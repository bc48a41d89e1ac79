"""What OpenSlide's properties say about a slide: scale, bounds, objective, associated images. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from xml.etree import ElementTree

import openslide

from wsi_espnet.geometry import Region

_UM = {"nm": 1e-3, "\N{MICRO SIGN}m": 1.0, "\N{GREEK SMALL LETTER MU}m": 1.0, "mm": 1e3, "cm": 1e4, "m": 1e6}
"""um in the units of length that OME-XML knows and microscopes use (schema 2016-06, UnitsLength); some writers take the
Greek letter for the sign."""


def file_mpp(properties: Mapping[str, str]) -> tuple[float, float] | None:
    """(y, x) um per level-0 px; None unless the file states both as positive numbers.

    What the OME-XML of an OME-TIFF says goes before the TIFF's own resolution, which need not be one of the specimen.
    """
    stated = _ome_mpp(properties)
    if stated is not None:
        return stated
    y = _positive(properties.get(openslide.PROPERTY_NAME_MPP_Y))
    x = _positive(properties.get(openslide.PROPERTY_NAME_MPP_X))
    return None if y is None or x is None else (y, x)


def _ome_mpp(properties: Mapping[str, str]) -> tuple[float, float] | None:
    """`file_mpp` by the first image in OME-XML that is as large as level 0; None where there is none."""
    text = properties.get("tiff.ImageDescription", "")
    if "<OME" not in text:
        return None
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError:
        return None
    size = properties.get("openslide.level[0].width"), properties.get("openslide.level[0].height")
    for pixels in root.iterfind("{*}Image/{*}Pixels"):
        if (pixels.get("SizeX"), pixels.get("SizeY")) == size:
            y, x = (_physical(pixels, axis) for axis in "YX")
            return None if y is None or x is None else (y, x)
    return None


def _physical(pixels: ElementTree.Element, axis: str) -> float | None:
    """What a px measures along an axis, in um."""
    um = _UM.get(pixels.get(f"PhysicalSize{axis}Unit", "\N{MICRO SIGN}m"))  # the schema's default
    length = _positive(pixels.get(f"PhysicalSize{axis}"))
    return None if um is None or length is None else length * um


def objective_power(properties: Mapping[str, str]) -> float | None:
    """Nominal power of the objective, such as 20; None where the file does not state it."""
    return _positive(properties.get(openslide.PROPERTY_NAME_OBJECTIVE_POWER))


def bounds_l0(properties: Mapping[str, str], shape: tuple[int, int]) -> Region:
    """The box around the scanned px, in level-0 px, where the file states all of it, else the whole.

    QuPath crops to the bounds under the same condition; a box that reaches beyond `shape` is not believed.
    """
    names = (
        openslide.PROPERTY_NAME_BOUNDS_Y,
        openslide.PROPERTY_NAME_BOUNDS_X,
        openslide.PROPERTY_NAME_BOUNDS_HEIGHT,
        openslide.PROPERTY_NAME_BOUNDS_WIDTH,
    )
    values = [properties.get(name, "") for name in names]
    if all(value.isdecimal() for value in values):
        y, x, h, w = (int(value) for value in values)
        if h > 0 and w > 0 and y + h <= shape[0] and x + w <= shape[1]:
            return Region(y, x, h, w)
    return Region(0, 0, *shape)


def associated_sizes(properties: Mapping[str, str]) -> dict[str, tuple[int, int]]:
    """(height, width) of label, macro and such by name, without decoding: a damaged one breaks the handle."""
    prefix, suffix = "openslide.associated.", ".width"
    names = [key[len(prefix) : -len(suffix)] for key in properties if key.startswith(prefix) and key.endswith(suffix)]
    return {
        name: (int(properties[f"{prefix}{name}.height"]), int(properties[f"{prefix}{name}.width"])) for name in names
    }


def _positive(text: str | None) -> float | None:
    try:
        value = float(text or "nan")
    except ValueError:
        return None
    return value if math.isfinite(value) and value > 0 else None
