"""What OpenSlide's properties say about a slide: scale, bounds, objective, associated images. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping

import openslide

from wsi_espnet.geometry import Region


def file_mpp(properties: Mapping[str, str]) -> tuple[float, float] | None:
    """(y, x) um per level-0 px; None unless the file states both as positive numbers."""
    y = _positive(properties, openslide.PROPERTY_NAME_MPP_Y)
    x = _positive(properties, openslide.PROPERTY_NAME_MPP_X)
    return None if y is None or x is None else (y, x)


def objective_power(properties: Mapping[str, str]) -> float | None:
    """Nominal power of the objective, such as 20; None where the file does not state it."""
    return _positive(properties, openslide.PROPERTY_NAME_OBJECTIVE_POWER)


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


def _positive(properties: Mapping[str, str], name: str) -> float | None:
    try:
        value = float(properties.get(name, "nan"))
    except ValueError:
        return None
    return value if math.isfinite(value) and value > 0 else None
