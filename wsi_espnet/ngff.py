"""OME-NGFF 0.5 metadata as plain dicts: what makes a Zarr group an image or a label image.

The specification: https://ngff.openmicroscopy.org/0.5/index.html

The rule of placement, written once: NGFF coordinates are those of px centres, and the centre of the slide's
level-0 px (0, 0) is the origin, 0 um. A px that covers l0 px a..b lies at ((a + b) / 2 - 0.5) * slide mpp.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Literal

from wsi_espnet.classes import UNLABELLED, ClassTable
from wsi_espnet.geometry import ReadPlan

VERSION = "0.5"

RGB = (("red", "FF0000"), ("green", "00FF00"), ("blue", "0000FF"))
"""Names and colours of the channels of a colour image; viewers add them up."""

UNLABELLED_COLOR = (255, 0, 255)
"""Px that could not be computed are shown in magenta, which no stain has."""

Placement = tuple[tuple[float, float], tuple[float, float]]
"""((y, x) um per px, (y, x) um of the centre of px (0, 0))."""

Attributes = dict[str, Any]
"""JSON-able attributes of a Zarr group."""


def placement(plan: ReadPlan, factor: float | tuple[float, float] = 1.0) -> Placement:
    """Scale and translation of a level whose px measure `factor` (or (y, x)) plan px and start at its corner.

    Examples
    --------
    A plan that reads level 0 of a slide without bounds; then the level with half as many px:

    >>> from wsi_espnet.geometry import Level, ReadPlan
    >>> plan = ReadPlan(Level(0, (100, 80), 1.0), (0.5, 0.5), (100, 80), (0.0, 0.0), (1.0, 1.0))
    >>> placement(plan)
    ((0.5, 0.5), (0.0, 0.0))
    >>> placement(plan, 2)
    ((1.0, 1.0), (0.25, 0.25))
    """
    factors = factor if isinstance(factor, tuple) else (factor, factor)
    y, x = (_place(plan, axis, factors[axis]) for axis in (0, 1))
    return (y[0], x[0]), (y[1], x[1])


def _place(plan: ReadPlan, axis: int, factor: float) -> tuple[float, float]:
    l0_per_px = plan.l0_per_px[axis]
    slide_mpp = plan.mpp[axis] / l0_per_px
    centre_l0 = plan.origin_l0[axis] + (l0_per_px * factor - 1) / 2
    return plan.mpp[axis] * factor, plan.origin_um[axis] + centre_l0 * slide_mpp


def pyramid_shapes(shape: tuple[int, int], *, stop_px: int = 512) -> list[tuple[int, int]]:
    """(height, width) of every level: halved, rounded up, until the longer side has at most `stop_px`.

    Examples
    --------
    >>> pyramid_shapes((2000, 1001))
    [(2000, 1001), (1000, 501), (500, 251)]
    """
    shapes = [shape]
    while max(shapes[-1]) > stop_px:
        shapes.append((-(-shapes[-1][0] // 2), -(-shapes[-1][1] // 2)))
    return shapes


def multiscales(
    *, name: str, axes: Literal["cyx", "yx"], levels: Sequence[Placement], method: str, in_um: bool = True
) -> Attributes:
    """One entry of ``multiscales``: axes, and a scale and a translation for each level.

    Parameters
    ----------
    name
        Shown by viewers.
    axes
        ``cyx`` for an image, ``yx`` for labels.
    levels
        Largest first; their arrays lie at paths ``0``, ``1``, ...
    method
        How a level was made from the one before, such as ``mean`` or ``nearest``.
    in_um
        False where the scale is not known: the axes then have no unit.
    """
    return {
        "name": name,
        "type": method,
        "metadata": {"method": method},
        "axes": [_axis(name, in_um=in_um) for name in axes],
        "datasets": [
            {"path": str(index), "coordinateTransformations": _transformations(axes, level)}
            for index, level in enumerate(levels)
        ],
    }


def _axis(name: str, *, in_um: bool) -> Attributes:
    if name == "c":
        return {"name": "c", "type": "channel"}
    unit = {"unit": "micrometer"} if in_um else {}
    return {"name": name, "type": "space", **unit}


def _transformations(axes: str, level: Placement) -> list[Attributes]:
    """One scale and, after it, one translation, each with an entry per axis; channels keep 1 and 0."""
    scale, translation = level
    c = len(axes) - 2
    return [
        {"type": "scale", "scale": [1.0] * c + list(scale)},
        {"type": "translation", "translation": [0.0] * c + list(translation)},
    ]


def image_attributes(
    multiscale: Attributes, *, channels: Sequence[tuple[str, str]] = RGB, limit: int = 255
) -> Attributes:
    """Attributes of an image's group.

    Parameters
    ----------
    multiscale
        From `multiscales`.
    channels
        Name and colour (six hexadecimal digits) of each.
    limit
        The value shown at full brightness; 0 is black.
    """
    window = {"min": 0, "start": 0, "end": limit, "max": limit}
    omero = {
        "name": multiscale["name"],
        "channels": [
            {"label": label, "color": color, "window": dict(window), "active": True, "coefficient": 1.0}
            for label, color in channels
        ],
        "rdefs": {"model": "color"},
    }
    return {"ome": {"version": VERSION, "multiscales": [multiscale], "omero": omero}}


def label_attributes(multiscale: Attributes, classes: ClassTable, *, hidden: Collection[int] = ()) -> Attributes:
    """Attributes of a label image's group: every class with its name and colour, and the unlabelled id.

    Glass, and the ids in `hidden`, are transparent (alpha 0); the others opaque.
    """
    unseen = {classes.glass, *hidden}
    table = [(c.id, c.name, c.color) for c in classes.classes]
    table.append((UNLABELLED, "unlabelled", UNLABELLED_COLOR))
    image_label = {
        "version": VERSION,
        "colors": [{"label-value": id_, "rgba": [*color, 0 if id_ in unseen else 255]} for id_, _, color in table],
        "properties": [{"label-value": id_, "class": name} for id_, name, _ in table],
        "source": {"image": "../../"},
    }
    return {"ome": {"version": VERSION, "image-label": image_label, "multiscales": [multiscale]}}


def labels_group_attributes(names: Sequence[str]) -> Attributes:
    """Attributes of the group ``labels``, which lists the label images in it."""
    return {"ome": {"version": VERSION, "labels": list(names)}}
