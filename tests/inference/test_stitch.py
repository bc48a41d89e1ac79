"""Windows put together again are the image that they were cut from."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from wsi_espnet.geometry import Region
from wsi_espnet.grid import Grid, Window, intersect
from wsi_espnet.inference.stitch import Packed, Strip, blend, split, weight, zones

Array = NDArray[np.uint8]
CLASSES = 3


def fields(shape: tuple[int, int], seed: int) -> Array:
    """Probabilities (C, h, w), 0..255, of no particular sum."""
    return np.random.default_rng(seed).integers(0, 256, (CLASSES, *shape), dtype=np.uint8)


def cut(field: Array, window: Window) -> Array:
    """What a perfect network says over `window.read`: the field, and rubbish outside the image."""
    rows, columns = window.read
    out = np.full((CLASSES, rows.length, columns.length), 77, np.uint8)
    y0, x0 = max(0, rows.start), max(0, columns.start)
    y1, x1 = min(field.shape[1], rows.stop), min(field.shape[2], columns.stop)
    out[:, y0 - rows.start : y1 - rows.start, x0 - columns.start : x1 - columns.start] = field[:, y0:y1, x0:x1]
    return out


def stitch(
    grid: Grid, windows: dict[tuple[int, int], Window], said: dict[tuple[int, int], Array]
) -> tuple[Array, Array]:
    """Labels and probabilities of the whole image, from what each window says."""
    labels = np.full(grid.shape, 99, np.uint8)
    probabilities = np.zeros((CLASSES, *grid.shape), np.uint8)
    kept, strips = {}, {}
    for index, window in windows.items():
        near = {
            i: w
            for i, w in windows.items()
            if i != index and grid.blend_px and max(abs(i[0] - index[0]), abs(i[1] - index[1])) == 1
        }
        own, out = split(
            window, near, said[index].argmax(0).astype(np.uint8), said[index], blend_px=grid.blend_px, keep_all=True
        )
        kept[index] = own
        for target, piece in out.items():
            strips.setdefault(target, []).append(Strip(window, piece))
    for index, window in windows.items():
        lab, prob = blend(
            window, kept[index], strips.get(index, []), blend_px=grid.blend_px, classes=CLASSES, keep_all=True
        )
        assert prob is not None
        labels[window.box.slices] = lab
        probabilities[(slice(None), *window.box.slices)] = prob
    return labels, probabilities


grids = st.builds(
    lambda h, w, core, halo, share: Grid((h, w), core * 16, halo * 8, halo * 8 * share // 4),
    st.integers(1, 260),
    st.integers(1, 260),
    st.integers(4, 8),
    st.integers(0, 4),
    st.integers(0, 4),
)


@settings(deadline=None, max_examples=60)
@given(grids, st.integers(0, 99))
def test_reassembling_is_identity(grid: Grid, seed: int) -> None:
    field = fields(grid.shape, seed)
    windows = {w.index: w for w in grid.windows(lambda core: core)}
    labels, probabilities = stitch(grid, windows, {i: cut(field, w) for i, w in windows.items()})
    np.testing.assert_array_equal(labels, field.argmax(0))
    np.testing.assert_array_equal(probabilities, field)


@settings(deadline=None, max_examples=60)
@given(grids, st.integers(0, 99), st.data())
def test_boxes_of_any_size_are_filled_with_the_field(grid: Grid, seed: int, data: st.DataObject) -> None:
    field = fields(grid.shape, seed)
    h, w = grid.shape
    y, x = data.draw(st.integers(0, h - 1)), data.draw(st.integers(0, w - 1))
    tissue = Region(y, x, data.draw(st.integers(1, h - y)), data.draw(st.integers(1, w - x)))
    windows = {win.index: win for win in grid.windows(lambda core: intersect(core, tissue))}
    labels, _ = stitch(grid, windows, {i: cut(field, win) for i, win in windows.items()})
    np.testing.assert_array_equal(labels[tissue.slices], field.argmax(0)[tissue.slices])


def test_constant_in_constant_out() -> None:
    grid = Grid((300, 200), 64, 32, 24)
    field = np.broadcast_to(np.array([20, 200, 35], np.uint8)[:, None, None], (3, *grid.shape)).copy()
    windows = {w.index: w for w in grid.windows(lambda core: core)}
    labels, probabilities = stitch(grid, windows, {i: cut(field, w) for i, w in windows.items()})
    assert (labels == 1).all()
    np.testing.assert_array_equal(probabilities, field)


def test_crop_takes_each_core_as_it_is() -> None:
    grid = Grid((64, 128), 64, 16, 0)
    windows = {w.index: w for w in grid.windows(lambda core: core)}
    said = {i: np.full((3, *(s.length for s in w.read)), 10, np.uint8) for i, w in windows.items()}
    said[0, 0][1], said[0, 1][2] = 200, 200
    labels, _ = stitch(grid, windows, said)
    assert (labels[:, :64] == 1).all()
    assert (labels[:, 64:] == 2).all()


def test_blending_goes_from_one_window_to_the_next_as_a_squared_cosine() -> None:
    grid = Grid((64, 128), 64, 32, 32)
    windows = {w.index: w for w in grid.windows(lambda core: core)}
    said = {i: np.zeros((3, *(s.length for s in w.read)), np.uint8) for i, w in windows.items()}
    said[0, 0][1], said[0, 1][2] = 255, 255
    _, probabilities = stitch(grid, windows, said)
    at = (np.arange(32, 96) + 0.5 - 32) / 64
    expected = np.rint(255 * np.cos(at * np.pi / 2) ** 2)
    np.testing.assert_allclose(probabilities[1, 10, 32:96], expected, atol=1)
    np.testing.assert_array_equal(probabilities[1, :, :32], 255)
    np.testing.assert_array_equal(probabilities[2, :, 96:], 255)


@given(st.integers(1, 64), st.integers(1, 300))
def test_weights_of_two_neighbours_add_up_to_one(blend_px: int, h: int) -> None:
    left, right = Region(0, 0, h, 200), Region(0, 200, h, 200)
    strip = Region(0, 200 - blend_px, 1, 2 * blend_px)
    total = weight(left, strip, blend_px) + weight(right, strip, blend_px)
    np.testing.assert_allclose(total, weight(Region(0, 0, h, 400), strip, blend_px), atol=1e-6)


@given(st.integers(1, 200), st.integers(1, 200), st.integers(0, 99))
def test_zones_partition_a_box(h: int, w: int, blend_px: int) -> None:
    seen = np.zeros((h, w), int)
    for zone in zones(Region(0, 0, h, w), blend_px):
        seen[zone.slices] += 1
    assert (seen == 1).all()


def test_a_missing_neighbour_leaves_a_window_to_itself() -> None:
    grid = Grid((64, 128), 64, 32, 32)
    windows = {w.index: w for w in grid.windows(lambda core: core)}
    field = fields(grid.shape, 3)
    said = cut(field, windows[0, 0])
    own, _ = split(
        windows[0, 0],
        {(0, 1): windows[0, 1]},
        said.argmax(0).astype(np.uint8),
        said,
        blend_px=32,
        keep_all=False,
    )
    labels, none = blend(windows[0, 0], own, [], blend_px=32, classes=CLASSES, keep_all=False)
    np.testing.assert_array_equal(labels, field.argmax(0)[:, :64])
    assert none is None


@pytest.mark.parametrize("shape", [(3, 5, 7), (1, 1)])
def test_packing_loses_nothing(shape: tuple[int, ...]) -> None:
    array = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    packed = Packed.of(array)
    np.testing.assert_array_equal(packed.array(), array)
    assert packed.array().shape == shape
