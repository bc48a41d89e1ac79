"""Outlines of regions, against the mask that they were found in."""

from __future__ import annotations

import json
import uuid
from typing import Any

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from scipy import ndimage
from small import CLASSES

from wsi_espnet.outputs.geojson import Frame, geojson
from wsi_espnet.outputs.outlines import Outline, find_outlines

Labels = NDArray[np.uint8]

IDS = (0, 1, 2, 255)

few = settings(deadline=None, max_examples=60)


@st.composite
def masks(draw: st.DrawFn) -> Labels:
    """Ids in patches, now and then of single px."""
    cells = draw(hnp.arrays(np.uint8, st.tuples(st.integers(1, 8), st.integers(1, 8)), elements=st.sampled_from(IDS)))
    size = draw(st.integers(1, 5))
    return np.kron(cells, np.ones((size, size), np.uint8))


def drawn(outlines: list[Outline], shape: tuple[int, int]) -> NDArray[np.int64]:
    """The id at the centre of every px; -1 where no outline holds it. No px is in two."""
    y, x = np.indices(shape) + 0.5
    ids = np.full(shape, -1)
    for id_, polygon in outlines:
        inside = shapely.contains_xy(polygon, x, y)
        assert (ids[inside] == -1).all()
        ids[inside] = id_
    return ids


@few
@given(masks(), st.integers(1, 40), st.sets(st.sampled_from(IDS)))
def test_exact_outlines_are_the_regions_of_the_mask(labels: Labels, block: int, ids: set[int]) -> None:
    found = find_outlines(labels, sorted(ids), block=block)
    np.testing.assert_array_equal(
        drawn(found, labels.shape), np.where(np.isin(labels, list(ids)), labels.astype(int), -1)
    )
    for id_ in ids:
        regions, count = ndimage.label(labels == id_)
        areas = sorted(int(o.polygon.area) for o in found if o.id == id_)
        assert areas == sorted(np.bincount(regions.ravel())[1:].tolist())
        assert len(areas) == count
    assert all(o.polygon.is_valid for o in found)


@few
@given(masks(), st.integers(4, 40), st.floats(0.5, 3))
def test_simplified_outlines_still_fit(labels: Labels, block: int, simplify_px: float) -> None:
    exact, found = (find_outlines(labels, IDS, simplify_px=by, block=block) for by in (0.0, simplify_px))
    assert len(found) == len(exact)
    assert all(o.polygon.is_valid for o in found)
    # Neither gap nor overlap, across the borders of blocks too.
    assert sum(o.polygon.area for o in found) == pytest.approx(labels.size)
    assert shapely.union_all([o.polygon for o in found]).area == pytest.approx(labels.size)


def test_simplifying_cuts_corners_and_hardly_changes_areas() -> None:
    y, x = np.indices((400, 400))
    labels = (np.hypot(y - 200, x - 190) < 150).astype(np.uint8)
    (exact,), (simple,) = (find_outlines(labels, [1], simplify_px=by) for by in (0.0, 1.6))
    corners = [shapely.get_num_coordinates(o.polygon) for o in (exact, simple)]
    assert corners[1] < corners[0] / 3
    assert simple.polygon.area == pytest.approx(exact.polygon.area, rel=0.002)
    assert shapely.hausdorff_distance(simple.polygon, exact.polygon) < 3


@pytest.mark.parametrize("block", [7, 64])
def test_small_regions_are_left_out_and_small_holes_filled(block: int) -> None:
    labels = np.zeros((40, 40), np.uint8)
    labels[2:30, 2:30] = 2
    labels[5:8, 5:8] = 1  # 9 px
    labels[10:20, 10:20] = 1  # 100 px
    labels[35:39, 35:39] = 2  # 16 px
    found = find_outlines(labels, [1, 2], least_px=20, block=block)
    assert [(o.id, o.polygon.area) for o in found] == [(1, 100), (2, 28 * 28 - 100)]
    assert len(found[1].polygon.interiors) == 1


def test_blocks_are_read_once_and_told_about() -> None:
    told: list[tuple[int, int]] = []
    reads: list[Any] = []

    class Counting:
        shape = (50, 70)

        def __getitem__(self, key: tuple[slice, slice]) -> Labels:
            reads.append(key)
            return np.ones(self.shape, np.uint8)[key]

    (outline,) = find_outlines(Counting(), [1], block=32, progress=lambda *now: told.append(now))
    assert outline.polygon.equals(shapely.box(0, 0, 70, 50))
    assert told == [(n, 6) for n in range(1, 7)]
    assert len(reads) == 6


def test_geojson_holds_what_qupath_reads() -> None:
    hole = [(2, 2), (2, 4), (4, 4), (2, 2)]
    outlines = [
        Outline(2, shapely.Polygon([(0, 0), (8, 0), (8, 6), (0, 6)], [hole])),
        Outline(255, shapely.box(1, 1, 2, 2)),
    ]
    frame = Frame((100.0, 20.5), (2.0, 4.0))
    written = geojson(outlines, CLASSES, frame, um2_per_px=0.25, name="a.svs")
    assert written == geojson(outlines, CLASSES, frame, um2_per_px=0.25, name="a.svs")
    document = json.loads(written)
    assert document["type"] == "FeatureCollection"
    gland, failed = document["features"]
    assert gland["geometry"] == {
        "type": "Polygon",
        "coordinates": [
            [[20.5, 100.0], [52.5, 100.0], [52.5, 112.0], [20.5, 112.0], [20.5, 100.0]],
            [[28.5, 104.0], [28.5, 108.0], [36.5, 108.0], [28.5, 104.0]],
        ],
    }
    assert gland["properties"] == {
        "objectType": "annotation",
        "classification": {"name": "gland", "color": [70, 40, 150]},
        "measurements": {"Area um^2": 11.5},
    }
    assert failed["properties"]["classification"] == {"name": "unlabelled", "color": [255, 0, 255]}
    assert uuid.UUID(gland["id"]) != uuid.UUID(failed["id"])
