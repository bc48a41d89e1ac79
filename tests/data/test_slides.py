"""Slides with annotations: windows show the slide's px, and the class ids that somebody drew."""

from __future__ import annotations

import json
import pickle
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import zarr
from data.make import save
from fakes import ArraySource
from slides.make import noise, write_slide
from small import MPP, blobs, small_slide, tiny_model

from wsi_espnet.data.annotations import open_annotation
from wsi_espnet.data.catalog import open_dataset
from wsi_espnet.data.check import check
from wsi_espnet.data.folder import read_classes
from wsi_espnet.data.slides import Slides
from wsi_espnet.errors import DataError, UsageError
from wsi_espnet.geometry import Region
from wsi_espnet.segment import segment

SHAPE = (400, 600)
CLASSES = """
mpp = {mpp}
outside = "stroma"
ignored_annotations = ["Pen"]
[[classes]]
name = "stroma"
color = [230, 120, 160]
[[classes]]
name = "gland"
color = [70, 40, 150]
annotations = ["Gland", "Crypt"]
[[classes]]
name = "vessel"
color = [200, 0, 0]
"""
SMALLER_ON_TOP: list[tuple[str, int, tuple[int, int, int, int]]] = [
    # name, class id, (top, left, bottom, right) in level-0 px
    ("vessel", 2, (100, 120, 106, 126)),
    ("Gland", 1, (40, 60, 240, 360)),
    ("stroma", 0, (60, 200, 120, 300)),
    ("Crypt", 1, (300, 500, 380, 580)),
    ("Pen", 255, (0, 500, 60, 600)),
]


def truth() -> np.ndarray[Any, np.dtype[np.uint8]]:
    out = np.zeros(SHAPE, np.uint8)
    for _, id_, (top, left, bottom, right) in sorted(SMALLER_ON_TOP, key=lambda d: -area(d[2])):
        out[top:bottom, left:right] = id_
    return out


def area(box: tuple[int, int, int, int]) -> int:
    return (box[2] - box[0]) * (box[3] - box[1])


def corners(box: tuple[int, int, int, int]) -> list[list[int]]:
    top, left, bottom, right = box
    return [[left, top], [right, top], [right, bottom], [left, bottom]]


def geojson(path: Path) -> None:
    features = [
        {
            "type": "Feature",
            "geometry": {"type": "Polygon", "coordinates": [[*corners(box), corners(box)[0]]]},
            "properties": {"objectType": "annotation", "classification": {"name": name, "color": [1, 2, 3]}},
        }
        for name, _, box in SMALLER_ON_TOP
    ]
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))


def asap(path: Path) -> None:
    annotations = "".join(
        f'<Annotation Name="A{i}" Type="Polygon" PartOfGroup="{name}" Color="#F4FA58"><Coordinates>'
        + "".join(f'<Coordinate Order="{k}" X="{x}.0" Y="{y}.0" />' for k, (x, y) in enumerate(corners(box)))
        + "</Coordinates></Annotation>"
        for i, (name, _, box) in enumerate(SMALLER_ON_TOP)
    )
    path.write_text(
        f'<?xml version="1.0"?><ASAP_Annotations><Annotations>{annotations}</Annotations></ASAP_Annotations>'
    )


def tiff(path: Path) -> None:
    with tifffile.TiffWriter(path) as tif:
        tif.write(truth(), subifds=1, tile=(128, 128), compression="zlib")
        tif.write(truth()[::2, ::2], subfiletype=1, tile=(128, 128), compression="zlib")


def coarse_tiff(path: Path) -> None:
    tifffile.imwrite(path, truth()[::2, ::2], tile=(128, 128))


def ome_zarr(path: Path) -> None:
    datasets = [{"path": "0", "coordinateTransformations": [{"type": "scale", "scale": [0.5, 0.5]}]}]
    group = zarr.create_group(path, zarr_format=3, attributes={"ome": {"multiscales": [{"datasets": datasets}]}})
    group.create_array("0", data=truth(), chunks=(128, 128))


