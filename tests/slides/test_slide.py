from __future__ import annotations

import os
import pickle
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from make import noise, shrunk, write_slide
from PIL import Image

from wsi_espnet.errors import GeometryError, ScaleError, SlideError, SlideReadError
from wsi_espnet.geometry import Region
from wsi_espnet.slides import resample
from wsi_espnet.slides.describe import describe
from wsi_espnet.slides.properties import bounds_l0, file_mpp
from wsi_espnet.slides.slide import Slide, _on_white
from wsi_espnet.slides.source import open_source
from wsi_espnet.slides.zarr_view import zarr_view

FRACTIONAL = {  # downsample: (side of level 0, side of level 1)
    3.0118: (2554, 848),
    4.0033: (2402, 600),
    16.0428: (3000, 187),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("slides")


@pytest.fixture(scope="module")
def smooth(folder: Path) -> Slide:
    """Downsamples 1, 2 and 8 of one picture, 0.5 um per px."""
    px = shrunk(noise(90, 110, seed=1), (900, 1100))
    levels = [px, shrunk(px, (450, 550)), shrunk(px, (113, 138))]
    return Slide(write_slide(folder / "smooth.tif", levels))


def test_the_parts_of_a_level_with_a_whole_downsample_are_the_stored_px(folder: Path) -> None:
    levels = [noise(1000, 1400), noise(500, 700, seed=1), noise(125, 175, seed=2)]
    with Slide(write_slide(folder / "whole.tif", levels, kind="aperio", tile_px=64)) as slide:
        assert [level.downsample for level in slide.levels] == [1.0, 2.0, 8.0]
        for level, px in zip(slide.levels, levels, strict=True):
            for region in (Region(0, 0, *level.shape), Region(13, 57, 101, 77), Region(124, 174, 1, 1)):
                np.testing.assert_array_equal(slide.read_level(level, region), px[region.slices])


@pytest.mark.parametrize("downsample", FRACTIONAL)
def test_px_of_a_level_with_a_fractional_downsample_are_off_by_half_a_level_0_px_at_most(
    folder: Path, downsample: float
) -> None:
    side, small = FRACTIONAL[downsample]
    px = noise(small, small, seed=3)
    with Slide(write_slide(folder / f"{side}.tif", [noise(side, side), px], tile_px=128)) as slide:
        level = slide.levels[1]
        assert level.downsample == pytest.approx(downsample, rel=1e-4)
        off = np.abs(slide.read_level(level, Region(0, 0, small, small)).astype(int) - px)
    # A bilinear shift by (s, s) takes at most 1 - (1 - s)^2 of its weight from neighbours.
    shift = 0.5 / level.downsample + 1 / 256
    assert off.max() <= 255 * (1 - (1 - shift) ** 2) + 1
    assert np.mean(off[:256, :256] == 0) == 1  # the first block starts at 0, which is exact


def test_a_fractional_downsample_that_comes_near_whole_px_is_read_exactly(folder: Path) -> None:
    side, small = FRACTIONAL[3.0118]
    px = noise(small, small, seed=3)
    with Slide(write_slide(folder / "near.tif", [noise(side, side), px], tile_px=128)) as slide:
        off = np.abs(slide.read_level(slide.levels[1], Region(0, 0, small, small)).astype(int) - px)
    assert off.max() <= 2
    assert np.mean(off == 0) > 0.9


@pytest.mark.parametrize("downsample", FRACTIONAL)
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_px_does_not_depend_on_the_region_it_is_read_in(folder: Path, downsample: float, data: st.DataObject) -> None:
    side, small = FRACTIONAL[downsample]
    path = folder / f"{side}.tif"
    if not path.exists():
        write_slide(path, [noise(side, side), noise(small, small, seed=3)], tile_px=128)
    with Slide(path) as slide:
        y, x = data.draw(st.integers(0, small - 1)), data.draw(st.integers(0, small - 1))
        h, w = data.draw(st.integers(1, min(300, small - y))), data.draw(st.integers(1, min(300, small - x)))
        level = slide.levels[1]
        whole = slide.read_level(level, Region(0, 0, small, small))
        np.testing.assert_array_equal(slide.read_level(level, Region(y, x, h, w)), whole[y : y + h, x : x + w])


def test_the_coordinates_grid_keeps_its_places(slides: Path, folder: Path) -> None:
    grid = np.asarray(Image.open(slides / "coords_grid" / "XYC.png").convert("RGB"))
    large = np.tile(grid, (4, 4, 1))
    with Slide(write_slide(folder / "grid.tif", [large, grid], mpp=0.5, tile_px=64)) as slide:
        for mpp, px in ((0.5, large), (2.0, grid)):
            plan = slide.plan(mpp)
            assert plan.shape == px.shape[:2]
            for region in (Region(0, 0, 64, 64), Region(3, 250, 201, 133), Region(480, 400, 32, 112)):
                np.testing.assert_array_equal(slide.read(plan, region), px[region.slices])


@settings(max_examples=40, deadline=None)
@given(mpp=st.floats(0.3, 12), data=st.data())
def test_an_image_read_in_one_piece_and_in_pieces_is_the_same(smooth: Slide, mpp: float, data: st.DataObject) -> None:
    plan = smooth.plan(mpp, allow_upsampling=True)
    height, width = plan.shape
    y, x = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    h, w = data.draw(st.integers(1, height - y)), data.draw(st.integers(1, width - x))
    part = smooth.read(plan, Region(y, x, h, w))
    np.testing.assert_array_equal(part, smooth.read(plan, plan.region)[y : y + h, x : x + w])


def test_the_size_of_the_bands_that_are_held_at_once_changes_nothing(
    smooth: Slide, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = smooth.plan(0.73)
    whole = smooth.read(plan, plan.region)
    for band in (1, 30_000, 200_000):
        monkeypatch.setattr(resample, "BAND_LEVEL_PX", band)
        np.testing.assert_array_equal(smooth.read(plan, plan.region), whole)


@pytest.mark.parametrize("mpp", [0.62005, 0.9, 1.3, 3.2])
def test_shrinking_agrees_with_one_resize_of_the_whole_level(smooth: Slide, mpp: float) -> None:
    plan = smooth.plan(mpp)
    level = smooth.read_level(plan.level, Region(0, 0, *plan.level.shape))
    height, width = (int(extent / step) for extent, step in zip(level.shape, plan.level_per_px, strict=False))
    box = (0, 0, width * plan.level_per_px[1], height * plan.level_per_px[0])
    expected = Image.fromarray(level).resize((width, height), Image.Resampling.HAMMING, box)
    got = smooth.read(plan, Region(0, 0, height, width))
    inner = np.s_[3:-3, 3:-3]  # at the very edge Pillow drops the px outside, where the nearest is repeated here
    off = np.abs(got.astype(int) - np.asarray(expected))[inner]
    assert off.max() <= 1
    assert np.mean(off == 0) > 0.98


@pytest.mark.parametrize("mpp", [0.2, 0.41, 0.62005, 1.0, 1.24, 1.7, 31.0, 130.0])
def test_a_ramp_stays_in_its_place_at_every_scale(folder: Path, mpp: float) -> None:
    ramp = np.broadcast_to(np.linspace(0, 255, 2600), (700, 2600))
    px = np.repeat(np.rint(ramp).astype(np.uint8)[..., None], 3, axis=2)
    path = folder / "ramp.tif"
    with Slide(path if path.exists() else write_slide(path, [px])) as slide:
        plan = slide.plan(mpp, allow_upsampling=True)
        row = slide.read(plan, plan.region)[0, :, 0].astype(float)
    step = plan.level_per_px[1]
    centres = (np.arange(plan.shape[1]) + 0.5) * step - 0.5  # in level px
    inner = (centres > step) & (centres < 2599 - step)
    assert np.abs(row - centres * 255 / 2599)[inner].max() <= 1.1


def test_what_reaches_beyond_the_edge_repeats_the_nearest_px(folder: Path) -> None:
    px = np.full((301, 203, 3), 180, np.uint8)
    with Slide(write_slide(folder / "even.tif", [px])) as slide:
        plan = slide.plan(1.3)
        assert plan.shape == (116, 79)
        assert np.all(slide.read(plan, plan.region) == 180)


def test_a_region_outside_the_plan_is_refused(smooth: Slide) -> None:
    plan = smooth.plan(1.0)
    for region in (Region(-1, 0, 5, 5), Region(0, plan.shape[1] - 4, 5, 5)):
        with pytest.raises(GeometryError, match="must lie inside the plan's 450 x 550 px"):
            smooth.read(plan, region)


def test_transparent_px_are_white(folder: Path) -> None:
    px = noise(700, 900)
    path = write_slide(folder / "sparse.tif", [px], missing=frozenset({(1, 1)}))
    expected = px.copy()
    expected[256:512, 256:512] = 255
    with Slide(path) as slide:
        np.testing.assert_array_equal(slide.read(slide.plan(None), Region(0, 0, 700, 900)), expected)


def test_partly_transparent_px_are_laid_on_white() -> None:
    rgba = np.array([[[100, 0, 200, 255], [100, 0, 200, 128], [0, 0, 0, 0]]], np.uint8)
    alpha = rgba[..., 3:] / 255
    expected = rgba[..., :3] * alpha + 255 * (1 - alpha)
    got = np.asarray(_on_white(Image.fromarray(rgba, "RGBA")))
    assert np.abs(got - expected).max() <= 0.5


def test_read_px_are_writable(smooth: Slide) -> None:
    for mpp in (0.5, 0.8):
        smooth.read(smooth.plan(mpp), Region(0, 0, 4, 4))[...] = 0


def test_many_threads_read_what_one_reads(smooth: Slide) -> None:
    plan = smooth.plan(0.8)
    regions = [Region(y, x, 97, 61) for y in range(0, 450, 90) for x in range(0, 600, 55)]
    alone = [smooth.read(plan, region) for region in regions]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda region: smooth.read(plan, region), regions))
    for a, b in zip(alone, together, strict=True):
        np.testing.assert_array_equal(a, b)


