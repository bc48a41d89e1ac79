"""Outlines of the regions of a mask, exact to the px edge or simplified, found block by block.

A region is px of one class that hang together by their sides. Each block is cut into regions and simplified with its
border held fast, so that what meets at a border still fits; then regions are put together across borders.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from wsi_espnet.geometry import Region
from wsi_espnet.outputs.stored import LabelImage, read_labels

if TYPE_CHECKING:
    from shapely import Polygon

Polygons = NDArray[Any]
"""Of shapely's polygons, (n,)."""

BLOCK_PX = 2048
"""Side of the blocks that are looked at, in px."""


class Outline(NamedTuple):
    """A region: the id of its class, and its polygon, holes and all, (x, y) in px of the mask from its corner."""

    id: int
    polygon: Polygon


def find_outlines(
    labels: LabelImage,
    ids: Collection[int],
    *,
    simplify_px: float = 0.0,
    least_px: float = 0.0,
    block: int = BLOCK_PX,
    progress: Callable[[int, int], None] | None = None,
) -> list[Outline]:
    """Outlines of all regions of some classes, by class, from top to bottom.

    Parameters
    ----------
    labels
        Class ids (h, w) uint8.
    ids
        Classes that are outlined.
    simplify_px
        Corners are cut where that takes away triangles of up to about this side, in px; regions that share a border
        still do afterwards. 0 keeps every corner.
    least_px
        Regions with less area are left out, and holes with less are filled; in px.
    block
        Side of the blocks that are read, in px.
    progress
        Told about (done, total) blocks.

    Raises
    ------
    OutputError
        A chunk of the labels is damaged.
    """
    # Imported here, and below: whoever only segments has neither this nor rasterio.
    import shapely

    whole: list[Outline] = []
    cut: dict[int, list[Polygon]] = {id_: [] for id_ in ids}
    regions = list(Region(0, 0, labels.shape[0], labels.shape[1]).squares(block))
    for done, region in enumerate(regions, start=1):
        found, polygons = _of_block(read_labels(labels, region), region, cut.keys(), simplify_px)
        is_cut = _is_cut(shapely.bounds(polygons), region, labels.shape)
        kept = ~is_cut & (shapely.area(polygons) >= least_px)
        whole += map(Outline, found[kept].tolist(), polygons[kept])
        for id_ in np.unique(found[is_cut]).tolist():
            cut[id_] += polygons[is_cut & (found == id_)].tolist()
        if progress is not None:
            progress(done, len(regions))
    for id_, pieces in cut.items():
        whole += (Outline(id_, polygon) for polygon in _joined(pieces) if polygon.area >= least_px)
    filled = [Outline(id_, _filled(polygon, least_px)) for id_, polygon in whole]
    return sorted(filled, key=lambda o: (o.id, o.polygon.bounds[1::-1], o.polygon.bounds[2:]))


def _of_block(
    ids: NDArray[np.uint8], region: Region, wanted: Collection[int], simplify_px: float
) -> tuple[NDArray[np.int64], Polygons]:
    """Ids and polygons of the wanted regions in a block."""
    import shapely
    from rasterio.features import shapes
    from rasterio.transform import Affine

    if not np.isin(ids, list(wanted)).any():
        return np.empty(0, np.int64), np.empty(0, np.object_)
    found = list(shapes(ids, connectivity=4, transform=Affine.translation(region.x, region.y)))
    rings = [ring for geometry, _ in found for ring in geometry["coordinates"]]
    corners = np.array(list(chain.from_iterable(rings)))
    of_ring = np.repeat(np.arange(len(rings)), [len(ring) for ring in rings])
    of_polygon = np.repeat(np.arange(len(found)), [len(geometry["coordinates"]) for geometry, _ in found])
    polygons = shapely.polygons(shapely.linearrings(corners, indices=of_ring), indices=of_polygon)
    if simplify_px:
        # All classes together, those that are not wanted too: borders are shared.
        polygons = shapely.coverage_simplify(polygons, simplify_px, simplify_boundary=False)
    classes = np.array([id_ for _, id_ in found], np.int64)
    is_wanted = np.isin(classes, list(wanted))
    return classes[is_wanted], polygons[is_wanted]


def _is_cut(bounds: NDArray[np.float64], region: Region, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Whether polygons with these bounds (n, 4) meet a side of their block beyond which the mask goes on."""
    left, top, right, bottom = bounds.T
    meets: NDArray[np.bool_] = (left == region.x) & (region.x > 0)
    meets |= (top == region.y) & (region.y > 0)
    meets |= (right == region.x + region.w) & (region.x + region.w < shape[1])
    meets |= (bottom == region.y + region.h) & (region.y + region.h < shape[0])
    return meets


def _joined(pieces: list[Polygon]) -> list[Polygon]:
    """Pieces of one class, put together where they share a side."""
    import shapely

    return [polygon for polygon in shapely.get_parts(shapely.union_all(pieces)) if polygon.area > 0]


def _filled(polygon: Polygon, least_px: float) -> Polygon:
    """Without the holes that are smaller."""
    import shapely

    if least_px == 0 or shapely.get_num_interior_rings(polygon) == 0:
        return polygon
    rings = shapely.get_rings(polygon)
    large = shapely.area(shapely.polygons(rings)) >= least_px
    large[0] = True
    return polygon if large.all() else shapely.Polygon(rings[0], rings[large][1:])