WRITERS = {"a.geojson": geojson, "a.xml": asap, "a.tif": tiff, "half.tiff": coarse_tiff, "a.zarr": ome_zarr}


def slides(folder: Path, *, mpp: float = 0.5, annotation: str = "a.geojson", **options: Any) -> Slides:
    px = noise(*SHAPE)
    write_slide(folder / "s.tif", [px, px[::2, ::2]], mpp=0.5)
    WRITERS[annotation](folder / annotation)
    (folder / "classes.toml").write_text(CLASSES.format(mpp=mpp))
    (folder / "manifest.csv").write_text(f"slide,annotation,split\ns.tif,{annotation},train\n")
    opened = open_dataset("slides", folder, **{"size": 64, "windows": 30, **options})
    assert isinstance(opened, Slides)
    return opened


@pytest.mark.parametrize("annotation", WRITERS)
def test_windows_hold_the_slides_px_and_what_was_drawn(tmp_path: Path, annotation: str) -> None:
    data = slides(tmp_path, annotation=annotation)
    assert (data.mpp, data.classes.names) == (0.5, ("stroma", "gland", "vessel"))
    windows = data.listing("train").samples
    assert len(windows) == 30
    for window in windows:
        rgb, labels = window.read()
        np.testing.assert_array_equal(rgb, noise(*SHAPE)[window.region.slices])
        np.testing.assert_array_equal(labels, truth()[window.region.slices])


@pytest.mark.parametrize("annotation", WRITERS)
def test_at_half_the_scale_the_same_was_drawn(tmp_path: Path, annotation: str) -> None:
    for window in slides(tmp_path, mpp=1.0, annotation=annotation).samples("train"):
        np.testing.assert_array_equal(window.read().labels, truth()[::2, ::2][window.region.slices])


def test_as_many_windows_lie_on_each_class_however_rare(tmp_path: Path) -> None:
    data = slides(tmp_path, windows=45)
    windows = data.samples("train")
    assert Counter(window.aim for window in windows) == {0: 15, 1: 15, 2: 15}
    assert all(window.aim in window.read().labels for window in windows)
    assert (truth() == 2).mean() < 0.0002


def test_the_seed_alone_decides(tmp_path: Path) -> None:
    names = [w.name for w in slides(tmp_path).samples("train")]
    assert len(set(names)) == 30
    assert [w.name for w in slides(tmp_path).samples("train")] == names
    assert [w.name for w in slides(tmp_path, seed=1).samples("train")] != names


def test_a_window_travels_to_another_process(tmp_path: Path) -> None:
    window = slides(tmp_path).samples("train")[7]
    packed = pickle.dumps(window)
    assert len(packed) < 4000
    np.testing.assert_array_equal(pickle.loads(packed).read().rgb, window.read().rgb)


def test_no_place_is_taken_twice_where_there_are_few(tmp_path: Path) -> None:
    windows = slides(tmp_path, size=400, windows=500).samples("train")
    assert len({w.name for w in windows}) == len(windows) <= 201


def test_qupath_counts_from_the_bounds_and_asap_from_the_slide(tmp_path: Path) -> None:
    source = ArraySource(np.full((700, 900, 3), 255, np.uint8), 0.5)
    source.bounds_l0 = Region(150, 250, *SHAPE)
    (tmp_path / "classes.toml").write_text(CLASSES.format(mpp=0.5))
    file, _ = read_classes(tmp_path)
    plan = source.plan(None)
    geojson(tmp_path / "a.geojson")
    labels = open_annotation(tmp_path / "a.geojson", source, file).labels(plan, Region(0, 0, *SHAPE))
    np.testing.assert_array_equal(labels, truth())
    asap(tmp_path / "a.xml")
    labels = open_annotation(tmp_path / "a.xml", source, file).labels(plan, Region(0, 0, *SHAPE))
    np.testing.assert_array_equal(labels[:250, :350], truth()[150:, 250:])


