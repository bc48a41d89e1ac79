from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from make import noise, shrunk, write_slide

from wsi_espnet.errors import SlideReadError
from wsi_espnet.geometry import Region
from wsi_espnet.slides.jpeg_tiles import JpegTiles, find_jpeg_tiles
from wsi_espnet.slides.slide import Slide


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("jpeg")


@pytest.fixture(scope="module")
def written(folder: Path) -> Slide:
    """Two levels of YCbCr tiles of 64 px, whose sides are no multiples of that."""
    px = shrunk(noise(40, 50), (500, 702))
    return Slide(write_slide(folder / "written.tif", [px, shrunk(px, (250, 351))], compression="jpeg", tile_px=64))


def tiles_of(slide: Slide) -> dict[int, JpegTiles]:
    return find_jpeg_tiles(slide.path, slide.levels, judge=slide._read_drawn)


@given(data=st.data())
def test_any_part_of_a_level_is_what_openslide_draws(written: Slide, data: st.DataObject) -> None:
    level = data.draw(st.sampled_from(written.levels))
    y, x = (data.draw(st.integers(0, side - 1)) for side in level.shape)
    h, w = (data.draw(st.integers(1, side - at)) for side, at in zip(level.shape, (y, x), strict=True))
    region = Region(y, x, h, w)
    np.testing.assert_array_equal(tiles_of(written)[level.index].read(region), written._read_drawn(level, region))


def test_a_real_slide_of_rgb_tiles_with_shared_tables_is_what_openslide_draws(slides: Path) -> None:
    with Slide(slides / "CMU-1-Small-Region.svs") as slide:
        tiles = tiles_of(slide)[0]
        assert tiles.colours == "RGB"
        assert tiles.tables is not None
        whole = Region(0, 0, *slide.levels[0].shape)
        np.testing.assert_array_equal(tiles.read(whole), slide._read_drawn(slide.levels[0], whole))


def test_the_slide_reads_its_jpeg_levels_without_openslide(written: Slide, monkeypatch: pytest.MonkeyPatch) -> None:
    level = written.levels[0]
    region = Region(100, 100, 300, 300)
    before = written.read_level(level, region)

    def draws(*_: object) -> None:
        raise AssertionError("OpenSlide was asked")

    monkeypatch.setattr(Slide, "_read_drawn", draws)
    np.testing.assert_array_equal(written.read_level(level, region), before)


@pytest.mark.parametrize("kind", ["byte", "zeros", "noise", "head"])
def test_damage_that_openslide_refuses_is_refused(slides: Path, folder: Path, kind: str) -> None:
    source = slides / "CMU-1-Small-Region.svs"
    with Slide(source) as slide:
        sound = tiles_of(slide)[0]
    path = folder / f"{kind}.svs"
    rng = np.random.default_rng(7)
    refused = 0
    for index in rng.choice(len(sound.counts), 25, replace=False):
        stored = bytearray(source.read_bytes())
        offset, count = int(sound.offsets[index]), int(sound.counts[index])
        at = offset + int(rng.integers(20 if kind == "head" else count - 50))
        if kind == "byte":
            stored[at] ^= int(rng.integers(1, 256))
        elif kind == "zeros":
            stored[at : offset + count] = bytes(offset + count - at)
        elif kind == "noise":
            stored[at : at + 50] = rng.bytes(50)
        else:
            stored[at] = 0
        path.write_bytes(stored)
        row, column = divmod(int(index), -(-sound.shape[1] // 240))
        region = Region(row * 240, column * 240, 200, 60)
        with Slide(path) as slide:
            try:
                slide._read_drawn(slide.levels[0], region)
            except SlideReadError:
                refused += 1
                with pytest.raises(SlideReadError):
                    dataclasses.replace(sound, path=path).read(region)
    assert refused >= 10


def test_a_file_that_is_cut_short_or_away_is_refused(written: Slide, folder: Path) -> None:
    tiles = tiles_of(written)[0]
    cut = folder / "cut.tif"
    cut.write_bytes(written.path.read_bytes()[: int(tiles.offsets[-1]) + 10])
    with pytest.raises(SlideReadError, match="cut short"):
        dataclasses.replace(tiles, path=cut).read(Region(0, 0, *tiles.shape))
    with pytest.raises(SlideReadError, match="cannot be opened"):
        dataclasses.replace(tiles, path=folder / "away.tif").read(Region(0, 0, 8, 8))


def test_levels_that_are_no_plain_jpeg_are_left_to_openslide(folder: Path) -> None:
    px = shrunk(noise(40, 50), (1024, 1280))
    kinds: dict[str, dict[str, Any]] = {
        "deflate": {"compression": "zlib"},
        "missing": {"missing": frozenset({(1, 1)}), "compression": "jpeg"},
        "large": {"tile_px": 1024, "compression": "jpeg"},
    }
    for name, options in kinds.items():
        with Slide(write_slide(folder / f"{name}.tif", [px], **options)) as slide:
            assert tiles_of(slide) == {}
            assert slide.read_level(slide.levels[0], Region(0, 0, *px.shape[:2])).shape == px.shape


def test_a_level_between_whole_downsamples_is_left_to_openslide(folder: Path) -> None:
    # One colour: even what OpenSlide interpolates is equal.
    levels = [np.full((side, side, 3), 200, np.uint8) for side in (640, 187)]
    with Slide(write_slide(folder / "between.tif", levels, compression="jpeg", tile_px=64)) as slide:
        assert not slide.levels[1].downsample.is_integer()
        assert tiles_of(slide).keys() == {0}


def test_a_level_that_openslide_sees_otherwise_is_left_to_it(written: Slide) -> None:
    assert (
        find_jpeg_tiles(written.path, written.levels, judge=lambda _, region: np.zeros((*region.shape, 3), "u1")) == {}
    )


def test_of_two_pages_of_one_size_none_is_taken(folder: Path) -> None:
    px = shrunk(noise(40, 50), (512, 512))
    path = folder / "twice.tif"
    with tifffile.TiffWriter(path) as tiff:
        for _ in range(2):
            tiff.write(px, tile=(64, 64), compression="jpeg", photometric="ycbcr", metadata=None)
    with Slide(path) as slide:
        assert tiles_of(slide) == {}