def damaged(folder: Path) -> tuple[Path, np.ndarray]:
    """A JPEG slide whose tile in row 1, column 2 is garbage, and the px it had before."""
    px = shrunk(noise(40, 50), (1024, 1280))
    path = write_slide(folder / "damaged.tif", [px], compression="jpeg")
    with Slide(path) as slide:
        before = slide.read(slide.plan(None), Region(0, 0, 1024, 1280))
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages[0]
        offset, size = page.dataoffsets[5 + 2], page.databytecounts[5 + 2]
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(b"\0" * size)
    return path, before


def test_a_damaged_tile_fails_by_name_and_nothing_else_fails(folder: Path) -> None:
    path, before = damaged(folder)
    with Slide(path) as slide:
        plan = slide.plan(None)
        for _ in range(2):
            with pytest.raises(SlideReadError, match=r"rows 300\.\.310, columns 600\.\.620") as caught:
                slide.read(plan, Region(300, 600, 10, 20))
            assert "damaged.tif" in str(caught.value)
            good = Region(512, 0, 512, 1280)
            np.testing.assert_array_equal(slide.read(plan, good), before[good.slices])


def test_bad_reads_in_one_thread_spoil_no_good_read_in_another(folder: Path) -> None:
    path, before = damaged(folder)
    good = [Region(512 + y, x, 128, 160) for y in (0, 128, 256, 384) for x in range(0, 1280, 160)]
    failures = []
    stop = threading.Event()
    with Slide(path) as slide:
        plan = slide.plan(None)

        def fail() -> None:
            while not stop.is_set():
                try:
                    slide.read(plan, Region(256, 512, 256, 256))
                except SlideReadError as exc:
                    failures.append(exc)

        thread = threading.Thread(target=fail)
        thread.start()
        try:
            with ThreadPoolExecutor(4) as pool:
                parts = list(pool.map(lambda region: slide.read(plan, region), good * 3))
        finally:
            stop.set()
            thread.join()
    assert failures
    for region, part in zip(good * 3, parts, strict=True):
        np.testing.assert_array_equal(part, before[region.slices])


