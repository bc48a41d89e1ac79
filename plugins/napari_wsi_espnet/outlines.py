"""What people draw in a Shapes layer, as outlines on a slide or a mask."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from napari import Viewer
from napari.layers import Shapes
from numpy.typing import NDArray

from wsi_espnet.atomic import write_bytes_atomic
from wsi_espnet.errors import UsageError
from wsi_espnet.geometry import ReadPlan
from wsi_espnet.slides.rings import Ring
from wsi_espnet.slides.source import PixelSource

CORNERS = 64
"""Corners of the polygon that takes the place of an ellipse."""


def add_shapes(viewer: Viewer) -> Shapes:
    """Add a layer to draw areas in, ready for a rectangle, in the units of the first layer.

    napari's own button makes one in px; it does, but the scale bar then loses its unit.
    """
    units = viewer.layers[0].units if len(viewer.layers) else None
    layer = Shapes(
        name="area", ndim=2, units=units, edge_color="yellow", face_color="transparent", edge_width=2, opacity=1
    )
    viewer.add_layer(layer)
    layer.mode = "add_rectangle"
    return layer


def outlines(shapes: Shapes) -> list[Ring]:
    """The areas of a Shapes layer in world coordinates: one ring (n, 2), (y, x), for each shape.

    Raises
    ------
    UsageError
        Nothing is drawn, or something without an area.
    """
    if not len(shapes.data):
        raise UsageError(f"nothing is drawn in {shapes.name}; draw a rectangle or a polygon around what you want")
    rings = []
    for corners, kind in zip(shapes.data, shapes.shape_type, strict=True):
        if kind not in ("rectangle", "polygon", "ellipse"):
            raise UsageError(f"{shapes.name} holds a {kind}, which has no area; draw a rectangle or a polygon instead")
        points = np.asarray(corners, np.float64)
        rings.append(np.array([shapes.data_to_world(p) for p in (_ellipse(points) if kind == "ellipse" else points)]))
    return rings


def in_plan(ring: Ring, plan: ReadPlan) -> Ring:
    """A ring in world coordinates as one in plan px, counted from the corner of the plan's image."""
    um_per_l0 = np.divide(plan.mpp, plan.l0_per_px)
    l0 = (ring - plan.origin_um) / um_per_l0 + 0.5  # the origin of um is the centre of a px, that of px its corner
    return (l0 - plan.origin_l0) / plan.l0_per_px


def write_outlines(path: Path, rings: list[Ring], source: PixelSource) -> None:
    """Write rings in world coordinates as GeoJSON in level-0 px from the corner of the slide's bounds, as QuPath does.

    `wsi-espnet segment --tissue` takes the file.
    """
    plan = source.plan(None)
    features = [_feature(in_plan(ring, plan) * plan.l0_per_px + plan.origin_l0, source) for ring in rings]
    document = {"type": "FeatureCollection", "features": features}
    write_bytes_atomic(path, (json.dumps(document) + "\n").encode())


def _feature(ring_l0: Ring, source: PixelSource) -> dict[str, Any]:
    bounds = np.array([source.bounds_l0.y, source.bounds_l0.x])
    points = [[round(float(x), 3), round(float(y), 3)] for y, x in np.vstack([ring_l0, ring_l0[:1]]) - bounds]
    return {"type": "Feature", "properties": {}, "geometry": {"type": "Polygon", "coordinates": [points]}}


def _ellipse(corners: NDArray[np.float64]) -> NDArray[np.float64]:
    """The ellipse in the (rotated) rectangle of four corners."""
    centre = corners.mean(axis=0)
    a, b = (corners[1] - corners[0]) / 2, (corners[3] - corners[0]) / 2
    angle = np.linspace(0, 2 * np.pi, CORNERS, endpoint=False)[:, None]
    points: NDArray[np.float64] = centre + np.cos(angle) * a + np.sin(angle) * b
    return points
