"""Outlines as GeoJSON, as QuPath reads it: one annotation for each region, with its class, colour and area.

What QuPath takes from a file: qupath/qupath@e7662d8, qupath-core/src/main/java/qupath/lib/io/QuPathTypeAdapters.java.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable
from typing import Any, NamedTuple

from wsi_espnet.classes import UNLABELLED, ClassTable
from wsi_espnet.ngff import UNLABELLED_COLOR
from wsi_espnet.outputs.outlines import Outline

_DECIMALS = 2
"""Of coordinates, in px of level 0; QuPath writes as many."""


class Frame(NamedTuple):
    """Where px of a mask lie in an image: (y, x) of the mask's corner, and (y, x) px of the image per mask px."""

    origin: tuple[float, float]
    per_px: tuple[float, float]


def geojson(outlines: Iterable[Outline], classes: ClassTable, frame: Frame, *, um2_per_px: float, name: str) -> bytes:
    """A FeatureCollection, a line for each region.

    Parameters
    ----------
    outlines
        In px of the mask.
    classes
        What their ids mean.
    frame
        Of the image that the coordinates are for.
    um2_per_px
        Area of a px of the mask in square micrometres.
    name
        Of the slide; with class and place it makes each region's id, which is the same every time.
    """
    lines = [json.dumps(_feature(o, classes, frame, um2_per_px, name), ensure_ascii=False) for o in outlines]
    text = '{"type": "FeatureCollection", "features": [\n' + ",\n".join(lines) + "\n]}\n"
    return text.encode()


def _feature(outline: Outline, classes: ClassTable, frame: Frame, um2_per_px: float, name: str) -> dict[str, Any]:
    known = outline.id != UNLABELLED
    label = classes.names[outline.id] if known else "unlabelled"
    rings = [_ring(ring.coords, frame) for ring in (outline.polygon.exterior, *outline.polygon.interiors)]
    return {
        "type": "Feature",
        "id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"{name} {label} {rings[0][0]}")),
        "geometry": {"type": "Polygon", "coordinates": rings},
        "properties": {
            "objectType": "annotation",
            "classification": {
                "name": label,
                "color": list(classes.classes[outline.id].color if known else UNLABELLED_COLOR),
            },
            "measurements": {"Area um^2": round(outline.polygon.area * um2_per_px, 2)},
        },
    }


def _ring(corners: Iterable[tuple[float, ...]], frame: Frame) -> list[list[float]]:
    (y0, x0), (per_y, per_x) = frame
    return [[round(x0 + x * per_x, _DECIMALS), round(y0 + y * per_y, _DECIMALS)] for x, y in corners]
