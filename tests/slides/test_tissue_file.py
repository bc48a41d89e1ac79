"""Mask files say what their author drew, wherever px and cells fall."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
from fakes import ArraySource
from numpy.typing import NDArray
from PIL import Image

from wsi_espnet.errors import TissueError
from wsi_espnet.geometry import Region
from wsi_espnet.slides.tissue import load_tissue

MPP = 4.0
PLAN_SHAPE = (700, 900)


def blank(shape: tuple[int, int]) -> ArraySource:
    return ArraySource(np.full((*shape, 3), 255, dtype=np.uint8), MPP)


@pytest.fixture
def source() -> ArraySource:
    return blank(PLAN_SHAPE)


def write_png(path: Path, array: NDArray[np.generic]) -> Path:
    Image.fromarray(array).save(path)
    return path


def test_any_value_but_zero_in_a_mask_image_is_tissue(tmp_path: Path, source: ArraySource) -> None:
    cells = np.zeros((70, 90), dtype=np.uint8)
    cells[10:20, 30:50] = 1
    mask = load_tissue(write_png(tmp_path / "drawn.png", cells), source, source.plan(None))
    assert mask.origin == "drawn.png"
    expected = np.zeros(PLAN_SHAPE, dtype=bool)
    expected[100:200, 300:500] = True
    np.testing.assert_array_equal(mask.sample(Region(0, 0, *PLAN_SHAPE)), expected)


def test_transparent_px_of_a_mask_image_are_not_tissue(tmp_path: Path, source: ArraySource) -> None:
    rgba = np.full((70, 90, 4), 200, dtype=np.uint8)
    rgba[:, 45:, 3] = 0
    mask = load_tissue(write_png(tmp_path / "m.png", rgba), source, source.plan(None))
    assert mask.fraction == 0.5


def test_palette_indices_and_not_their_colours_are_what_counts(tmp_path: Path, source: ArraySource) -> None:
    image = Image.fromarray(np.repeat(np.arange(2, dtype=np.uint8), 45)[None].repeat(70, axis=0)).convert("P")
    image.putpalette([255, 255, 255, 0, 0, 0])
    image.save(tmp_path / "p.png")
    mask = load_tissue(tmp_path / "p.png", source, source.plan(None))
    assert not mask.sample(Region(0, 0, 700, 450)).any()
    assert mask.sample(Region(0, 450, 700, 450)).all()


def test_a_mask_finer_than_the_plan_loses_no_line(tmp_path: Path, source: ArraySource) -> None:
    fine = np.zeros((2100, 2700), dtype=np.uint8)
    fine[1000] = 255
    tifffile.imwrite(tmp_path / "m.tif", fine)
    mask = load_tissue(tmp_path / "m.tif", source, source.plan(None))
    assert mask.sample(Region(333, 0, 1, 900)).all()
    assert mask.area_px == 900


def test_of_a_pyramid_the_coarsest_level_that_is_fine_enough_is_read(tmp_path: Path, source: ArraySource) -> None:
    full = np.zeros((1400, 1800), dtype=np.uint8)
    full[:, 900:] = 1
    with tifffile.TiffWriter(tmp_path / "m.tif") as tif:
        tif.write(full, subifds=2, tile=(256, 256))
        tif.write(full[::2, ::2], subfiletype=1, tile=(256, 256))
        tif.write(full[::4, ::4], subfiletype=1, tile=(256, 256))
    mask = load_tissue(tmp_path / "m.tif", source, source.plan(None))
    assert mask.cells.shape == (350, 450)  # 8 um per cell
    assert mask.fraction == 0.5


def test_a_mask_of_another_shape_is_refused_with_both_shapes(tmp_path: Path, source: ArraySource) -> None:
    path = write_png(tmp_path / "m.png", np.ones((70, 95), dtype=np.uint8))
    with pytest.raises(TissueError, match=r"95 x 70 px.*1\.357 times.*1\.286 times"):
        load_tissue(path, source, source.plan(None))


def test_a_small_mask_whose_side_is_rounded_to_a_px_fits(tmp_path: Path) -> None:
    source = blank((1000, 333))
    path = write_png(tmp_path / "m.png", np.ones((20, 7), dtype=np.uint8))  # 6.66 rounded up, 5 % off
    assert load_tissue(path, source, source.plan(None)).fraction == 1.0


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("m.jpg", b"", "must be a .png"),
        ("m.png", b"not a png", "cannot be read as a PNG"),
        ("m.tif", b"not a tiff", "cannot be read as a TIFF"),
        ("m.geojson", b"{", "is not GeoJSON"),
        ("m.geojson", b'{"type": "Point", "coordinates": [1, 2]}', "holds a Point, which has no area"),
        ("m.geojson", b'{"type": "Polygon", "coordinates": [[[1, 2], [3, 4]]]}', "at least three points"),
        ("m.geojson", b'{"type": "Feature", "geometry": null}', "is not GeoJSON"),
        ("m.json", b'{"a": 1}', "is not GeoJSON"),
        ("m.json", b"[]", "no tissue is in"),
        ("m.json", b'{"type": "Polygon", "coordinates": []}', "no tissue is in"),
        (
            "m.json",
            b'{"type": "Polygon", "coordinates": [[[9e9, 9e9], [9e9, 8e9], [8e9, 9e9]]]}',
            "no outline inside the slide",
        ),
    ],
)
def test_files_that_are_no_mask_are_refused(
    tmp_path: Path, source: ArraySource, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(TissueError, match=message):
        load_tissue(tmp_path / name, source, source.plan(None))


def test_a_missing_and_an_empty_mask_are_refused(tmp_path: Path, source: ArraySource) -> None:
    with pytest.raises(TissueError, match="does not exist"):
        load_tissue(tmp_path / "absent.png", source, source.plan(None))
    path = write_png(tmp_path / "m.png", np.zeros((70, 90), dtype=np.uint8))
    with pytest.raises(TissueError, match="no tissue is in"):
        load_tissue(path, source, source.plan(None))


@pytest.mark.skipif(sys.platform != "linux", reason="a file that nobody can read, not even root, is known of Linux")
def test_outlines_that_the_disk_does_not_give_are_refused(tmp_path: Path, source: ArraySource) -> None:
    (tmp_path / "m.geojson").symlink_to("/proc/self/mem")  # at its start there is no memory: an input/output error
    with pytest.raises(TissueError, match=r"m\.geojson is not GeoJSON .*Input/output error"):
        load_tissue(tmp_path / "m.geojson", source, source.plan(None))


def square(x: float, y: float, side: float) -> list[list[float]]:
    return [[x, y], [x + side, y], [x + side, y + side], [x, y + side], [x, y]]


def test_all_forms_of_geojson_give_the_same_mask(tmp_path: Path, source: ArraySource) -> None:
    polygon = {"type": "Polygon", "coordinates": [square(100, 200, 300), square(200, 300, 100)]}
    multi = {"type": "MultiPolygon", "coordinates": [polygon["coordinates"]]}
    feature = {"type": "Feature", "geometry": polygon, "properties": {"objectType": "annotation"}}
    forms = [
        polygon,
        multi,
        feature,
        [feature],
        {"type": "FeatureCollection", "features": [feature]},
        {"type": "GeometryCollection", "geometries": [multi]},
        [{"type": "Polygon", "coordinates": []}, {"type": "MultiPolygon", "coordinates": [[]]}, feature],  # empty ones
    ]
    expected = np.zeros(PLAN_SHAPE, dtype=bool)
    expected[200:500, 100:400] = True
    expected[300:400, 200:300] = False
    for form in forms:
        (tmp_path / "m.geojson").write_text(json.dumps(form))
        mask = load_tissue(tmp_path / "m.geojson", source, source.plan(None))
        np.testing.assert_array_equal(mask.sample(Region(0, 0, *PLAN_SHAPE)), expected)


def test_outlines_count_from_the_corner_of_the_bounds(tmp_path: Path) -> None:
    source = blank((1000, 1200))
    source.bounds_l0 = Region(150, 250, *PLAN_SHAPE)
    (tmp_path / "m.geojson").write_text(json.dumps({"type": "Polygon", "coordinates": [square(100, 200, 300)]}))
    for mpp, px in ((None, 1), (8.0, 2)):
        mask = load_tissue(tmp_path / "m.geojson", source, source.plan(mpp))
        assert mask.box(Region(0, 0, *mask.shape)) == Region(200 // px, 100 // px, 300 // px, 300 // px)
