"""A small DICOM slide with known px, as a scanner would write it, made with pydicom."""

from __future__ import annotations

import datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, VLWholeSlideMicroscopyImageStorage, generate_uid

Px = NDArray[np.uint8]

TILE_PX = 128

DOWN_AND_LEFT = (0.0, -1.0, 0.0, -1.0, 0.0, 0.0)
"""Cosines of rows, then of columns: most scanners' slides lie like this on the glass."""


def write_dicom_slide(
    folder: Path,
    levels: list[Px],
    *,
    mpp: float,
    origin_mm: tuple[float, float] = (12.5, 34.75),
    orientation: tuple[float, ...] = DOWN_AND_LEFT,
) -> Path:
    """One file per level, finest first; the first one's path. `origin_mm` is (x, y) of the centre of px (0, 0)."""
    folder.mkdir(parents=True, exist_ok=True)
    study, series, frame = generate_uid(), generate_uid(), generate_uid()
    paths = []
    for number, px in enumerate(levels):
        header = FileMetaDataset()
        header.TransferSyntaxUID = ExplicitVRLittleEndian
        header.MediaStorageSOPClassUID = VLWholeSlideMicroscopyImageStorage
        header.MediaStorageSOPInstanceUID = generate_uid()
        path = folder / f"level-{number}.dcm"
        made = FileDataset(str(path), {}, file_meta=header, preamble=b"\0" * 128)
        made.SOPClassUID, made.SOPInstanceUID = header.MediaStorageSOPClassUID, header.MediaStorageSOPInstanceUID
        made.StudyInstanceUID, made.SeriesInstanceUID, made.FrameOfReferenceUID = study, series, frame
        made.Modality, made.Manufacturer, made.ManufacturerModelName = "SM", "maker", "scanner"
        made.DeviceSerialNumber, made.SoftwareVersions = "1", "1"
        made.PatientID, made.PatientName, made.PatientBirthDate, made.PatientSex = "P7", "Doe^Jo", "", "O"
        made.AccessionNumber, made.StudyID, made.StudyDate, made.StudyTime = "A1", "S1", "20260101", "120000"
        made.SeriesNumber, made.InstanceNumber = 1, number + 1
        made.ContentDate, made.ContentTime = "20260101", "120000"
        made.AcquisitionDateTime = datetime.datetime(2026, 1, 1, 12).strftime("%Y%m%d%H%M%S")
        made.ImageType = ["DERIVED" if number else "ORIGINAL", "PRIMARY", "VOLUME", "RESAMPLED" if number else "NONE"]
        made.ContainerIdentifier, made.ContainerTypeCodeSequence = "C1", []
        made.IssuerOfTheContainerIdentifierSequence = []
        specimen = Dataset()
        specimen.SpecimenIdentifier, specimen.SpecimenUID = "C1-1", generate_uid()
        specimen.IssuerOfTheSpecimenIdentifierSequence, specimen.SpecimenPreparationSequence = [], []
        made.SpecimenDescriptionSequence = [specimen]
        _add_geometry(made, px, levels[0], mpp, origin_mm, orientation)
        made.PixelData = b"".join(tile.tobytes() for tile in _tiles(px))
        made.save_as(path, enforce_file_format=True)
        paths.append(path)
    return paths[0]


def _add_geometry(
    made: Dataset, px: Px, finest: Px, mpp: float, origin_mm: tuple[float, float], orientation: tuple[float, ...]
) -> None:
    height, width = px.shape[:2]
    rows, columns = -(-height // TILE_PX), -(-width // TILE_PX)
    made.Rows = made.Columns = TILE_PX
    made.NumberOfFrames = rows * columns
    made.TotalPixelMatrixRows, made.TotalPixelMatrixColumns = height, width
    made.TotalPixelMatrixFocalPlanes = 1
    corner = Dataset()
    corner.XOffsetInSlideCoordinateSystem, corner.YOffsetInSlideCoordinateSystem = origin_mm
    made.TotalPixelMatrixOriginSequence = [corner]
    made.ImageOrientationSlide = list(orientation)
    made.ImagedVolumeWidth, made.ImagedVolumeHeight = finest.shape[1] * mpp / 1e3, finest.shape[0] * mpp / 1e3
    made.ImagedVolumeDepth = 1.0
    measures, shared = Dataset(), Dataset()
    measures.PixelSpacing = [mpp / 1e3 * finest.shape[axis] / px.shape[axis] for axis in (0, 1)]
    measures.SliceThickness = 1.0
    shared.PixelMeasuresSequence = [measures]
    kind = Dataset()
    kind.FrameType = made.ImageType
    shared.WholeSlideMicroscopyImageFrameTypeSequence = [kind]
    shared.OpticalPathIdentificationSequence = [Dataset()]
    shared.OpticalPathIdentificationSequence[0].OpticalPathIdentifier = "1"
    made.SharedFunctionalGroupsSequence = [shared]
    made.DimensionOrganizationType = "TILED_FULL"
    made.DimensionOrganizationSequence = [Dataset()]
    made.DimensionOrganizationSequence[0].DimensionOrganizationUID = made.FrameOfReferenceUID
    path = Dataset()
    path.OpticalPathIdentifier = "1"
    made.OpticalPathSequence, made.NumberOfOpticalPaths = [path], 1
    made.SamplesPerPixel, made.PhotometricInterpretation, made.PlanarConfiguration = 3, "RGB", 0
    made.BitsAllocated, made.BitsStored, made.HighBit, made.PixelRepresentation = 8, 8, 7, 0
    made.BurnedInAnnotation, made.LossyImageCompression, made.VolumetricProperties = "NO", "00", "VOLUME"
    made.SpecimenLabelInImage, made.FocusMethod, made.ExtendedDepthOfField = "NO", "AUTO", "NO"


def _tiles(px: Px) -> list[Px]:
    padded = np.pad(px, ((0, -px.shape[0] % TILE_PX), (0, -px.shape[1] % TILE_PX), (0, 0)), constant_values=255)
    return [
        np.ascontiguousarray(padded[y : y + TILE_PX, x : x + TILE_PX])
        for y in range(0, px.shape[0], TILE_PX)
        for x in range(0, px.shape[1], TILE_PX)
    ]
