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

from wsi_espnet.errors import UsageError

GLAS_MPP = 0.62005
"""Um per px of every image: the paper's section on the data set."""

GRADES = {"benign": 1, "malignant": 2}
"""Class of a gland's px by the grade of its image; 0 is everything outside glands."""


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
