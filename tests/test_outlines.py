"""From the mask of a result to annotations, in px of the slide."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import shapely
import zarr
from numpy.typing import NDArray
from shapely.geometry import shape
from small import CLASSES, blobs, run_process, small_slide, tiny_model

from wsi_espnet import outlines as job
from wsi_espnet.errors import DependencyError, OutputError, ResumeError
from wsi_espnet.geometry import Region
from wsi_espnet.outlines import outlines
from wsi_espnet.segment import SegmentResult, segment
from wsi_espnet.slides import slide as slides

Labels = NDArray[np.uint8]

BOUNDS = Region(30, 70, 290, 300)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("outlines")
    small_slide(made / "slide.svs", blobs(330, 390))
    tiny_model(made / "tiny.safetensors", core_px=128)
    patched(segment(made / "slide.svs", made / "out", model=made / "tiny.safetensors"))
    return made


def patched(made: SegmentResult) -> Labels:
    """Give a result a mask of patches in place of a random network's specks; its labels."""
    array = zarr.open_array(made.path / "labels" / "classes" / "0", mode="r+")
    patches = np.random.default_rng(1).integers(0, 3, [-(-extent // 9) for extent in array.shape], np.uint8)
    array[...] = np.kron(patches, np.ones((9, 9), np.uint8))[: array.shape[0], : array.shape[1]]
    return np.asarray(array[...])


def polygons(path: Path, name: str) -> list[shapely.Polygon]:
    features = json.loads(path.read_text(encoding="utf-8"))["features"]
    return [shape(f["geometry"]) for f in features if f["properties"]["classification"]["name"] == name]


@pytest.mark.parametrize("mpp", [None, 0.9])
def test_exact_outlines_hold_the_px_of_the_slide_that_the_mask_names(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mpp: float | None
) -> None:
    """Of a slide that states bounds: cropped to them, as QuPath shows it, and uncropped."""
    monkeypatch.setattr(slides, "bounds_l0", lambda *_: BOUNDS)
    made = segment(folder / "slide.svs", tmp_path / "out", model=folder / "tiny.safetensors", mpp=mpp)
    labels = patched(made)
    y, x = np.indices(BOUNDS.shape) + 0.5  # centres of level-0 px, from the corner of the bounds
    per_px = 1 if mpp is None else mpp / 0.5
    ids = labels[(y / per_px).astype(int), (x / per_px).astype(int)]
    for uncropped in (False, True):
        written = outlines(tmp_path / "out", simplify_um=0, least_um2=0, uncropped=uncropped, overwrite=True)
        at = (y + BOUNDS.y, x + BOUNDS.x) if uncropped else (y, x)
        for id_, name in enumerate(CLASSES.names):
            inside = shapely.contains_xy(shapely.union_all(polygons(written.path, name)), at[1], at[0])
            np.testing.assert_array_equal(inside, (ids == id_) & (id_ != CLASSES.glass))


def test_areas_are_those_of_the_mask(folder: Path, tmp_path: Path) -> None:
    written = outlines(folder / "out", tmp_path / "exact.geojson", simplify_um=0, least_um2=0)
    labels = np.asarray(zarr.open_array(folder / "out" / "slide.ome.zarr" / "labels" / "classes" / "0", mode="r")[...])
    assert [row.name for row in written.classes] == ["stroma", "gland"]
    assert [row.mm2 for row in written.classes] == pytest.approx([(labels == i).sum() * 0.25e-6 for i in (1, 2)])
    assert [row.regions for row in written.classes] == [len(polygons(written.path, r.name)) for r in written.classes]


def test_what_could_not_be_read_is_outlined_too(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    made = segment(folder / "slide.svs", tmp_path / "out", model=folder / "tiny.safetensors")
    labels = zarr.open_array(made.path / "labels" / "classes" / "0", mode="r+")
    labels[128:256, 128:256] = 255
    group = zarr.open_group(made.path, mode="r+")
    mark = dict(group.attrs["wsi_espnet"])
    group.attrs["wsi_espnet"] = mark | {"state": "writing"}
    written = outlines(made.path)
    assert written.classes[-1] == job.ClassRegions("unlabelled", 1, pytest.approx((128 * 0.5) ** 2 / 1e6))
    assert polygons(written.path, "unlabelled")[0].equals(shapely.box(128, 128, 256, 256))
    assert "is not finished" in caplog.text


def test_as_typed(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "a" / "regions.geojson"
    told = run_process("outlines", folder / "out", "-o", out)
    assert told.status == 0, told.err
    assert told.out.splitlines()[0].split() == ["class", "regions", "mm2"]
    assert told.out.splitlines()[-1] == str(out)
    run_process("outlines", folder / "out", "-o", out).assert_refused(2, "exists and is not replaced", "--overwrite")
    told = run_process("outlines", folder / "out", "-o", out, "--overwrite", "--json", "--least-area", "80")
    assert told.status == 0, told.err
    document = json.loads(told.out)
    assert [row["name"] for row in document["classes"]] == ["stroma", "gland"]
    assert all(polygon.area >= 320 for name in ("stroma", "gland") for polygon in polygons(out, name))
    run_process("outlines", tmp_path).assert_refused(1, "holds no result")
    run_process("outlines", folder / "out", "--simplify=-1").assert_refused(2, "--simplify must be 0 or more")


def test_outlines_of_a_mask_that_is_replaced_are_told_of(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    given = {"model": folder / "tiny.safetensors", "tissue": "none"}
    segment(folder / "slide.svs", tmp_path, **given)  # type: ignore[arg-type]
    written = outlines(tmp_path)
    assert written.path == tmp_path / "outlines.geojson"
    with pytest.raises(ResumeError, match="is not replaced"):
        outlines(tmp_path)
    segment(folder / "slide.svs", tmp_path, **given)  # type: ignore[arg-type]
    assert "is not of the mask" not in caplog.text
    segment(folder / "slide.svs", tmp_path, **given, overwrite=True)  # type: ignore[arg-type]
    assert "outlines.geojson is not of the mask that is written now" in caplog.text
    assert written.path.exists()


def test_a_damaged_mask_is_one_sentence(folder: Path, tmp_path: Path) -> None:
    made = segment(folder / "slide.svs", tmp_path / "out", model=folder / "tiny.safetensors", tissue="none")
    shard = made.path / "labels" / "classes" / "0" / "c" / "1" / "1"
    shard.write_bytes(shard.read_bytes()[:40])
    told = run_process("outlines", made.path)
    told.assert_refused(1, "cannot be read", "a chunk is damaged", "segment the slide again")
    assert not (tmp_path / "out" / "outlines.geojson").exists()
    # Whoever segments it once more is told of it too, and loses nothing.
    with pytest.raises(OutputError, match=r"rows 128\.\.256, columns 128\.\.256: a chunk is damaged .*--overwrite"):
        segment(folder / "slide.svs", tmp_path / "out", model=folder / "tiny.safetensors", tissue="none")
    assert made.areas_csv.exists()


def test_without_its_packages_the_extra_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job, "find_spec", lambda name: None if name == "rasterio" else object())
    with pytest.raises(DependencyError, match=r"outlines need rasterio: pip install 'wsi-espnet\[outlines\]'"):
        outlines(folder / "out")
