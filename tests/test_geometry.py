from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsi_espnet.errors import GeometryError, ScaleError
from wsi_espnet.geometry import SNAP, Level, ReadPlan, Region, plan_read

EXTENTS = st.integers(1, 200_000)
MPPS = st.floats(0.05, 60)


def pyramid(height: int, width: int, *downsamples: float) -> list[Level]:
    return [
        Level(index, (max(1, int(height / ds)), max(1, int(width / ds))), ds)
        for index, ds in enumerate((1.0, *downsamples))
    ]


@st.composite
def readings(draw: st.DrawFn) -> tuple[list[Level], tuple[float, float], Region, float]:
    height, width = draw(EXTENTS), draw(EXTENTS)
    downsamples = sorted(draw(st.lists(st.floats(1.5, 64), max_size=4)))
    y, x = draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))
    bounds = Region(y, x, draw(st.integers(1, height - y)), draw(st.integers(1, width - x)))
    slide_mpp = draw(MPPS)
    factor = draw(st.floats(1, 200))
    return pyramid(height, width, *downsamples), (slide_mpp, slide_mpp), bounds, slide_mpp * factor


def read(case: tuple[list[Level], tuple[float, float], Region, float]) -> ReadPlan:
    levels, slide_mpp, bounds, mpp = case
    return plan_read(levels, slide_mpp=slide_mpp, bounds_l0=bounds, mpp=mpp, allow_upsampling=False)


@given(readings())
def test_px_are_never_invented(case: tuple[list[Level], tuple[float, float], Region, float]) -> None:
    plan = read(case)
    assert all(step > 1 - 2 * SNAP for step in plan.level_per_px)


@given(readings())
def test_no_coarser_level_would_do(case: tuple[list[Level], tuple[float, float], Region, float]) -> None:
    levels, slide_mpp, _, mpp = case
    plan = read(case)
    coarser = [level for level in levels if level.downsample > plan.level.downsample]
    assert all(slide_mpp[0] * level.downsample > mpp for level in coarser)


@given(readings())
def test_the_plan_has_the_wanted_mpp_or_is_a_level_within_two_per_cent(
    case: tuple[list[Level], tuple[float, float], Region, float],
) -> None:
    plan = read(case)
    if plan.level_per_px == (1.0, 1.0):
        assert plan.mpp[0] == pytest.approx(case[3], rel=SNAP)
    else:
        assert plan.mpp == (case[3], case[3])


@given(readings())
def test_the_image_covers_the_bounds_with_less_than_a_px_to_spare(
    case: tuple[list[Level], tuple[float, float], Region, float],
) -> None:
    bounds, plan = case[2], read(case)
    ends = (bounds.y + bounds.h, bounds.x + bounds.w)
    for axis, start in enumerate((bounds.y, bounds.x)):
        step = plan.l0_per_px[axis]
        origin = plan.origin_l0[axis]
        assert start - step < origin <= start + 1e-3
        if plan.level_per_px == (1.0, 1.0):
            level_edge = plan.level.shape[axis] * step
            assert origin + plan.shape[axis] * step >= min(ends[axis], level_edge) - 1e-3 * step
        else:
            assert origin + plan.shape[axis] * step >= ends[axis] - 1e-3 * step
        assert plan.shape[axis] == 1 or origin + (plan.shape[axis] - 1) * step < ends[axis]


@given(readings())
def test_a_level_read_as_it_is_starts_at_one_of_its_px_and_stays_inside(
    case: tuple[list[Level], tuple[float, float], Region, float],
) -> None:
    levels, slide_mpp, bounds, _ = case
    for level in levels:
        plan = plan_read(
            levels,
            slide_mpp=slide_mpp,
            bounds_l0=bounds,
            mpp=slide_mpp[0] * level.downsample,
            allow_upsampling=False,
        )
        if plan.level_per_px == (1.0, 1.0):
            for axis in (0, 1):
                start = plan.origin_l0[axis] / plan.level.downsample
                assert start == pytest.approx(round(start), abs=1e-6)
                assert plan.shape[axis] == 1 or round(start) + plan.shape[axis] <= plan.level.shape[axis]


