"""Which slides a batch is about."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pydicom
import pytest
from make_dicom import write_dicom_slide
from small import blobs, small_slide, tiny_model

from wsi_espnet.cohort import manifest
from wsi_espnet.cohort.manifest import read_entries
from wsi_espnet.errors import UsageError
from wsi_espnet.segment import segment
from wsi_espnet.slides.source import open_source


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_a_folder_is_searched_to_its_depth_and_names_keep_its_folders(tmp_path: Path) -> None:
    touch(tmp_path / "b.SVS", tmp_path / "case 1" / "a.ndpi", tmp_path / "notes.txt", tmp_path / ".hidden" / "x.svs")
    touch(tmp_path / "c.mrxs", tmp_path / "c" / "Data0001.dat", tmp_path / "d.ome.zarr" / "zarr.json")
    found = read_entries([tmp_path])
    assert [entry.name for entry in found] == ["b", "c", "case 1/a", "d"]
    assert all(entry.slide.is_absolute() and entry.slide.exists() for entry in found)


def test_links_that_lead_back_do_not_multiply_slides(tmp_path: Path) -> None:
    touch(tmp_path / "a.svs", tmp_path / "below" / "b.svs")
    (tmp_path / "below" / "loop").symlink_to(tmp_path)
    assert [entry.name for entry in read_entries([tmp_path])] == ["a", "below/b"]


def test_folders_that_may_not_be_read_are_left_out_aloud(caplog: pytest.LogCaptureFixture) -> None:
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        touch(folder / "a.svs", folder / "closed" / "b.svs", folder / "listed" / "c.svs")
        folder.chmod(0o755)
        (folder / "closed").chmod(0o300)
        (folder / "listed").chmod(0o644)
        root = os.geteuid() == 0
        if root:  # who may read everything
            os.seteuid(65534)
        try:
            assert [entry.name for entry in read_entries([folder])] == ["a"]
        finally:
            if root:
                os.seteuid(0)
            for name in ("closed", "listed"):
                (folder / name).chmod(0o755)
        for name in ("closed", "listed"):
            assert f"{folder / name} is left out, for it cannot be read (Permission denied)" in caplog.text


def test_a_name_that_is_no_utf8_is_refused(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"caf\xe9.svs")).touch()
    with pytest.raises(UsageError, match=r"caf\\xe9\.svs is not UTF-8"):
        read_entries([tmp_path])


def test_models_beside_a_table_are_found_from_anywhere(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("path,model\na.svs,m.onnx\nb.svs,m.safetensors\nc.svs,glas-colon\n")
    wanted = [str(tmp_path / "m.onnx"), str(tmp_path / "m.safetensors"), "glas-colon"]
    assert [entry.model for entry in read_entries([tmp_path / "t.csv"])] == wanted


def test_results_in_a_folder_are_no_slides(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    small_slide(tmp_path / "b.svs", blobs(260, 340))
    segment(tmp_path / "b.svs", tmp_path / "out", model=tiny_model(tmp_path / "tiny.safetensors"), tissue="none")
    touch(tmp_path / "a.svs", *(tmp_path / "out" / name for name in ("mask.ome.tiff", "mask.dcm", "other.tiff")))
    touch(tmp_path / "mask.ome.tiff")  # beside no result
    caplog.clear()
    assert [entry.name for entry in read_entries([tmp_path])] == ["a", "b", "mask.ome", "out/other"]
    assert caplog.text == ""


@pytest.fixture
def dicom(tmp_path: Path) -> Path:
    """A folder with two DICOM slides side by side, one below, a label, two damaged files, and a slide of one file."""
    px = blobs(200, 300)
    for number in (1, 2):
        write_dicom_slide(tmp_path / "made", [px, px[::4, ::4]], mpp=0.5)
        for level in (tmp_path / "made").iterdir():
            level.rename(tmp_path / f"case-{number}-{level.name}")
    slide = write_dicom_slide(tmp_path / "below", [px], mpp=0.5)
    label = pydicom.dcmread(slide)
    label.ImageType = ["ORIGINAL", "PRIMARY", "LABEL", "NONE"]
    label.save_as(slide.with_name("a-label.DCM"))
    (tmp_path / "made").rmdir()
    series = b"\x20\x00\x0e\x00"
    (tmp_path / "damaged.dcm").write_bytes(slide.read_bytes().replace(series + b"UI", series + b"UK"))
    touch(tmp_path / "a.svs", tmp_path / "empty.dcm")
    return tmp_path


DICOM_NAMES = ["a", "below/level-0", "case-1-level-0", "case-2-level-0", "damaged", "empty"]


def test_of_each_dicom_slide_in_a_folder_one_file_is_taken(dicom: Path, caplog: pytest.LogCaptureFixture) -> None:
    found = read_entries([dicom])
    assert [entry.name for entry in found] == DICOM_NAMES
    assert [entry.slide for entry in found[1:]] == [dicom / f"{name}.dcm" for name in DICOM_NAMES[1:]]
    assert caplog.text == ""
    with open_source(found[2].slide) as source:
        assert [level.shape for level in source.levels] == [(200, 300), (50, 75)]
    assert [entry.name for entry in read_entries([f"{dicom}/*.dcm"])] == DICOM_NAMES[2:]


def test_without_pydicom_dicom_files_are_left_out_aloud(
    dicom: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(manifest, "find_spec", lambda name: None)
    assert [entry.name for entry in read_entries([dicom])] == ["a"]
    assert "8 DICOM files such as" in caplog.text
    assert "pip install 'wsi-espnet[dicom]'" in caplog.text


def test_a_pattern_and_a_file_are_taken_in_their_order(tmp_path: Path) -> None:
    touch(tmp_path / "x" / "b.svs", tmp_path / "x" / "a.svs", tmp_path / "z.tiff")
    found = read_entries([str(tmp_path / "z.tiff"), str(tmp_path / "**" / "*.svs")])
    assert [entry.name for entry in found] == ["z", "a", "b"]


def test_a_table_says_scale_model_tissue_and_name_beside_itself(tmp_path: Path) -> None:
    table = tmp_path / "slides.tsv"
    table.write_text(
        "path\tmpp\tmodel\ttissue\tname\n"
        "a.svs\t0.25\tm.safetensors\tmask.png\tcase/a\n"
        "/data/b.svs\t\tglas-colon\tnone\t\n",
        encoding="utf-8-sig",
    )
    a, b = read_entries([table])
    assert (a.slide, a.name, a.mpp) == (tmp_path / "a.svs", "case/a", 0.25)
    assert (a.model, a.tissue) == (str(tmp_path / "m.safetensors"), str(tmp_path / "mask.png"))
    assert (b.slide, b.name, b.mpp, b.model, b.tissue) == (Path("/data/b.svs"), "b", None, "glas-colon", "none")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("slide,mpp\na.svs,1\n", "unknown columns slide"),
        ("name\na\n", "has no column path"),
        ("path,mmp\na.svs,1\n", "unknown columns mmp"),
        ("path,mpp\na.svs,half\n", "line 2 .* got 'half'"),
        ("path,mpp\na.svs,-1\n", "got '-1'"),
        ("path,mpp\na.svs,nan\n", "got 'nan'"),
        ("path,mpp\na.svs,inf\n", "got 'inf'"),
        ("path,mpp\na.svs\n", "line 2 .* another number of columns"),
        ('path\na.svs\n""\n', "line 3 .* names no slide"),
        ("path\n", "holds no slide"),
        ("path,name\na.svs,../x\n", "cannot name"),
        ("path,name\na.svs,/x\n", "cannot name"),
        ("path,name\na.svs,x//y\n", "cannot name"),
        ("path,name\na.svs,x\nb.svs,x\n", "would both have the result x"),
        ("path,name\na.svs,x\nb.svs,x/y\n", "would lie in the result x"),
    ],
)
def test_a_wrong_table_is_refused(tmp_path: Path, text: str, said: str) -> None:
    table = tmp_path / "slides.csv"
    table.write_text(text)
    with pytest.raises(UsageError, match=said):
        read_entries([table])


def test_nothing_found_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no slide is in"):
        read_entries([tmp_path])
    with pytest.raises(UsageError, match="nothing matches"):
        read_entries([str(tmp_path / "*.svs")])
    with pytest.raises(UsageError, match="cannot be read"):
        read_entries([tmp_path / "absent.csv"])
    with pytest.raises(UsageError, match="at least one slide"):
        read_entries([])


def test_two_files_of_one_name_need_a_table(tmp_path: Path) -> None:
    touch(tmp_path / "a.svs", tmp_path / "a.tiff")
    with pytest.raises(UsageError, match=r"a\.svs and .*a\.tiff would both have the result a"):
        read_entries([tmp_path])
