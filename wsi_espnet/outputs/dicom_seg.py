"""A mask as a DICOM segmentation (SEG) of the slide that it is of, which must be DICOM as well.

Every class but glass is a segment: one bit per px, in tiles, of which empty ones are left out. All positions are those
of the slide's coordinate system, so the mask may have another scale than the slide's levels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import highdicom
import numpy as np
import pydicom
from highdicom.color import CIELabColor
from highdicom.seg import Segmentation, SegmentDescription
from highdicom.spatial import ImageToReferenceTransformer
from numpy.typing import NDArray
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from wsi_espnet import __version__
from wsi_espnet.atomic import replacing
from wsi_espnet.classes import UNLABELLED, ClassTable
from wsi_espnet.errors import SlideError
from wsi_espnet.ngff import UNLABELLED_COLOR
from wsi_espnet.slides.dicom import is_level, read_headers

TILE_PX = 512
"""Side of a frame."""

MANUFACTURER = "wsi_espnet"

SCHEME = "99WSIESPNET"
"""Of the codes of classes, which are their names: schemes that begin with 99 are private (DICOM PS3.16, 8.2)."""

CODE_LENGTH = 16
"""Characters that a code holds at most (value representation SH, DICOM PS3.5, 6.2)."""

PLACE = ("FrameOfReferenceUID", "TotalPixelMatrixOriginSequence", "ImageOrientationSlide", "PixelMeasuresSequence")
"""Where px of a slide lie on the glass: type 1 in DICOM PS3.3, C.8.12.4, and yet not in all files. The last one belongs
to what all frames share."""

MAY_BE_EMPTY = (
    "PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyDate", "StudyTime"
)  # fmt: skip
"""What a segmentation takes from its slide, and what files without patients often lack: type 2 in DICOM PS3.3."""


def read_finest(slide: Path) -> pydicom.Dataset:
    """All but the px of the finest level of a DICOM slide.

    Parameters
    ----------
    slide
        A file of the slide; others of its series lie in the same folder.

    Raises
    ------
    SlideError
        The file is not DICOM, no level of a slide, or does not say where on the glass it lies.
    """
    headers = read_headers(slide)
    if headers is None or "SeriesInstanceUID" not in headers:
        raise SlideError(
            f"{slide} is not DICOM, and a DICOM segmentation is always of a DICOM image; write the mask as .ome.tiff"
        )
    beside = (read_headers(path) for path in sorted(slide.parent.iterdir()))
    series = (found for found in beside if found and found.get("SeriesInstanceUID") == headers.SeriesInstanceUID)
    levels = [found for found in series if is_level(found)]
    if not levels:
        raise SlideError(f"{slide} is DICOM, but no level of a whole slide lies beside it in {slide.parent}")
    finest = max(levels, key=lambda level: int(level.get("TotalPixelMatrixColumns", 0)))
    shared = finest.get("SharedFunctionalGroupsSequence") or [pydicom.Dataset()]
    missing = [keyword for keyword in PLACE if keyword not in finest and keyword not in shared[0]]
    if missing:
        raise SlideError(
            f"{slide} does not say where on the glass it lies (its DICOM lacks {', '.join(missing)}), which a DICOM "
            "segmentation repeats; write the mask as .ome.tiff"
        )
    for keyword in MAY_BE_EMPTY:
        if keyword not in finest:
            setattr(finest, keyword, None)
    return finest


def write_dicom_seg(
    path: Path,
    labels: NDArray[np.uint8],
    classes: ClassTable,
    *,
    slide: pydicom.Dataset,
    origin_l0: tuple[float, float],
    l0_per_px: tuple[float, float],
    model: str,
) -> None:
    """Write class ids as the segments of a segmentation image.

    Parameters
    ----------
    path
        The file; it is there when all of it is, and not before.
    labels
        Class ids (h, w) uint8.
    classes
        What the ids mean.
    slide
        The finest level, from `read_finest`.
    origin_l0
        (y, x) of the labels' corner, in px of the finest level from its corner.
    l0_per_px
        (y, x) px of the finest level per px of the labels.
    model
        Name of the model that made the labels.

    Raises
    ------
    OutputError
        The disk is full or read-only.
    """
    ids = [c.id for c in classes.classes if c.id != classes.glass]
    names = {id_: classes.names[id_] for id_ in ids}
    colors = {id_: classes.classes[id_].color for id_ in ids}
    # Of a table without glass, what lies outside the tissue has this id as well.
    if classes.glass is not None and (labels == UNLABELLED).any():
        names[UNLABELLED], colors[UNLABELLED] = "unlabelled", UNLABELLED_COLOR
    number_of = np.zeros(UNLABELLED + 1, np.uint8)
    number_of[list(names)] = np.arange(1, len(names) + 1)
    segments = [_described(int(number_of[id_]), name, colors[id_], model) for id_, name in names.items()]

    numbers = number_of[labels]
    measures = slide.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    spacing = [float(mm) for mm in measures.PixelSpacing]
    made = Segmentation(
        source_images=[slide],
        pixel_array=numbers,
        segmentation_type="BINARY",
        segment_descriptions=segments,
        series_instance_uid=highdicom.UID(),
        series_number=1,
        sop_instance_uid=highdicom.UID(),
        instance_number=1,
        manufacturer=MANUFACTURER,
        manufacturer_model_name=model,
        software_versions=__version__,
        device_serial_number="0",
        content_label="TISSUE_CLASSES",
        pixel_measures=highdicom.PixelMeasuresSequence(
            [mm * per_px for mm, per_px in zip(spacing, l0_per_px, strict=True)],
            slice_thickness=float(measures.get("SliceThickness") or 0) or None,  # some say 0, which is not allowed
        ),
        plane_positions=[_position(slide, spacing, origin_l0, l0_per_px)],
        omit_empty_frames=bool(numbers.any()),  # one frame there must be
        tile_pixel_array=True,
        tile_size=(TILE_PX, TILE_PX),
    )
    with replacing(path) as partial:
        made.save_as(partial, enforce_file_format=True)


def _described(number: int, name: str, color: tuple[int, int, int], model: str) -> SegmentDescription:
    code = name if len(name) <= CODE_LENGTH else hashlib.sha256(name.encode()).hexdigest()[:CODE_LENGTH]
    return SegmentDescription(
        segment_number=number,
        segment_label=name,
        segmented_property_category=codes.SCT.Tissue,
        segmented_property_type=Code(code, SCHEME, name[:64]),
        algorithm_type="AUTOMATIC",
        algorithm_identification=highdicom.AlgorithmIdentificationSequence(
            name=model, family=codes.cid7162.ArtificialIntelligence, version=__version__, source=MANUFACTURER
        ),
        display_color=CIELabColor.from_rgb(*color),
    )


def _position(
    slide: pydicom.Dataset,
    spacing: Sequence[float],
    origin_l0: tuple[float, float],
    l0_per_px: tuple[float, float],
) -> highdicom.PlanePositionSequence:
    """Where the centre of the labels' first px lies on the slide, in mm, as DICOM counts."""
    corner = slide.TotalPixelMatrixOriginSequence[0]
    at = (float(corner.XOffsetInSlideCoordinateSystem), float(corner.YOffsetInSlideCoordinateSystem), 0.0)
    to_slide = ImageToReferenceTransformer(at, [float(cosine) for cosine in slide.ImageOrientationSlide], spacing)
    (y, x) = (origin + per_px / 2 for origin, per_px in zip(origin_l0, l0_per_px, strict=True))
    ((right, down, up),) = to_slide(np.array([[x, y]])).tolist()
    return highdicom.PlanePositionSequence("SLIDE", (right, down, up), (1, 1))
