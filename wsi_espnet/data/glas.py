"""GlaS (Warwick-QU): colon H&E at 20x with gland outlines and a grade per image, as labelled images.

Sirinukunwattana et al., Medical Image Analysis 2017, doi 10.1016/j.media.2016.08.008; research only. The
folder holds `images/NAME.jpg`, `masks/NAME.png` (id of each gland, 0 outside) and `index.csv` (name, patient,
grade).
"""

from __future__ import annotations

import csv
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from wsi_espnet.data.adapter import Finding, Listing
from wsi_espnet.data.files import FileDataset, error, listed
from wsi_espnet.data.pictures import Lookup, lookup_of
from wsi_espnet.errors import DataError, UsageError
from wsi_espnet.models.catalog import class_table

GLAS_MPP = 0.62005
"""Um per px of every image: the paper's section on the data set."""

GRADES = {"benign": 1, "malignant": 2}
"""Class of a gland's px by the grade of its image; 0 is everything outside glands."""


HELD_OUT = ("3", "6", "15")
"""Patients of the split ``val``: 20 of 116 images, benign and malignant ones."""


class Glas(FileDataset):
    """The folder with `index.csv`, split by patient: ``train`` and ``val``.

    The official split of the challenge shares patients between its parts and so cannot measure generalisation.

    Parameters
    ----------
    root
        The folder.
    grade
        Whether glands are benign or malignant (three classes), or just glands (two).
    held_out
        Patients of ``val``, as in `index.csv`.

    Raises
    ------
    DataError
        There is no `index.csv` with name, patient and grade.
    UsageError
        An option has a value that cannot work.
    """

    name = "glas"
    mpp = GLAS_MPP
    splits = ("train", "val")

    def __init__(self, root: Path, *, grade: bool = True, held_out: Collection[str] = HELD_OUT) -> None:
        if not isinstance(grade, bool) or isinstance(held_out, str | int):
            raise UsageError(f"grade must be true or false and held_out a list, got {grade!r} and {held_out!r}")
        self.root, self.grade = root, grade
        self.classes = class_table("glas-grade" if grade else "glas-gland")
        self._rows = _index(root / "index.csv")
        self._held_out = {str(patient) for patient in held_out}
        absent = self._held_out - {row["patient"] for row in self._rows}
        if absent or not self._held_out:
            raise UsageError(f"{root} has no images of the held-out patients {sorted(absent)}; choose from index.csv")

    def _list(self, split: str) -> Listing:
        rows = [row for row in self._rows if (row["patient"] in self._held_out) == (split == "val")]
        findings = [self._of_grade(row) for row in rows if row["grade"] not in GRADES]
        lookups = {row["name"]: self._lookup(row["grade"]) for row in rows if row["grade"] in GRADES}
        found = listed(
            [row["name"] for row in rows if row["grade"] in GRADES],
            lambda name: self.root / "images" / f"{name}.jpg",
            lambda name: self.root / "masks" / f"{name}.png",
            lookups.__getitem__,
        )
        return Listing(found.samples, (*findings, *found.findings))

    def _of_grade(self, row: dict[str, str]) -> Finding:
        return error(
            self.root / "index.csv", f"{row['name']} has grade {row['grade']!r}; known are {', '.join(GRADES)}"
        )

    def _lookup(self, grade: str) -> Lookup:
        """Masks hold the number of each gland, 1 and up."""
        gland = GRADES[grade] if self.grade else 1
        return lookup_of({value: gland if value else 0 for value in range(256)})


def _index(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        raise DataError(f"{path.parent} is not GlaS: it has no index.csv (name, patient, grade)")
    with path.open(newline="", encoding="utf-8") as file:
        rows = [{key: (value or "").strip() for key, value in row.items() if key} for row in csv.DictReader(file)]
    if not rows or not {"name", "patient", "grade"} <= rows[0].keys():
        raise DataError(f"{path} must have the columns name, patient, grade, and a row per image")
    return rows


@dataclass(frozen=True, slots=True)
class GlasImage:
    """One image with its ground truth.

    Parameters
    ----------
    name, patient, grade
        As in `index.csv`.
    rgb
        (h, w, 3) uint8.
    labels
        (h, w) uint8: 0 outside glands, 1 benign gland, 2 malignant gland.
    """

    name: str
    patient: str
    grade: str
    rgb: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.uint8]


def read_glas(folder: str | Path) -> list[GlasImage]:
    """All images of the folder, in the order of `index.csv`.

    Raises
    ------
    UsageError
        The folder has no `index.csv`, or a row names an unknown grade or a file that is missing.
    """
    folder = Path(folder)
    index = folder / "index.csv"
    if not index.is_file():
        raise UsageError(f"{folder} is not a GlaS folder: it has no index.csv (name, patient, grade)")
    with index.open(newline="", encoding="utf-8") as file:
        return [_read(folder, row) for row in csv.DictReader(file)]


def split_by_patient(images: Sequence[GlasImage], held_out: Collection[str]) -> tuple[list[GlasImage], list[GlasImage]]:
    """(training, validation): no patient is on both sides.

    The official split of the challenge shares patients between its parts and so cannot measure
    generalisation.

    Raises
    ------
    UsageError
        A held-out patient does not occur, or one side would be empty.
    """
    unknown = set(held_out) - {image.patient for image in images}
    if unknown:
        raise UsageError(f"no images of the held-out patients {sorted(unknown)}; choose from index.csv")
    training = [image for image in images if image.patient not in held_out]
    validation = [image for image in images if image.patient in held_out]
    if not training or not validation:
        raise UsageError(f"{len(training)} images for training and {len(validation)} held out; neither may be empty")
    return training, validation


def _read(folder: Path, row: dict[str, str]) -> GlasImage:
    name, grade = row["name"].strip(), row["grade"].strip()
    if grade not in GRADES:
        raise UsageError(f"{name} has grade {grade!r} in index.csv; known are {', '.join(GRADES)}")
    picture, mask = folder / "images" / f"{name}.jpg", folder / "masks" / f"{name}.png"
    try:
        rgb = np.asarray(Image.open(picture).convert("RGB"))
        glands = np.asarray(Image.open(mask)) > 0
    except OSError as exc:
        raise UsageError(f"cannot read the image or the mask of {name} in {folder}: {exc}") from exc
    if glands.shape != rgb.shape[:2]:
        raise UsageError(f"image and mask of {name} differ in size: {rgb.shape[:2]} and {glands.shape}")
    labels = glands.astype(np.uint8) * np.uint8(GRADES[grade])
    return GlasImage(name=name, patient=row["patient"].strip(), grade=grade, rgb=rgb, labels=labels)