def test_a_slide_without_a_scale_opens_but_has_no_mpp_to_read_at(folder: Path) -> None:
    path = write_slide(folder / "unscaled.tif", [noise(60, 80)], mpp=None)
    with Slide(path) as slide:
        assert slide.mpp is None
        assert slide.plan(None).shape == (60, 80)
        with pytest.raises(ScaleError, match="--slide-mpp"):
            slide.plan(0.5)
        info = describe(slide, model_mpp=0.5)
        assert info.mpp is None
        assert info.reads is not None
        assert "--slide-mpp" in str(info.reads.refused)
    with Slide(path, mpp=0.25) as slide:
        assert slide.plan(0.5).shape == (30, 40)


def test_a_given_mpp_wins_over_the_file(smooth: Slide) -> None:
    with open_source(smooth.path, mpp=0.25) as source:
        assert source.mpp == (0.25, 0.25)
        assert source.identity() != smooth.identity()
    with pytest.raises(ScaleError, match="positive number"):
        open_source(smooth.path, mpp=0)


def test_identity_is_that_of_the_file_not_of_its_place(smooth: Slide, tmp_path: Path) -> None:
    copy = shutil.copy(smooth.path, tmp_path)
    with Slide(copy) as slide:
        assert slide.identity() == smooth.identity()
    assert str(smooth.path.parent) not in str(smooth.identity())