def test_slides_that_cannot_be_used_are_findings_and_the_others_go_on(tmp_path: Path) -> None:
    slides(tmp_path)
    rows = ["slide,annotation,split,mpp", "s.tif,a.geojson,train,"]
    (tmp_path / "text.tif").write_text("no slide")
    small = noise(40, 40)
    write_slide(tmp_path / "small.tif", [small], mpp=0.5)
    write_slide(tmp_path / "coarse.tif", [noise(*SHAPE)], mpp=4.0)
    save(tmp_path / "square.tif", np.zeros((100, 100), np.uint8))
    feature = json.loads((tmp_path / "a.geojson").read_text())["features"][0]
    feature["properties"]["classification"]["name"] = "Nerve"
    (tmp_path / "nerve.geojson").write_text(json.dumps(feature))
    feature["geometry"] = {"type": "Point", "coordinates": [1, 2]}
    (tmp_path / "point.geojson").write_text(json.dumps(feature))
    (tmp_path / "spline.xml").write_text('<A><Annotation Type="Spline" PartOfGroup="Gland"/></A>')
    (tmp_path / "cut.xml").write_text("<ASAP_Annotations><Ann")
    (tmp_path / "empty.json").write_text("[]")
    (tmp_path / "folder.json").mkdir()
    (tmp_path / "notes.txt").write_text("x")
    wanted = {
        "none.tif,a.geojson": "there is no slide at",
        "text.tif,a.geojson": "does not open as a slide",
        "small.tif,a.geojson": "has 40 x 40 px at 0.5 um per px, a window 64 x 64",
        "coarse.tif,a.geojson": "finest level has 4 um per px, 0.5 is wanted",
        "s.tif,none.xml": "none.xml is missing",
        "s.tif,square.tif": "square.tif has 100 x 100 px",
        "s.tif,nerve.geojson": "holds outlines of 'Nerve', which classes.toml has not; known are stroma, Gland, Crypt",
        "s.tif,point.geojson": "holds a Point, which has no area",
        "s.tif,spline.xml": "it holds a Spline; draw it as a Polygon",
        "s.tif,cut.xml": "is not ASAP's XML",
        "s.tif,empty.json": "holds no outlines",
        "s.tif,folder.json": "folder.json is not GeoJSON of classified Polygons (IsADirectoryError",
        "s.tif,notes.txt": "an annotation is a .geojson",
        "s.tif,text.tif": "cannot be read as a TIFF image",
    }
    (tmp_path / "manifest.csv").write_text("\n".join([*rows, *(f"{pair},train," for pair in wanted)]))
    report = check(open_dataset("slides", tmp_path, size=64, windows=3), workers=1)
    assert report.splits[0].read == 3
    assert len(report.findings) == report.errors == len(wanted)
    for finding, said in zip(report.findings, wanted.values(), strict=True):
        assert said in finding.what


def test_a_mask_with_unknown_ids_is_found_where_it_is_read(tmp_path: Path) -> None:
    data = slides(tmp_path, annotation="a.tif")
    ids = truth()
    ids[::7, ::7] = 77
    tifffile.imwrite(tmp_path / "bad.tif", ids, tile=(128, 128))
    (tmp_path / "manifest.csv").write_text("slide,annotation,split\ns.tif,bad.tif,train\n")
    data = open_dataset("slides", tmp_path, size=64, windows=2)
    with pytest.raises(DataError, match=r"bad\.tif holds the ids 77, which no class has"):
        data.samples("train")[0].read()


def test_a_result_of_this_package_is_an_annotation(tmp_path: Path) -> None:
    small_slide(tmp_path / "s.svs", blobs(*SHAPE))
    model = tiny_model(tmp_path / "tiny.safetensors")
    result = segment(tmp_path / "s.svs", tmp_path / "out", model=model)
    wanted = np.asarray(zarr.open_array(result.path / "labels" / "classes" / "0", mode="r")[...])
    assert len(np.unique(wanted)) > 1
    (tmp_path / "classes.toml").write_text(CLASSES.format(mpp=MPP))
    (tmp_path / "manifest.csv").write_text(f"slide,annotation,split\ns.svs,out/{result.path.name},train\n")
    for window in open_dataset("slides", tmp_path, size=64, windows=10).samples("train"):
        np.testing.assert_array_equal(window.read().labels, wanted[window.region.slices])


