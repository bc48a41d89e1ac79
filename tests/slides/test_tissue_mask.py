"""What a coarse mask says about px, against the mask spread out to every px."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from wsi_espnet.errors import TissueError
from wsi_espnet.geometry import Region
from wsi_espnet.slides.tissue_mask import TissueMask, coarsen


@st.composite
def masks(draw: st.DrawFn) -> TissueMask:
    rows, cols = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    cells = draw(hnp.arrays(np.uint8, (rows, cols), elements=st.sampled_from([0, 0, 1, 2])))
    return TissueMask(cells, (draw(st.integers(rows, 60)), draw(st.integers(cols, 60))), "auto")


@st.composite
def regions(draw: st.DrawFn) -> Region:
    return Region(
        draw(st.integers(-5, 60)),
        draw(st.integers(-5, 60)),
        draw(st.integers(1, 30)),
        draw(st.integers(1, 30)),
    )


def spread_out(mask: TissueMask) -> NDArray[np.uint8]:
    """The cell that holds each px's centre, by exact fractions, one px at a time."""
    (rows, cols), (h, w) = mask.cells.shape, mask.shape
    row = [int((Fraction(2 * y + 1, 2)) * rows / h) for y in range(h)]
    col = [int((Fraction(2 * x + 1, 2)) * cols / w) for x in range(w)]
    return mask.cells[np.ix_(row, col)]


def overlap(mask: TissueMask, region: Region) -> list[tuple[int, int]]:
    """Tissue cells that share any area with a region, by exact fractions, one cell at a time."""
    (rows, cols), (h, w) = mask.cells.shape, mask.shape
    return [
        (i, j)
        for i, j in np.argwhere(mask.cells).tolist()
        if max(Fraction(i * h, rows), region.y) < min(Fraction((i + 1) * h, rows), region.y + region.h)
        and max(Fraction(j * w, cols), region.x) < min(Fraction((j + 1) * w, cols), region.x + region.w)
    ]


@given(masks(), regions())
def test_sample_is_the_cell_of_each_px_centre(mask: TissueMask, region: Region) -> None:
    padded = np.zeros((120, 120), dtype=bool)
    padded[10 : 10 + mask.shape[0], 10 : 10 + mask.shape[1]] = spread_out(mask)
    expected = padded[region.y + 10 :, region.x + 10 :][: region.h, : region.w]
    np.testing.assert_array_equal(mask.sample(region), expected)


@given(masks(), st.data())
def test_what_counts_is_tissue_and_what_is_found_in_the_rim(mask: TissueMask, data: st.DataObject) -> None:
    labels = data.draw(hnp.arrays(np.uint8, mask.shape, elements=st.sampled_from([0, 1, 255])))
    cells, counted = spread_out(mask), mask.counted(Region(0, 0, *mask.shape), labels, glass=1)
    expected = [cell == 1 or (cell == 2 and id_ == 0) for cell, id_ in zip(cells.flat, labels.flat, strict=True)]
    np.testing.assert_array_equal(counted.ravel(), expected)


@given(masks())
def test_area_px_counts_the_px_that_sample_says_are_tissue(mask: TissueMask) -> None:
    assert mask.area_px == (spread_out(mask) > 0).sum()
    assert mask.fraction == mask.area_px / spread_out(mask).size


@given(masks(), regions())
def test_a_region_is_touched_if_any_tissue_cell_shares_area_with_it(mask: TissueMask, region: Region) -> None:
    assert mask.touches(region) is bool(overlap(mask, region))


@given(masks(), regions())
def test_box_is_the_smallest_region_that_holds_the_overlapping_cells(mask: TissueMask, region: Region) -> None:
    (rows, cols), (h, w) = mask.cells.shape, mask.shape
    cells = overlap(mask, region)
    if not cells:
        assert mask.box(region) is None
        return
    top = max(region.y, min(i for i, _ in cells) * h // rows)
    left = max(region.x, min(j for _, j in cells) * w // cols)
    bottom = min(region.y + region.h, -(-(max(i for i, _ in cells) + 1) * h // rows))
    right = min(region.x + region.w, -(-(max(j for _, j in cells) + 1) * w // cols))
    assert mask.box(region) == Region(top, left, bottom - top, right - left)


@given(masks(), regions())
def test_no_tissue_px_lies_outside_of_the_box(mask: TissueMask, region: Region) -> None:
    sampled, box = mask.sample(region), mask.box(region)
    if box is not None:
        sampled[box.y - region.y :, box.x - region.x :][: box.h, : box.w] = False
    assert not sampled.any()


def test_a_slide_of_a_hundred_thousand_px_does_not_drift() -> None:
    cells = np.zeros((7731, 7731), dtype=bool)
    cells[-1, -1] = True
    mask = TissueMask(cells, (100_003, 100_003), "auto")
    start = -(-(7730 * 100_003 * 2 - 7731) // (2 * 7731))  # first px whose centre is in the last cell
    assert mask.sample(Region(99_990, 99_990, 13, 13)).sum() == (100_003 - start) ** 2 == mask.area_px


@given(
    hnp.arrays(np.bool_, st.tuples(st.integers(1, 12), st.integers(1, 12))),
    st.integers(1, 20),
    st.integers(1, 20),
)
def test_coarsening_keeps_every_cell_that_overlaps_tissue(fine: NDArray[np.bool_], rows: int, cols: int) -> None:
    expected = np.zeros((rows, cols), dtype=bool)
    h, w = fine.shape
    for i, j in np.argwhere(fine).tolist():
        y0, y1 = i * rows // h, -(-(i + 1) * rows // h)
        x0, x1 = j * cols // w, -(-(j + 1) * cols // w)
        expected[y0:y1, x0:x1] = True
    np.testing.assert_array_equal(coarsen(fine, (rows, cols)), expected)


def test_a_part_of_a_grid_is_coarsened_by_floats() -> None:
    fine = np.array([[0, 0, 0, 1, 0]], dtype=bool)
    got = coarsen(fine, (1, 4), cols=(0.25, 4.25))  # cells 0.25..1.25, 1.25..2.25, 2.25..3.25, 3.25..4.25
    np.testing.assert_array_equal(got, [[False, False, True, True]])


def test_masks_finer_than_the_image_and_masks_of_another_kind_are_refused() -> None:
    with pytest.raises(TissueError, match="at most one per px"):
        TissueMask(np.ones((5, 5), dtype=bool), (4, 9), "auto")
    with pytest.raises(TissueError, match="bool or uint8 array"):
        TissueMask(np.ones((5, 5), dtype=np.int64), (50, 50), "auto")  # type: ignore[arg-type]


def test_repr_shows_the_geometry() -> None:
    assert repr(TissueMask(np.ones((2, 3), dtype=bool), (10, 20), "auto")) == (
        "TissueMask(2 x 3 cells over 10 x 20 px, 'auto')"
    )
