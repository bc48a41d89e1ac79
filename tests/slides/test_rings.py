"""Polygons on cells, against shapely."""

from __future__ import annotations

import numpy as np
import shapely
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from wsi_espnet.slides.rings import Ring, cover, fill

POINT = st.tuples(st.floats(-4, 16, width=32), st.floats(-4, 16, width=32))


def touched(polygons: list[shapely.Polygon], shape: tuple[int, int]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """(cells that share area with a union of polygons (x, y), cells that share at least a point)."""
    union = shapely.union_all(polygons)
    shared, met = np.zeros(shape, dtype=bool), np.zeros(shape, dtype=bool)
    for y, x in np.ndindex(shape):
        cell = shapely.box(x, y, x + 1, y + 1)
        shared[y, x] = union.intersection(cell).area > 1e-6
        met[y, x] = union.distance(cell) < 1e-6
    return shared, met


def as_rings(polygon: shapely.Polygon) -> list[Ring]:
    return [np.array(ring.coords)[:, ::-1] for ring in (polygon.exterior, *polygon.interiors)]


@given(st.lists(POINT, min_size=3, max_size=7), st.booleans())
def test_every_cell_that_a_polygon_shares_area_with_is_covered_and_none_that_it_misses(
    points: list[tuple[float, float]], with_hole: bool
) -> None:
    hull = shapely.MultiPoint(points).convex_hull
    if not isinstance(hull, shapely.Polygon) or hull.area < 1e-3:
        return
    if with_hole:
        inner = shapely.affinity.scale(hull, 0.6, 0.6)
        hull = shapely.Polygon(hull.exterior.coords, [inner.exterior.coords])
    shared, met = touched([hull], (12, 12))
    got = cover([as_rings(hull)], (12, 12))
    assert not (shared & ~got).any()
    assert not (got & ~met).any()


def test_a_square_on_grid_lines_covers_exactly_its_cells() -> None:
    expected = np.zeros((6, 7), dtype=bool)
    expected[1:4, 2:5] = True
    np.testing.assert_array_equal(cover([[np.array([[1.0, 2], [1, 5], [4, 5], [4, 2]])]], (6, 7)), expected)


def test_a_hole_takes_away_only_cells_that_it_covers_whole() -> None:
    outline = np.array([[0.0, 0], [0, 8], [8, 8], [8, 0]])
    hole = np.array([[1.5, 1.5], [1.5, 5.5], [5.5, 5.5], [5.5, 1.5]])
    expected = np.ones((8, 8), dtype=bool)
    expected[2:5, 2:5] = False
    np.testing.assert_array_equal(cover([[outline, hole]], (8, 8)), expected)


def test_a_hole_does_not_cut_another_polygon() -> None:
    outline = np.array([[0.0, 0], [0, 8], [8, 8], [8, 0]])
    hole = np.array([[2.0, 2], [2, 6], [6, 6], [6, 2]])
    island = np.array([[3.0, 3], [3, 4], [4, 4], [4, 3]])
    expected = np.ones((8, 8), dtype=bool)
    expected[2:6, 2:6] = False
    expected[3, 3] = True
    for polygons in ([[outline, hole], [island]], [[island], [outline, hole]]):
        np.testing.assert_array_equal(cover(polygons, (8, 8)), expected)


def test_a_sliver_between_two_rows_of_centres_is_covered() -> None:
    got = cover([[np.array([[2.6, 0.2], [2.7, 5.8], [2.65, 5.8]])]], (5, 6))
    assert got[2].all()
    assert got.sum() == 6


def test_far_away_corners_cost_no_memory() -> None:
    huge = np.array([[-1e12, -1e12], [-1e12, 1e12], [1e12, 1e12], [1e12, -1e12]])
    assert cover([[huge]], (50, 60)).all()
    assert not cover([[huge + 4e12]], (50, 60)).any()


def test_filled_cells_are_those_whose_centre_a_polygon_holds() -> None:
    rng = np.random.default_rng(5)
    for _ in range(20):
        angle = np.sort(rng.uniform(0, 2 * np.pi, 9))
        radius = rng.uniform(3, 25, 9)
        ring = np.stack([20 + radius * np.sin(angle), 15 + radius * np.cos(angle)], axis=1)
        shape = shapely.Polygon(ring[:, ::-1])
        y, x = np.mgrid[:40, :30] + 0.5
        np.testing.assert_array_equal(fill([[ring]], (40, 30)), shapely.contains_xy(shape, x, y))
