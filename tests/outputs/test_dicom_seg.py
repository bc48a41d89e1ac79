"""Masks as DICOM segmentations: px, places and names, read with pydicom alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from make import noise
from make_dicom import DOWN_AND_LEFT, write_dicom_slide
from numpy.typing import NDArray
from small import CLASSES

from wsi_espnet.classes import ClassTable, TissueClass
from wsi_espnet.errors import SlideError
from wsi_espnet.outputs.dicom_seg import TILE_PX, read_finest, write_dicom_seg

Labels = NDArray[np.uint8]


def patches(height: int, width: int, ids: tuple[int, ...] = (0, 1, 2)) -> Labels:
    small = np.random.default_rng(2).choice(np.array(ids, np.uint8), (-(-height // 40), -(-width // 40)))
    return np.kron(small, np.ones((40, 40), np.uint8))[:height, :width]


def written(slide: Path, to: Path, labels: Labels, *, classes: ClassTable = CLASSES, **where: Any) -> pydicom.Dataset:
    placed = {"origin_l0": (0.0, 0.0), "l0_per_px": (1.0, 1.0)} | where
    write_dicom_seg(to, labels, classes, slide=read_finest(slide), model="tiny", **placed)
    return pydicom.dcmread(to)


def segments(made: pydicom.Dataset) -> dict[str, NDArray[np.bool_]]:
    """Every segment as an image (h, w) of bool, put together frame by frame."""
    whole = {
        int(s.SegmentNumber): np.zeros((made.TotalPixelMatrixRows, made.TotalPixelMatrixColumns), bool)
        for s in made.SegmentSequence
    }
    frames = made.pixel_array.reshape(-1, made.Rows, made.Columns)
    for frame, item in zip(frames, made.PerFrameFunctionalGroupsSequence, strict=True):
        place = item.PlanePositionSlideSequence[0]
        y, x = place.RowPositionInTotalImagePixelMatrix - 1, place.ColumnPositionInTotalImagePixelMatrix - 1
        image = whole[int(item.SegmentIdentificationSequence[0].ReferencedSegmentNumber)]
        part = image[y : y + made.Rows, x : x + made.Columns]
        part[...] = frame[: part.shape[0], : part.shape[1]]
    return {str(s.SegmentLabel): whole[int(s.SegmentNumber)] for s in made.SegmentSequence}


def centre_mm(image: pydicom.Dataset, row: float, column: float) -> NDArray[np.float64]:
    """(x, y) on the glass of the centre of a px, as DICOM PS3.3, C.7.6.2.1.1 has it (equation C.7.6.2.1-1)."""
    corner = image.TotalPixelMatrixOriginSequence[0]
    at = np.array([corner.XOffsetInSlideCoordinateSystem, corner.YOffsetInSlideCoordinateSystem], float)
    cosines = np.array(image.ImageOrientationSlide, float).reshape(2, 3)[:, :2]
    between_rows, between_columns = image.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing
    return at + cosines[0] * between_columns * column + cosines[1] * between_rows * row


@pytest.fixture
def slide(tmp_path: Path) -> Path:
    px = noise(700, 900)
    return write_dicom_slide(tmp_path / "slide", [px, px[::4, ::4]], mpp=0.5)


def test_segments_hold_the_px_of_their_classes(slide: Path, tmp_path: Path) -> None:
    labels = patches(700, 900, (0, 1, 2, 255))
    labels[:TILE_PX, :TILE_PX][labels[:TILE_PX, :TILE_PX] == 2] = 1
    made = written(slide, tmp_path / "m.dcm", labels)
    found = segments(made)
    assert list(found) == ["stroma", "gland", "unlabelled"]
    for id_, name in ((1, "stroma"), (2, "gland"), (255, "unlabelled")):
        np.testing.assert_array_equal(found[name], labels == id_)
    assert made.NumberOfFrames == 3 * 4 - 1, "of no gland, no frame"
    assert made.SegmentSequence[0].SegmentAlgorithmName == "tiny"
    assert not list(tmp_path.glob("*.partial"))


@pytest.mark.parametrize("orientation", [DOWN_AND_LEFT, (0.0, 1.0, 0.0, 1.0, 0.0, 0.0), (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)])
@pytest.mark.parametrize(("origin", "per_px"), [((0, 0), (1, 1)), ((37.5, 120.25), (1.24, 1.241)), ((8, 0), (4, 4))])
def test_each_px_lies_on_the_glass_where_its_part_of_the_slide_does(
    tmp_path: Path, orientation: tuple[float, ...], origin: tuple[float, float], per_px: tuple[float, float]
) -> None:
    px = noise(300, 400)
    slide = write_dicom_slide(tmp_path / "slide", [px], mpp=0.5, orientation=orientation)
    made = written(slide, tmp_path / "m.dcm", patches(300, 400), origin_l0=origin, l0_per_px=per_px)
    finest = pydicom.dcmread(slide, stop_before_pixels=True)
    assert made.FrameOfReferenceUID == finest.FrameOfReferenceUID
    for row, column in ((0, 0), (1, 0), (0, 1), (299, 399)):
        middle = [o + per * (n + 0.5) - 0.5 for o, per, n in zip(origin, per_px, (row, column), strict=True)]
        np.testing.assert_allclose(centre_mm(made, row, column), centre_mm(finest, *middle), atol=1e-9, rtol=0)


def test_it_belongs_to_the_patient_and_study_of_its_slide(slide: Path, tmp_path: Path) -> None:
    made = written(slide, tmp_path / "m.dcm", patches(700, 900))
    finest = pydicom.dcmread(slide)
    for keyword in ("PatientID", "PatientName", "StudyInstanceUID", "AccessionNumber", "ContainerIdentifier"):
        assert made[keyword].value == finest[keyword].value
    assert made.SeriesInstanceUID != finest.SeriesInstanceUID
    assert made.SourceImageSequence[0].ReferencedSOPInstanceUID == finest.SOPInstanceUID


def test_the_finest_level_is_found_from_any_file_of_the_series(slide: Path) -> None:
    (slide.parent / "notes.txt").write_text("no DICOM")
    other = write_dicom_slide(slide.parent / "other", [noise(2000, 1000)], mpp=0.5)
    other.rename(slide.parent / "other.dcm")
    assert read_finest(slide.with_name("level-1.dcm")).TotalPixelMatrixColumns == 900


def test_a_slide_without_a_patient_has_a_mask_without_one(slide: Path, tmp_path: Path) -> None:
    for path in slide.parent.glob("*.dcm"):
        bare = pydicom.dcmread(path)
        for keyword in ("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID"):
            del bare[keyword]
        bare.save_as(path)
    assert written(slide, tmp_path / "m.dcm", patches(700, 900)).PatientID == ""


def test_of_nothing_but_glass_no_px_is_set(slide: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    made = written(slide, tmp_path / "m.dcm", np.zeros((700, 900), np.uint8))
    assert {name: px.any() for name, px in segments(made).items()} == {"stroma": False, "gland": False}
    assert caplog.text == ""


def test_names_that_are_long_or_no_glass_among_the_classes(slide: Path, tmp_path: Path) -> None:
    long = "a class whose name is longer than a code of DICOM may be"
    classes = (TissueClass(id=0, name=long, color=(255, 0, 0)), TissueClass(id=1, name="b", color=(0, 0, 0)))
    labels = patches(700, 900, (0, 1, 255))  # 255 is what lies outside the tissue
    made = written(slide, tmp_path / "m.dcm", labels, classes=ClassTable(name="two", classes=classes))
    assert [s.SegmentLabel for s in made.SegmentSequence] == [long, "b"]
    np.testing.assert_array_equal(segments(made)[long], labels == 0)
    code = made.SegmentSequence[0].SegmentedPropertyTypeCodeSequence[0]
    assert len(code.CodeValue) == 16
    assert code.CodeMeaning == long


def test_what_is_no_place_for_a_segmentation_is_refused(slide: Path, slides: Path, tmp_path: Path) -> None:
    with pytest.raises(SlideError, match=r"is not DICOM, .*write the mask as \.ome\.tiff"):
        read_finest(slides / "CMU-1-Small-Region.svs")
    with pytest.raises(SlideError, match="lacks TotalPixelMatrixOriginSequence"):
        read_finest(slides / "multi_frame_jpeg_camelyon_challenge_image.dcm")
    for keyword in ("FrameOfReferenceUID", "PixelMeasuresSequence"):
        lacking = pydicom.dcmread(slide)
        del (lacking if keyword in lacking else lacking.SharedFunctionalGroupsSequence[0])[keyword]
        (tmp_path / keyword).mkdir()
        lacking.save_as(tmp_path / keyword / "level-0.dcm")
        with pytest.raises(SlideError, match=f"lacks {keyword}"):
            read_finest(tmp_path / keyword / "level-0.dcm")
    label = pydicom.dcmread(slide)
    label.ImageType = ["ORIGINAL", "PRIMARY", "LABEL", "NONE"]
    (tmp_path / "alone").mkdir()
    label.save_as(tmp_path / "alone" / "label.dcm")
    with pytest.raises(SlideError, match="no level of a whole slide lies beside it"):
        read_finest(tmp_path / "alone" / "label.dcm")
