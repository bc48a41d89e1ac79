"""What lies far from tissue is not computed, not looked at, and not missed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from random_networks import MEAN, SCALE, network, window
from scipy import ndimage

from wsi_espnet.geometry import Region
from wsi_espnet.grid import Grid
from wsi_espnet.inference import maps
from wsi_espnet.inference.bands import BandedEspNet
from wsi_espnet.inference.columns import wanted_columns
from wsi_espnet.inference.layers import in_precision
from wsi_espnet.inference.maps import Workspace
from wsi_espnet.inference.predictor import Columns
from wsi_espnet.slides.tissue_mask import TissueMask

FAR = 4
"""Rows at stride 8 of the smallest bands."""


def logits(
    px: torch.Tensor, columns: Columns | None, *, dtype: torch.dtype = torch.float32, workspace: Workspace | None = None
) -> NDArray[np.float32]:
    """Logits where they are computed, NaN elsewhere: (C, H, W)."""
    run = BandedEspNet(in_precision(network(q=2), dtype))
    out = np.full((3, *px.shape[:2]), np.nan, np.float32)
    for row, column, band in run(px, MEAN, SCALE, workspace or Workspace(dtype), columns):
        out[:, row : row + band.shape[1], column : column + band.shape[2]] = band
    return out


@st.composite
def wanted(draw: st.DrawFn) -> Columns:
    """Of a window of 16 x 24 steps."""
    spans = [sorted(draw(st.tuples(st.integers(0, 24), st.integers(0, 24)))) for _ in range(16)]
    return np.array(spans, np.int32)


@settings(deadline=None, max_examples=60)
@given(
    cells=st.tuples(st.integers(1, 30), st.integers(1, 30)),
    share=st.sampled_from([0.02, 0.2, 1.0]),
    halo=st.sampled_from([0, 8, 16, 48]),
    blend=st.sampled_from([0.0, 0.5, 1.0]),
    origin=st.sampled_from(["auto", "regions.geojson"]),
    seed=st.integers(0, 1000),
)
def test_tissue_and_its_halo_are_wanted_and_nothing_beyond_them(
    cells: tuple[int, int], share: float, halo: int, blend: float, origin: str, seed: int
) -> None:
    shape = (211, 305)
    tissue = TissueMask(np.random.default_rng(seed).random(cells) < share, shape, origin)
    grid = Grid(shape, core_px=96, halo_px=halo, blend_px=int(halo * blend))
    everywhere = np.pad(tissue.sample(Region(0, 0, *shape)), 200, mode="symmetric")
    for each in grid.windows(tissue.box):
        rows, columns = (slice(span.start + 200, span.stop + 200) for span in each.read)
        steps = everywhere[rows, columns].reshape(each.read[0].length // 8, 8, -1, 8).any(axis=(1, 3))
        around = 2 * (halo // 8 // (2 if origin == "auto" else 1)) + 1
        near = ndimage.maximum_filter(steps, size=around, mode="constant")
        expected = [(found[0], found[-1] + 1) if len(found) else (0, 0) for found in map(np.flatnonzero, near)]
        np.testing.assert_array_equal(wanted_columns(each, tissue), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("begin", "end"), [(0, 24), (5, 6), (3, 24), (0, 17), (7, 20)])
def test_the_same_columns_all_the_way_down_are_a_picture_of_their_own(begin: int, end: int, dtype: torch.dtype) -> None:
    px = window(128, 192)
    columns = np.tile(np.array([[begin, end]], np.int32), (16, 1))
    got = logits(px, columns, dtype=dtype)
    cut = slice(8 * begin, 8 * end)
    np.testing.assert_array_equal(got[..., cut], logits(px[:, cut].contiguous(), None, dtype=dtype))
    assert np.isnan(got).sum() == 3 * 128 * (192 - 8 * (end - begin))


@settings(deadline=None, max_examples=30, phases=[Phase.reuse, Phase.generate])  # to shrink takes minutes
@given(columns=wanted(), dtype=st.sampled_from([torch.float32, torch.bfloat16]), seed=st.integers(0, 1000))
def test_what_is_not_wanted_is_not_looked_at(columns: Columns, dtype: torch.dtype, seed: int) -> None:
    px = window(128, 192, seed)
    seen = np.zeros((128, 192), np.bool_)
    for top in range(0, 16, FAR):
        spans = [span for span in columns[top : top + FAR] if span[0] < span[1]]
        begin, end = (min(s[0] for s in spans), max(s[1] for s in spans)) if spans else (0, 0)
        seen[max(0, 8 * top - 3) : 8 * (top + FAR), 8 * begin : 8 * end] = True  # with three rows of px above
    other, used = torch.where(torch.from_numpy(seen)[..., None], px, px + 77), Workspace(dtype)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(maps, "BAND_BYTES", 1)
        expected = logits(px, columns, dtype=dtype)
        logits(window(128, 192, seed + 1), None, dtype=dtype, workspace=used)
        for block in used._blocks.values():  # what an earlier window left behind, at its worst
            block[:] = b"\xff" * len(block)
        got = logits(other, columns, dtype=dtype, workspace=used)
    np.testing.assert_array_equal(got, expected)
    for row, (begin, end) in enumerate(columns):
        assert np.isfinite(got[:, 8 * row : 8 * row + 8, 8 * begin : 8 * end]).all()


def test_a_strip_of_tissue_aslant_takes_the_work_that_it_has() -> None:
    """A window of 1024 px over a strip, 136 px from side to side, with a halo of 64 px."""
    y, x = np.mgrid[:128, :128]
    tissue = TissueMask(np.abs(y - x) < 9, (1024, 1024), "a drawing")
    (each,) = Grid((1024, 1024), core_px=1024, halo_px=64, blend_px=32).windows(tissue.box)
    columns = wanted_columns(each, tissue)
    done = sum(band.width * (band.stop - band.start) for band in bands(columns, each.read[0].length))
    assert 0.1 < tissue.area_px / each.work_px < done / len(columns) / (each.read[1].length // 8) < 0.4


def bands(columns: Columns, height: int) -> list[maps.Band]:
    workspace = Workspace(torch.float32)
    workspace.columns = columns
    return list(workspace.bands(height // 8, height // 8, 128 * 8))  # as high as those of a window three times as wide
