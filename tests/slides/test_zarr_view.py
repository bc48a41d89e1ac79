from __future__ import annotations

import asyncio
import pickle
from pathlib import Path

import dask.array as da
import numpy as np
import pytest
import zarr
from make import noise, shrunk, write_slide
from ome_zarr_models.v05.image import Image
from zarr.core.buffer import default_buffer_prototype

from wsi_espnet.errors import SlideReadError
from wsi_espnet.geometry import Level, Region
from wsi_espnet.slides.slide import Slide
from wsi_espnet.slides.zarr_view import CHUNK_PX, SlideStore, zarr_view


class RecordingSlide(Slide):
    """A slide that keeps a list of the regions that were read."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.reads: list[tuple[int, Region]] = []

    def read_level(self, level: Level, region: Region) -> np.ndarray:
        self.reads.append((level.index, region))
        return super().read_level(level, region)


LEVELS = (noise(1300, 2100), noise(650, 1050, seed=1), noise(325, 525, seed=2))


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_slide(tmp_path_factory.mktemp("view") / "slide.tif", LEVELS)


@pytest.fixture
def slide(path: Path) -> RecordingSlide:
    return RecordingSlide(path)


@pytest.fixture
def mirax(slides: Path) -> Slide:
    return Slide(slides / "mirax_partial" / "Mirax2-Fluorescence-2.mrxs")


def test_every_level_is_an_array_of_the_stored_px(slide: RecordingSlide) -> None:
    group = zarr_view(slide)
    assert sorted(group.array_keys()) == ["0", "1", "2"]
    for name, px in zip("012", LEVELS, strict=True):
        array = group[name]
        assert (array.dtype, array.chunks) == (np.uint8, (3, CHUNK_PX, CHUNK_PX))
        np.testing.assert_array_equal(np.moveaxis(array[...], 0, -1), px)


def test_a_chunk_costs_one_read_of_its_level_and_metadata_none(slide: RecordingSlide) -> None:
    group = zarr_view(slide)
    assert group["0"].shape == (3, 1300, 2100)
    assert "multiscales" in group.attrs["ome"]
    assert slide.reads == []
    group["0"][:, 1100:1250, 1100:2000]
    assert slide.reads == [(0, Region(1024, 1024, 276, 1024))]


def test_dask_reads_only_what_it_needs(slide: RecordingSlide) -> None:
    lazy = da.from_zarr(zarr_view(slide)["0"])
    assert lazy.chunks == ((3,), (1024, 276), (1024, 1024, 52))
    assert slide.reads == []
    mean = lazy[:, 1024:, 2048:].mean().compute(scheduler="threads")
    assert mean == pytest.approx(LEVELS[0][1024:, 2048:].mean())
    assert slide.reads == [(0, Region(1024, 2048, 276, 52))]


def test_chunks_are_white_beyond_the_edge(slide: RecordingSlide) -> None:
    store = SlideStore(slide)
    buffer = asyncio.run(store.get("2/c/0/0/0", default_buffer_prototype()))
    assert buffer is not None
    chunk = np.frombuffer(buffer.to_bytes(), np.uint8).reshape(3, CHUNK_PX, CHUNK_PX)
    assert np.all(chunk[:, 325:] == 255)
    assert np.all(chunk[:, :, 525:] == 255)


def test_the_group_is_a_valid_ngff_image(slide: RecordingSlide) -> None:
    multiscale = Image.from_zarr(zarr_view(slide)).attributes.ome.multiscales[0]
    scales = [dataset.coordinateTransformations[0].scale for dataset in multiscale.datasets]
    places = [dataset.coordinateTransformations[1].translation for dataset in multiscale.datasets]
    assert scales == pytest.approx(np.array([[1, 0.5, 0.5], [1, 1, 1], [1, 2, 2]]))
    assert places == pytest.approx(np.array([[0, 0, 0], [0, 0.25, 0.25], [0, 0.75, 0.75]]))


def test_a_slide_with_bounds_is_shown_inside_them_and_placed(mirax: Slide) -> None:
    group = zarr_view(mirax)
    assert group["0"].shape == (3, 7641, 10439)
    dataset = group.attrs.asdict()["ome"]["multiscales"][0]["datasets"][5]
    transformations = dataset["coordinateTransformations"]
    y, x = 102664 // 32 * 32, 9153 // 32 * 32  # whole px of level 5, downsample 32
    assert transformations[0]["scale"] == pytest.approx([1, 10.32, 10.32])
    assert transformations[1]["translation"] == pytest.approx([0, (y + 15.5) * 0.3225, (x + 15.5) * 0.3225])
    px = np.moveaxis(group["5"][:, 20:220, 30:230], 0, -1)
    expected = mirax.read_level(mirax.levels[5], Region(y // 32 + 20, x // 32 + 30, 200, 200))
    np.testing.assert_array_equal(px, expected)


def test_a_read_that_fails_is_an_error_and_not_a_missing_chunk(mirax: Slide) -> None:
    group = zarr_view(mirax)
    with pytest.raises(SlideReadError, match="level 0"):
        group["0"][:, :100, :100]
    with pytest.raises(SlideReadError, match="level 1"):
        da.from_zarr(group["1"])[:, :100, :100].compute(scheduler="threads")


def test_a_slide_without_a_scale_has_axes_without_a_unit(tmp_path: Path) -> None:
    group = zarr_view(Slide(write_slide(tmp_path / "a.tif", [shrunk(LEVELS[2], (60, 80))], mpp=None)))
    axes = group.attrs.asdict()["ome"]["multiscales"][0]["axes"]
    assert axes == [
        {"name": "c", "type": "channel"},
        {"name": "y", "type": "space"},
        {"name": "x", "type": "space"},
    ]


def test_the_view_is_not_written_to(slide: RecordingSlide) -> None:
    group = zarr_view(slide)
    with pytest.raises(ValueError, match="read-only"):
        group["0"][:, :4, :4] = 0
    with pytest.raises(ValueError, match="read-only"):
        group.create_array("new", shape=(4,), dtype="uint8")
    with pytest.raises(ValueError, match="read-only"):
        asyncio.run(SlideStore(slide).delete("0/c/0/0/0"))


def test_the_keys_are_those_that_can_be_read(slide: RecordingSlide) -> None:
    store = SlideStore(slide)

    async def listed() -> tuple[list[str], list[str], list[str], list[str]]:
        return (
            [key async for key in store.list()],
            [key async for key in store.list_prefix("1/c/")],
            [name async for name in store.list_dir("")],
            [name async for name in store.list_dir("0/c/0")],
        )

    keys, chunks, top, rows = asyncio.run(listed())
    assert len(keys) == 4 + 6 + 2 + 1
    assert chunks == ["1/c/0/0/0", "1/c/0/0/1"]
    assert top == ["zarr.json", "0", "1", "2"]
    assert rows == ["0", "1"]
    assert all(asyncio.run(store.exists(key)) for key in keys)
    for key in ("0/c/0/2/0", "3/c/0/0/0", "0/c/1/0/0", "0/0/0", ".zattrs", "0/c/0/x/0"):
        assert not asyncio.run(store.exists(key))
        assert asyncio.run(store.get(key, default_buffer_prototype())) is None


def test_a_pickled_view_opens_the_slide_again(path: Path) -> None:
    array = pickle.loads(pickle.dumps(zarr_view(Slide(path))["2"]))
    assert isinstance(array, zarr.Array)
    np.testing.assert_array_equal(np.moveaxis(array[...], 0, -1), LEVELS[2])