def test_a_slide_of_unequal_mpp_gives_square_px() -> None:
    levels = pyramid(1000, 1000)
    plan = plan_read(levels, slide_mpp=(0.25, 0.3), bounds_l0=Region(0, 0, 1000, 1000), mpp=0.6, allow_upsampling=False)
    assert plan.mpp == (0.6, 0.6)
    assert plan.level_per_px == pytest.approx((2.4, 2.0))
    assert plan.shape == (417, 500)


def test_the_coarser_axis_decides_whether_px_would_be_invented() -> None:
    with pytest.raises(ScaleError, match=r"0\.3 um per px"):
        plan_read(
            pyramid(100, 100),
            slide_mpp=(0.25, 0.3),
            bounds_l0=Region(0, 0, 100, 100),
            mpp=0.26,
            allow_upsampling=False,
        )


def test_a_coarse_slide_is_enlarged_only_when_asked() -> None:
    levels, whole = pyramid(100, 80, 4.0), Region(0, 0, 100, 80)
    with pytest.raises(ScaleError, match=r"finest level has 0\.5 .* --allow-upsampling.* --mpp 0\.5"):
        plan_read(levels, slide_mpp=(0.5, 0.5), bounds_l0=whole, mpp=0.25, allow_upsampling=False)
    plan = plan_read(levels, slide_mpp=(0.5, 0.5), bounds_l0=whole, mpp=0.25, allow_upsampling=True)
    assert (plan.level.index, plan.shape, plan.level_per_px) == (0, (200, 160), (0.5, 0.5))


@pytest.mark.parametrize("slide_mpp", [(0.5, 0.4), None], ids=["with a scale", "without"])
def test_no_wanted_mpp_reads_level_0_as_it_is(slide_mpp: tuple[float, float] | None) -> None:
    bounds = Region(10, 20, 50, 40)
    plan = plan_read(pyramid(100, 80, 4.0), slide_mpp=slide_mpp, bounds_l0=bounds, mpp=None, allow_upsampling=False)
    assert (plan.level.index, plan.shape, plan.origin_l0) == (0, (50, 40), (10.0, 20.0))
    assert plan.mpp == (slide_mpp or (1.0, 1.0))
    assert plan.region == Region(0, 0, 50, 40)


def test_without_a_scale_a_wanted_mpp_is_refused_with_the_remedy() -> None:
    with pytest.raises(ScaleError, match=r"--slide-mpp 0\.5, or mpp=0\.5 in Python"):
        plan_read(
            pyramid(100, 80),
            slide_mpp=None,
            bounds_l0=Region(0, 0, 100, 80),
            mpp=0.5,
            allow_upsampling=False,
        )


@pytest.mark.parametrize("mpp", [0.0, -1.0, math.nan, math.inf])
def test_an_mpp_that_is_no_positive_number_is_refused(mpp: float) -> None:
    with pytest.raises(ScaleError, match="positive number"):
        plan_read(
            pyramid(100, 80),
            slide_mpp=(0.5, 0.5),
            bounds_l0=Region(0, 0, 100, 80),
            mpp=mpp,
            allow_upsampling=True,
        )


def test_bounds_that_start_inside_a_level_px_move_the_origin_to_it() -> None:
    plan = plan_read(
        pyramid(1000, 1000, 4.0),
        slide_mpp=(0.25, 0.25),
        bounds_l0=Region(6, 8, 90, 100),
        mpp=1.0,
        allow_upsampling=False,
    )
    assert plan.origin_l0 == (4.0, 8.0)
    assert plan.shape == (23, 25)  # level rows 1..24, columns 2..27
    assert plan.um2_per_px == 1.0


@pytest.mark.parametrize(("h", "w"), [(0, 1), (1, 0), (-1, 5)])
def test_an_empty_region_is_refused(h: int, w: int) -> None:
    with pytest.raises(GeometryError, match=f"got {h} x {w}"):
        Region(0, 0, h, w)


def test_a_region_slices_an_array_of_its_frame() -> None:
    region = Region(2, 3, 4, 5)
    assert region.slices == (slice(2, 6), slice(3, 8))
    assert (region.shape, region.area) == ((4, 5), 20)
