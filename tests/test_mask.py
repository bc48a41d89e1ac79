"""From the mask of a result to files that other programs read."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import psutil
import pydicom
import pytest
import tifffile
import zarr
from make_dicom import write_dicom_slide
from numpy.typing import NDArray
from small import blobs, run_process, small_slide, tiny_model

from wsi_espnet import mask as job
from wsi_espnet.errors import BudgetError, DependencyError, ResumeError, SlideError, UsageError
from wsi_espnet.mask import mask
from wsi_espnet.outputs.result import MASK_DICOM
from wsi_espnet.segment import segment


def stored(result: Path, level: int = 0) -> NDArray[np.uint8]:
    (found,) = result.glob("*.ome.zarr")
    return np.asarray(zarr.open_array(found / "labels" / "classes" / str(level), mode="r")[...])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A slide of either kind, of the same px, with its result."""
    made = tmp_path_factory.mktemp("masks")
    px = blobs(700, 900)
    tiny_model(made / "tiny.safetensors", core_px=256)
    small_slide(made / "slide.svs", px)
    segment(made / "slide.svs", made / "aperio", model=made / "tiny.safetensors", mpp=0.62)
    dicom = write_dicom_slide(made / "dicom-slide", [px, px[::4, ::4]], mpp=0.5)
    segment(dicom, made / "dicom", model=made / "tiny.safetensors", mpp=0.62)
    return made


def test_a_tiff_holds_all_levels_of_the_mask(folder: Path, tmp_path: Path) -> None:
    made = mask(folder / "aperio", tmp_path / "m.ome.tif")
    assert (made.format, made.shape) == ("OME-TIFF", stored(folder / "aperio").shape)
    with tifffile.TiffFile(made.path) as tiff:
        assert tiff.ome_metadata is not None
        assert "slide.svs, segmented by tiny; its px (0, 0) starts at level-0 px (0, 0)" in tiff.ome_metadata
        assert 'PhysicalSizeX="0.62' in tiff.ome_metadata
        for level, found in enumerate(tiff.series[0].levels):
            np.testing.assert_array_equal(found.asarray(), stored(folder / "aperio", level))
    coarse = mask(folder / "aperio", tmp_path / "coarse.ome.tiff", level=1)
    assert coarse.mpp == (made.mpp[0] * 2, made.mpp[1] * 2)
    np.testing.assert_array_equal(tifffile.imread(coarse.path), stored(folder / "aperio", 1))


@pytest.mark.parametrize("level", [0, 1])
def test_a_dicom_segmentation_lies_over_its_slide(folder: Path, tmp_path: Path, level: int) -> None:
    made = mask(folder / "dicom", tmp_path / "m.dcm", level=level)
    labels = stored(folder / "dicom", level)
    found, slide = pydicom.dcmread(made.path), pydicom.dcmread(folder / "dicom-slide" / "level-0.dcm")
    assert (found.TotalPixelMatrixRows, found.TotalPixelMatrixColumns) == labels.shape == made.shape
    assert found.SOPClassUID.name == "Segmentation Storage"
    assert [s.SegmentLabel for s in found.SegmentSequence] == ["stroma", "gland"]
    assert found.pixel_array.sum() == (labels > 0).sum()
    corners = [image.TotalPixelMatrixOriginSequence[0] for image in (slide, found)]
    x, y = ([float(c[keyword].value) for c in corners] for keyword in (0x0040072A, 0x0040073A))
    half_more = (0.62 * 2**level - 0.5) / 2 / 1e3  # mm, from the centre of one px to that of the other
    assert (x[1] - x[0], y[1] - y[0]) == pytest.approx((-half_more, -half_more), abs=1e-6)


def test_as_typed(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "a" / "mask.ome.tiff"
    told = run_process("mask", folder / "aperio", "-o", out)
    assert told.status == 0, told.err
    height, width = stored(folder / "aperio").shape
    assert told.out.splitlines() == [f"OME-TIFF  {width} x {height} px of 0.62 um", str(out)]
    run_process("mask", folder / "aperio", "-o", out).assert_refused(2, "exists and is not replaced", "--overwrite")
    told = run_process("mask", folder / "dicom", "-o", tmp_path / "m.dcm", "--json")
    assert told.status == 0, told.err
    assert json.loads(told.out)["shape"] == [height, width]
    told = run_process("mask", folder / "aperio", "-o", tmp_path / "n.dcm")
    told.assert_refused(1, "slide.svs is not DICOM", "write the mask as .ome.tiff")
    run_process("mask", tmp_path).assert_refused(1, "holds no result")


def test_what_cannot_be_written_is_refused(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"ends in \.ome\.tiff or \.dcm, got .*m\.png"):
        mask(folder / "aperio", tmp_path / "m.png")
    with pytest.raises(UsageError, match="--level must be one of the mask's, 0 to 1, got 7"):
        mask(folder / "aperio", tmp_path / "m.ome.tiff", level=7)
    monkeypatch.setattr(job, "find_spec", lambda name: None if name == "highdicom" else object())
    with pytest.raises(DependencyError, match=r"need highdicom: pip install 'wsi-espnet\[dicom\]'"):
        mask(folder / "dicom", tmp_path / "m.dcm")
    monkeypatch.undo()
    free = psutil.virtual_memory()._replace(available=1000)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: free)
    with pytest.raises(BudgetError, match="are free; write a coarser one with --level 1"):
        mask(folder / "dicom", tmp_path / "m.dcm")
    monkeypatch.undo()
    moved = (folder / "dicom-slide").rename(folder / "elsewhere")
    with pytest.raises(SlideError, match="is neither where it was segmented"):
        mask(folder / "dicom", tmp_path / "m.dcm")
    moved.rename(folder / "dicom-slide")
    assert list(tmp_path.iterdir()) == []


def test_a_mask_of_another_mask_is_told_of(folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    given = {"model": folder / "tiny.safetensors", "tissue": "none", "mpp": 0.62}
    segment(folder / "slide.svs", tmp_path, **given)  # type: ignore[arg-type]
    assert mask(tmp_path).path == tmp_path / "mask.ome.tiff"
    with pytest.raises(ResumeError, match="is not replaced"):
        mask(tmp_path)
    (tmp_path / MASK_DICOM).touch()
    segment(folder / "slide.svs", tmp_path, **given, overwrite=True)  # type: ignore[arg-type]
    for name in ("mask.ome.tiff", "mask.dcm"):
        assert f"{name} is not of the mask that is written now; see wsi-espnet mask" in caplog.text
