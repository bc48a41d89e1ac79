"""Windows cover the image once, whatever the sizes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsi_espnet.errors import GeometryError
from wsi_espnet.geometry import Region
from wsi_espnet.grid import ALIGNED, MULTIPLE, Axis, Grid, Span, core_of_window, intersect

grids = st.builds(
    lambda h, w, core, halo, blend: Grid((h, w), core * 16, halo * 8, min(blend, halo * 8)),
    st.integers(1, 700),
    st.integers(1, 700),
    st.integers(8, 20),
    st.integers(0, 8),
    st.integers(0, 64),
)


def indices(grid: Grid) -> list[tuple[int, int]]:
    rows, columns = grid.counts
    return [(r, c) for r in range(rows) for c in range(columns)]


@given(grids)
def test_cores_partition_the_image(grid: Grid) -> None:
    seen = np.zeros(grid.shape, int)
    for index in indices(grid):
        seen[grid.core(index).slices] += 1
    assert (seen == 1).all()


@given(grids, st.data())
def test_box_holds_the_used_px_and_lies_in_the_core(grid: Grid, data: st.DataObject) -> None:
    index = data.draw(st.sampled_from(indices(grid)))
    core = grid.core(index)
    y0 = data.draw(st.integers(core.y, core.y + core.h - 1))
    x0 = data.draw(st.integers(core.x, core.x + core.w - 1))
    used = Region(
        y0,
        x0,
        data.draw(st.integers(1, core.y + core.h - y0)),
        data.draw(st.integers(1, core.x + core.w - x0)),
    )
    window = grid.window(index, used)
    assert intersect(window.box, used) == used
    assert intersect(window.box, core) == window.box
    assert intersect(window.reach, window.box) == window.box
    for span, start, extent in zip(window.read, (window.box.y, window.box.x), window.box.shape, strict=True):
        assert span.start == start - grid.halo_px
        assert span.stop >= start + extent + grid.halo_px
        assert span.length % MULTIPLE == 0


@given(grids, st.data())
def test_windows_meet_px_in_one_phase_of_the_strides(grid: Grid, data: st.DataObject) -> None:
    index = data.draw(st.sampled_from(indices(grid)))
    core = grid.core(index)
    used = Region(core.y + core.h // 3, core.x + core.w // 2, 1, 1)
    assert all(span.start % MULTIPLE == 0 for span in grid.window(index, used).read)


@given(st.integers(1, 2000), st.integers(8, 40).map(lambda n: n * 16), st.integers(0, 8).map(lambda n: n * 8))
def test_a_window_reaches_its_neighbour_only_where_it_ends_at_the_border(extent: int, core: int, halo: int) -> None:
    axis = Axis(extent, core, halo, halo)
    for index in range(len(axis)):
        owned = axis.owned(index)
        for start in range(owned.start, owned.stop, 37):
            box = axis.widened(index, Span(start, start + 1))
            reach = axis.reach(box)
            assert reach.start >= owned.start or box.start == owned.start
            assert reach.stop <= owned.stop or box.stop == owned.stop


def test_glass_is_not_computed() -> None:
    grid = Grid((256, 256), 128, 32, 32)
    tissue = Region(0, 0, 100, 100)
    assert [w.index for w in grid.windows(lambda core: intersect(core, tissue))] == [(0, 0)]


def test_a_window_follows_its_tissue_on_multiples_of_64() -> None:
    grid = Grid((4096, 4096), 2048, 192, 96)
    window = grid.window((0, 0), Region(700, 900, 10, 10))
    assert window.box == Region(640, 896, 128, 64)
    assert window.work_px == (128 + 2 * 192) * (64 + 2 * 192)
    assert window.box.y % ALIGNED == window.box.x % ALIGNED == 0


@pytest.mark.parametrize(
    ("window", "halo", "says"),
    [
        (2430, 192, "use 2424 or 2432"),
        (0, 0, "positive multiple of 8"),
        (512, 256, "leaves nothing"),
        (512, 300, "multiple of 8"),
        (512, -8, "not negative"),
    ],
)
def test_windows_that_cannot_work_are_refused(window: int, halo: int, says: str) -> None:
    with pytest.raises(GeometryError, match=says):
        core_of_window(window, halo)


@pytest.mark.parametrize(("core", "halo", "blend"), [(64, 40, 0), (60, 8, 0), (64, 8, 16), (64, 4, 0), (64, -8, 0)])
def test_grids_that_cannot_work_are_refused(core: int, halo: int, blend: int) -> None:
    with pytest.raises(GeometryError):
        Grid((100, 100), core, halo, blend)


@pytest.mark.parametrize(("window", "halo", "remedy"), [(2040, 600, 416), (256, 96, 32), (40, 16, 0)])
def test_the_halo_that_is_advised_works(window: int, halo: int, remedy: int) -> None:
    with pytest.raises(GeometryError, match=f"or --halo {remedy}$"):
        Grid((100, 100), core_of_window(window, halo), halo, 0)
    assert Grid((100, 100), core_of_window(window, remedy), remedy, 0).halo_px == remedy
