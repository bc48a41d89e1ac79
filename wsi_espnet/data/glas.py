"""GlaS (Warwick-QU): colon H&E at 20x with gland outlines and a grade per image, as labelled images.

Sirinukunwattana et al., Medical Image Analysis 2017, doi 10.1016/j.media.2016.08.008; research only. The
folder holds `images/NAME.jpg`, `masks/NAME.png` (id of each gland, 0 outside) and `index.csv` (name, patient,
grade).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wsi_espnet.data.adapter import Finding, Labelled, Listing, Sample
from wsi_espnet.data.files import FileDataset, error, listed, read_table
from wsi_espnet.data.pictures import Lookup, ShrunkSample, lookup_of
from wsi_espnet.errors import DataError, SlideError, UsageError
from wsi_espnet.geometry import Region
from wsi_espnet.models.catalog import class_table
from wsi_espnet.slides.source import open_source

GLAS_MPP = 0.62005
"""Um per px of every image: the paper's section on the data set."""

COARSEST_MPP = 10.0
"""Where a gland is some ten px wide, and an image 48."""

GRADES = {"benign": 1, "malignant": 2}
"""Class of a gland's px by the grade of its image; 0 is everything outside glands."""


PIECE_PX = (522, 775)
"""(height, width) of most images, and of the pieces of slides that join them."""

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
    negatives
        Slides without any gland of the colon, such as skin; their tissue joins ``train`` as background. Paths start
        at `root`.
    mpp
        Um per px of the samples, `GLAS_MPP` or coarser: images are shrunk to it.

    Raises
    ------
    DataError
        There is no `index.csv` with name, patient and grade.
    UsageError
        An option has a value that cannot work.
    """

    name = "glas"
    splits = ("train", "val")

    def __init__(
        self,
        root: Path,
        *,
        grade: bool = True,
        held_out: Collection[str] = HELD_OUT,
        negatives: Collection[str] = (),
        mpp: float = GLAS_MPP,
    ) -> None:
        if not isinstance(grade, bool):
            raise UsageError(f"grade must be true or false, got {grade!r}")
        for name, value in (("held_out", held_out), ("negatives", negatives)):
            if not isinstance(value, Collection) or isinstance(value, str):
                raise UsageError(f"{name} must be a list, got {value!r}")
        if isinstance(mpp, bool) or not isinstance(mpp, int | float) or not GLAS_MPP <= mpp <= COARSEST_MPP:
            raise UsageError(f"mpp must be a number from {GLAS_MPP} to {COARSEST_MPP}, got {mpp!r}")
        self.root, self.grade, self._mpp = root, grade, float(mpp)
        self.mpp = self._mpp
        self.classes = class_table("glas-grade" if grade else "glas-gland")
        self._rows = _index(root / "index.csv")
        self._negatives = [root / str(path) for path in negatives]
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
        samples, findings = [self._at_mpp(sample) for sample in found.samples], [*findings, *found.findings]
        for slide in self._negatives if split == "train" else ():
            try:
                samples += pieces(slide, self._mpp)
            except (SlideError, UsageError) as exc:
                findings.append(error(slide, str(exc)))
        return Listing(tuple(samples), tuple(findings))

    def _at_mpp(self, sample: Sample) -> Sample:
        return sample if self._mpp == GLAS_MPP else ShrunkSample(sample, self._mpp / GLAS_MPP)

    def _of_grade(self, row: dict[str, str]) -> Finding:
        return error(
            self.root / "index.csv", f"{row['name']} has grade {row['grade']!r}; known are {', '.join(GRADES)}"
        )

    def _lookup(self, grade: str) -> Lookup:
        """Masks hold the number of each gland, 1 and up."""
        gland = GRADES[grade] if self.grade else 1
        return lookup_of({value: gland if value else 0 for value in range(256)})


@dataclass(frozen=True, slots=True)
class Negative:
    """A piece of a slide in which all is background: a `Sample`.

    Parameters
    ----------
    name
        Slide and place.
    slide
        The file.
    mpp
        Um per px that it is read at.
    region
        In px of that size.
    """

    name: str
    slide: Path
    mpp: float
    region: Region

    def read(self) -> Labelled:
        """Px of the piece, and 0 for each.

        Raises
        ------
        DataError
            The slide is missing or damaged there.
        """
        try:
            with open_source(self.slide) as source:
                rgb = source.read(source.plan(self.mpp), self.region)
        except (SlideError, UsageError) as exc:
            raise DataError(str(exc)) from exc
        return Labelled(rgb, np.zeros(rgb.shape[:2], np.uint8))


def pieces(slide: Path, mpp: float = GLAS_MPP) -> list[Negative]:
    """All of a slide, in pieces of the size of GlaS images; what is left at its right and lower side is left out.

    At another `mpp` they hold as much tissue, in fewer px.

    Raises
    ------
    SlideError, ScaleError
        It is missing or damaged, too coarse, or does not say its scale.
    """
    with open_source(slide) as source:
        rows, columns = source.plan(mpp).shape
    h, w = (min(round(px * GLAS_MPP / mpp), most) for px, most in zip(PIECE_PX, (rows, columns), strict=True))
    return [
        Negative(f"{slide.stem}-y{y}-x{x}", slide, mpp, Region(y, x, h, w))
        for y in range(0, rows - h + 1, h)
        for x in range(0, columns - w + 1, w)
    ]


def _index(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        raise DataError(f"{path.parent} is not GlaS: it has no index.csv (name, patient, grade)")
    rows = read_table(path)
    if not rows or not {"name", "patient", "grade"} <= rows[0].keys():
        raise DataError(f"{path} must have the columns name, patient, grade, and a row per image")
    return rows