@pytest.mark.parametrize(
    ("manifest", "said"),
    [
        ("slide;annotation;split\n", "must have the columns"),
        ("slide,annotation,split\n", "a row per slide"),
        ("slide,annotation,split\ns.tif,,train\n", "line 2: slide, annotation and split must be there"),
        ("slide,annotation,split,mpp\ns.tif,a.xml,train,x\n", "mpp a number above 0"),
        ("slide,annotation,split\ns.tif,a.xml,train\ns.tif,b.xml,val\n", "has s.tif in train and val"),
    ],
)
def test_manifests_that_cannot_be_are_refused(tmp_path: Path, manifest: str, said: str) -> None:
    slides(tmp_path)
    (tmp_path / "manifest.csv").write_text(manifest)
    with pytest.raises(DataError, match=said):
        open_dataset("slides", tmp_path)


def test_a_manifest_may_come_from_excel_but_in_utf_8(tmp_path: Path) -> None:
    slides(tmp_path)
    (tmp_path / "a.geojson").rename(tmp_path / "Pr\u00e4parat.geojson")
    manifest = "slide,annotation,split\ns.tif,Pr\u00e4parat.geojson,train\n"
    (tmp_path / "manifest.csv").write_text(manifest, encoding="utf-8-sig")
    assert len(open_dataset("slides", tmp_path, size=64, windows=3).samples("train")) == 3
    (tmp_path / "manifest.csv").write_text(manifest, encoding="latin-1")
    with pytest.raises(DataError, match=r"manifest\.csv cannot be read .*save it as UTF-8 text"):
        open_dataset("slides", tmp_path)


def test_outlines_that_are_empty_count_for_nothing(tmp_path: Path) -> None:
    source = ArraySource(noise(*SHAPE), 0.5)
    (tmp_path / "classes.toml").write_text(CLASSES.format(mpp=0.5))
    file, _ = read_classes(tmp_path)
    geojson(tmp_path / "a.geojson")
    drawn = json.loads((tmp_path / "a.geojson").read_text())["features"]
    empty = [
        {"type": "Feature", "geometry": geometry, "properties": {"classification": {"name": "Gland"}}}
        for geometry in ({"type": "Polygon", "coordinates": []}, {"type": "MultiPolygon", "coordinates": [[]]})
    ]
    (tmp_path / "a.geojson").write_text(json.dumps([*empty, *drawn]))
    annotation = open_annotation(tmp_path / "a.geojson", source, file)
    np.testing.assert_array_equal(annotation.labels(source.plan(None), Region(0, 0, *SHAPE)), truth())
    (tmp_path / "a.geojson").write_text(json.dumps(empty))
    with pytest.raises(DataError, match=r"a\.geojson holds no outlines"):
        open_annotation(tmp_path / "a.geojson", source, file)


def test_what_else_must_be_said(tmp_path: Path) -> None:
    data = slides(tmp_path)
    with pytest.raises(DataError, match="has no split 'val'; there are train"):
        data.samples("val")
    with pytest.raises(UsageError, match="size must be a whole number of at least 8, got '64'"):
        slides(tmp_path, size="64")
    (tmp_path / "classes.toml").write_text(CLASSES.replace("mpp = {mpp}", ""))
    with pytest.raises(DataError, match="must say `mpp`"):
        open_dataset("slides", tmp_path)
    (tmp_path / "manifest.csv").unlink()
    (tmp_path / "classes.toml").write_text(CLASSES.format(mpp=1))
    with pytest.raises(DataError, match=r"manifest\.csv is missing"):
        open_dataset("slides", tmp_path)