def test_without_a_quick_hash_identity_comes_from_the_bytes(smooth: Slide, tmp_path: Path) -> None:
    copy = Path(shutil.copy(smooth.path, tmp_path))
    with copy.open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"?")
    hashes = set()
    for path in (smooth.path, copy):
        with Slide(path) as slide:
            slide.properties = {}
            hashes.add(slide.identity()["quickhash"])
    assert len(hashes) == 2


def test_a_pickled_slide_opens_again(smooth: Slide) -> None:
    again = pickle.loads(pickle.dumps(Slide(smooth.path, mpp=0.3)))
    assert again.mpp == (0.3, 0.3)
    assert again.read(again.plan(None), Region(0, 0, 2, 2)).shape == (2, 2, 3)


def test_a_closed_slide_says_so(smooth: Slide) -> None:
    slide = Slide(smooth.path)
    plan = slide.plan(None)
    slide.close()
    with pytest.raises(SlideError, match="was closed"):
        slide.read(plan, Region(0, 0, 1, 1))


def unopenable(folder: Path, slides: Path) -> dict[str, tuple[Path, str]]:
    """Files that are no slides, and what must be said of each."""
    real = (slides / "CMU-1-Small-Region.svs").read_bytes()
    made = {
        "empty.svs": (b"", "empty"),
        "text.svs": (b"no slide\n" * 50, "does not know this format"),
        "half.svs": (real[: len(real) // 2], "cut off"),
        "most.svs": (real[:-2000], "cut off"),
        "alone.mrxs": (b"\xff\xd8\xff", "data folder alone/ is missing"),
    }
    for name, (data, _) in made.items():
        (folder / name).write_bytes(data)
    Image.new("RGB", (64, 64)).save(folder / "striped.tif")
    return {name: (folder / name, say) for name, (_, say) in made.items()} | {
        "striped.tif": (folder / "striped.tif", "not tiled"),
        "absent": (folder / "absent.svs", "there is no slide"),
        "folder": (folder, "is a folder"),
        "png": (slides / "coords_grid" / "XYC.png", "PNG image"),
        "compression": (slides / "unreadable" / "unopenable.tiff", "Unsupported TIFF compression"),
    }


def test_what_is_no_slide_is_refused_with_the_reason(tmp_path: Path, slides: Path) -> None:
    for path, say in unopenable(tmp_path, slides).values():
        with pytest.raises(SlideError, match=say) as caught:
            open_source(path)
        assert str(path) in str(caught.value)


def test_a_slide_of_damaged_px_opens_and_fails_to_read(slides: Path) -> None:
    with open_source(slides / "unreadable" / "unreadable.svs") as source:
        plan = source.plan(None)
        with pytest.raises(SlideReadError, match="Bogus marker length"):
            source.read(plan, plan.region)


REAL = {
    "CMU-1-Small-Region.svs": ("aperio", [(2967, 2220)], (0.499, 0.499), 20.0),
    "test3-DAPI-2-(387).ndpi": (
        "hamamatsu",
        [(4864 >> k, 3968 >> k) for k in range(7)],
        (0.228175, 0.228175),
        40.0,
    ),
    "multi_frame_jpeg_camelyon_challenge_image.dcm": ("dicom", [(700, 1152)], (28.968, 28.969), None),
    "boxes.tiff": ("generic-tiff", [(250, 300), (125, 150), (62, 75), (31, 37)], (352.778, 352.778), None),
    "boxes_0.dcm": ("dicom", [(16, 16)], (0.499, 0.499), 20.0),
    "small.svs": ("aperio", [(16, 16)], (0.499, 0.499), 20.0),
}


@pytest.mark.parametrize("name", REAL)
def test_real_slides_are_what_they_are(slides: Path, name: str) -> None:
    vendor, shapes, mpp, power = REAL[name]
    with open_source(slides / name) as source:
        info = describe(source, model_mpp=None)
        assert source.vendor == vendor
        assert [level.shape for level in source.levels] == shapes
        assert source.mpp == pytest.approx(mpp, rel=1e-5)
        assert source.bounds_l0 == Region(0, 0, *shapes[0])
        assert info.power == power
        plan = source.plan(source.mpp[0] * 1.7)
        px = source.read(plan, plan.region)
        assert px.shape == (*plan.shape, 3)
        assert px.std() > 5


def test_a_sparse_slide_is_read_inside_its_bounds_and_fails_where_data_are_absent(slides: Path) -> None:
    with Slide(slides / "mirax_partial" / "Mirax2-Fluorescence-2.mrxs") as slide:
        assert slide.bounds_l0 == Region(102664, 9153, 7641, 10439)
        assert slide.mpp == (0.3225, 0.3225)
        with pytest.raises(SlideReadError, match=r"level-0 rows 102400\.\.102912"):
            slide.read(slide.plan(None), Region(0, 0, 300, 300))
        with pytest.raises(SlideReadError, match="level 1"):
            slide.read(slide.plan(0.645), Region(0, 0, 300, 300))
        plan = slide.plan(0.3225 * 4)
        assert (plan.level.index, plan.shape, plan.origin_l0) == (2, (1911, 2610), (102664.0, 9152.0))
        whole = slide.read(plan, plan.region)
        assert whole[100:-100, 100:-100].max(axis=2).min() < 255
        part = Region(311, 797, 500, 600)
        np.testing.assert_array_equal(slide.read(plan, part), whole[part.slices])


def test_bounds_count_only_when_all_four_are_there_and_inside() -> None:
    names = ("y", "x", "height", "width")
    full = {f"openslide.bounds-{name}": str(value) for name, value in zip(names, (5, 6, 70, 80), strict=True)}
    assert bounds_l0(full, (100, 100)) == Region(5, 6, 70, 80)
    whole = Region(0, 0, 100, 100)
    for key in full:
        assert bounds_l0({k: v for k, v in full.items() if k != key}, (100, 100)) == whole
        assert bounds_l0(full | {key: "-3"}, (100, 100)) == whole
        assert bounds_l0(full | {key: "97"}, (100, 100)) == whole
    assert bounds_l0(full | {"openslide.bounds-width": "0"}, (100, 100)) == whole


def test_an_mpp_that_is_no_positive_number_is_no_mpp() -> None:
    good = {"openslide.mpp-x": "0.25", "openslide.mpp-y": "0.26"}
    assert file_mpp(good) == (0.26, 0.25)
    for bad in ("0", "-1", "nan", "inf", "unknown"):
        assert file_mpp(good | {"openslide.mpp-x": bad}) is None
    assert file_mpp({"openslide.mpp-x": "0.25"}) is None


@pytest.mark.parametrize(
    ("unit", "um", "resolution"),
    [
        ("\N{MICRO SIGN}m", 1.0, None),
        ("nm", 1e-3, (72, 72)),
        ("\N{GREEK SMALL LETTER MU}m", 1.0, (72, 72)),
        (None, 1.0, None),
    ],
)
def test_an_ome_tiff_says_its_scale_in_its_description(
    folder: Path, unit: str | None, um: float, resolution: tuple[int, int] | None
) -> None:
    stated = {"PhysicalSizeX": 0.25 / um, "PhysicalSizeY": 0.26 / um}
    units = {} if unit is None else {"PhysicalSizeXUnit": unit, "PhysicalSizeYUnit": unit}
    path = folder / "scaled.ome.tif"
    px, how = noise(300, 400), {"photometric": "rgb", "tile": (64, 64), "resolution": resolution}
    tifffile.imwrite(path, px, **how, metadata={"axes": "YXS"} | stated | units, resolutionunit="INCH")  # type: ignore[arg-type]
    with Slide(path) as slide:
        assert slide.mpp == pytest.approx((0.26, 0.25))


def test_ome_xml_that_says_nothing_of_level_0_leaves_the_resolution() -> None:
    pixels = '<Pixels SizeX="{}" SizeY="300" PhysicalSizeX="{}" PhysicalSizeY="0.3" PhysicalSizeXUnit="{}"/>'
    level = {"openslide.level[0].width": "400", "openslide.level[0].height": "300"}
    other = {"openslide.mpp-x": "0.25", "openslide.mpp-y": "0.26"} | level

    def mpp(*texts: str) -> tuple[float, float] | None:
        inside = "".join(f"<Image>{text}</Image>" for text in texts)
        return file_mpp(other | {"tiff.ImageDescription": f'<OME xmlns="any">{inside}</OME>'})

    good = pixels.format(400, 0.2, "\N{MICRO SIGN}m")
    assert mpp(good) == (0.3, 0.2)
    assert mpp(pixels.format(100, 9, "\N{MICRO SIGN}m"), good) == (0.3, 0.2)
    for wrong in (pixels.format(100, 0.2, "m"), pixels.format(400, -1, "m"), pixels.format(400, 0.2, "pixel"), "", "<"):
        assert mpp(wrong) == (0.26, 0.25)


def test_info_says_how_a_model_reads_the_slide(smooth: Slide) -> None:
    info = describe(smooth, model_mpp=1.24)
    assert info.reads is not None
    assert (info.reads.level, info.reads.factor) == (1, pytest.approx((1.24, 1.24)))
    assert (info.reads.height, info.reads.width) == (363, 444)
    assert [level.mpp for level in info.levels][:2] == [(0.5, 0.5), (1.0, 1.0)]
    assert describe(smooth, model_mpp=0.1).reads.refused.startswith("the slide's finest level")
    assert type(info).model_validate_json(info.model_dump_json()) == info
    assert zarr_view(smooth)["1"].shape == (3, 450, 550)


def test_a_name_that_no_result_can_have_is_refused(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"caf\xe9.svs")
    path.touch()
    with pytest.raises(SlideError, match=r"caf\\xe9\.svs is not UTF-8.*rename it"):
        open_source(path)


def test_a_path_that_cannot_be_followed_is_said(tmp_path: Path) -> None:
    with pytest.raises(SlideError, match=r"cannot be read \(File name too long\)"):
        open_source(tmp_path / f"{'x' * 300}.svs")
