"""Whole slides with annotations as samples: windows at one mpp, balanced over classes, the same for the same seed.

The folder holds a `classes.toml` as described in `wsi_espnet.data.folder`, and a `manifest.csv`:

    slide,annotation,split,mpp
    a.svs,a.geojson,train,
    b.tif,b.xml,val,0.25

Paths start at the folder; `mpp` is optional and replaces what a slide says. In `classes.toml`, a class may list the
names that it has in annotations (``annotations = ["Tumor", "Metastasis"]``; otherwise its own name), ``outside =
"stroma"`` names the class of px without an outline, which are ignored otherwise, and ``ignored_annotations = ["Pen"]``
names outlines whose px are ignored. Px are read as for inference: `wsi_espnet.slides.source`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wsi_espnet.classes import UNLABELLED
from wsi_espnet.data.adapter import Finding, Labelled, Listing, Sample
from wsi_espnet.data.annotations import Annotation, open_annotation
from wsi_espnet.data.files import error, read_table
from wsi_espnet.data.folder import ClassFile, read_classes
from wsi_espnet.errors import DataError, SlideError, UsageError
from wsi_espnet.geometry import ReadPlan, Region
from wsi_espnet.slides.source import PixelSource, open_source

MANIFEST = "manifest.csv"
CELLS_PER_SIDE = 4
"""Cells of the grid in which classes are looked for, per side of a window."""
TRIES = 20
"""Places that are tried before a window that would be a second one of the same place is given up."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A slide with its annotation, and at which scale it is read; small, hashable and picklable.

    Parameters
    ----------
    slide, annotation
        Files or folders.
    mpp
        Um per px of samples.
    slide_mpp
        Um per level-0 px, where the slide's own word is replaced.
    file
        What the annotation means.
    """

    slide: Path
    annotation: Path
    mpp: float
    slide_mpp: float | None
    file: ClassFile

    def open(self) -> tuple[PixelSource, ReadPlan, Annotation]:
        """The open slide, how it is read, and its annotation; kept open in this process.

        Raises
        ------
        DataError, SlideError, ScaleError
            A file is missing or damaged, or the slide is too coarse or does not say its scale.
        """
        return _open(self, os.getpid())  # an open slide must not be used on the other side of a fork


@lru_cache(maxsize=16)
def _open(pair: Pair, _process: int) -> tuple[PixelSource, ReadPlan, Annotation]:
    source = open_source(pair.slide, mpp=pair.slide_mpp)
    return source, source.plan(pair.mpp), open_annotation(pair.annotation, source, pair.file)


@dataclass(frozen=True, slots=True)
class Window:
    """A window of a slide: a `Sample`.

    Parameters
    ----------
    name
        Slide and place.
    pair
        Where it comes from.
    region
        In px of the plan.
    aim
        Class id that it was placed on.
    """

    name: str
    pair: Pair
    region: Region
    aim: int

    def read(self) -> Labelled:
        """Px and class ids of the window.

        Raises
        ------
        DataError
            A file is missing or damaged, or a mask holds a value outside the class table.
        """
        try:
            source, plan, annotation = self.pair.open()
            return Labelled(source.read(plan, self.region), annotation.labels(plan, self.region))
        except (SlideError, UsageError) as exc:
            raise DataError(str(exc)) from exc


class Slides:
    """The folder with `manifest.csv` and `classes.toml`.

    Parameters
    ----------
    root
        The folder.
    size
        Side of a window in px, at least 8.
    windows
        Windows per slide, on average: a slide with more of a rare class gives more.
    seed
        Another seed gives other windows.

    Raises
    ------
    DataError
        The manifest or the classes are missing or wrong.
    UsageError
        An option has a value that cannot work.
    """

    unions: Mapping[str, tuple[str, ...]] = {}

    def __init__(self, root: Path, *, size: int = 512, windows: int = 100, seed: int = 0) -> None:
        for name, value, least in (("size", size, 8), ("windows", windows, 1), ("seed", seed, 0)):
            if not isinstance(value, int) or value < least:
                raise UsageError(f"{name} must be a whole number of at least {least}, got {value!r}")
        self.root, self.size, self.windows, self.seed = root, size, windows, seed
        self.file, self.classes = read_classes(root)
        self.name = self.classes.name
        if self.file.mpp is None:
            raise DataError(f"{root / 'classes.toml'} must say `mpp`: at how many um per px slides are read")
        self.mpp: float = self.file.mpp
        self._rows = _manifest(root / MANIFEST)
        self.splits = tuple(dict.fromkeys(row["split"] for row in self._rows))

    def pairs(self, split: str) -> list[Pair]:
        """Slides with their annotations, in the order of the manifest.

        Raises
        ------
        DataError
            There is no such split.
        """
        if split not in self.splits:
            raise DataError(f"{self.root} has no split {split!r}; there are {', '.join(self.splits)}")
        return [
            Pair(
                slide=self.root / row["slide"],
                annotation=self.root / row["annotation"],
                mpp=self.mpp,
                slide_mpp=float(row["mpp"]) if row.get("mpp") else None,
                file=self.file,
            )
            for row in self._rows
            if row["split"] == split
        ]

    def listing(self, split: str) -> Listing:
        """Windows of the slides that can be read; as many are placed on each class that the split has.

        Raises
        ------
        DataError
            There is no such split.
        """
        findings: list[Finding] = []
        maps: list[tuple[Pair, ReadPlan, NDArray[np.uint8]]] = []
        for pair in self.pairs(split):
            try:
                _, plan, annotation = pair.open()
                maps.append((pair, plan, annotation.cells(plan, self._grid(pair, plan))))
            except (DataError, SlideError, UsageError) as exc:
                findings.append(error(pair.slide, str(exc)))
        rng = np.random.default_rng([self.seed, self.splits.index(split)])
        return Listing(tuple(_place(maps, self.size, self.windows * len(maps), rng)), tuple(findings))

    def samples(self, split: str) -> tuple[Sample, ...]:
        """All windows of a split, in a fixed order.

        Raises
        ------
        DataError
            There is no such split, or a slide of it cannot be used.
        """
        return self.listing(split).complete()

    def _grid(self, pair: Pair, plan: ReadPlan) -> tuple[int, int]:
        h, w = plan.shape
        if min(h, w) < self.size:
            raise DataError(
                f"{pair.slide} has {w} x {h} px at {self.mpp:g} um per px, a window {self.size} x {self.size}; "
                "choose a smaller size or a finer mpp"
            )
        cell = max(1, self.size // CELLS_PER_SIDE)
        return -(-h // cell), -(-w // cell)


def _manifest(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        raise DataError(f"{path} is missing: it must list slide, annotation and split of each slide")
    rows = read_table(path)
    if not rows or not {"slide", "annotation", "split"} <= rows[0].keys():
        raise DataError(f"{path} must have the columns slide, annotation, split, and a row per slide")
    split_of = {row["slide"]: row["split"] for row in rows}
    for number, row in enumerate(rows, start=2):
        if split_of[row["slide"]] != row["split"]:
            raise DataError(f"{path} has {row['slide']} in {row['split']} and {split_of[row['slide']]}; choose one")
        if not (row["slide"] and row["annotation"] and row["split"]) or not _is_scale(row.get("mpp", "")):
            raise DataError(
                f"{path}, line {number}: slide, annotation and split must be there, and mpp a number above 0"
            )
    return rows


def _is_scale(text: str) -> bool:
    try:
        return not text or float(text) > 0
    except ValueError:
        return False


def _place(
    maps: Sequence[tuple[Pair, ReadPlan, NDArray[np.uint8]]], size: int, count: int, rng: np.random.Generator
) -> list[Window]:
    """Windows on each class in turn, on cells that are drawn from all slides together; none twice in one place."""
    places = _places([cells for _, _, cells in maps])
    windows: dict[tuple[int, Region], Window] = {}
    for turn in range(count if places else 0):
        aim = list(places)[turn % len(places)]
        for _ in range(TRIES):
            index, row, col = (int(v) for v in places[aim][rng.integers(len(places[aim]))])
            pair, plan, cells = maps[index]
            region = _around((row, col), cells.shape, plan, size, rng)
            if (index, region) not in windows:
                name = f"{index}-{pair.slide.stem}-y{region.y}-x{region.x}"
                windows[index, region] = Window(name, pair, region, aim)
                break
    return list(windows.values())


def _places(maps: Sequence[NDArray[np.uint8]]) -> dict[int, NDArray[np.int64]]:
    """(n, 3) slide, row and column of the cells of each class, by class id."""
    found: dict[int, list[NDArray[np.int64]]] = {}
    for index, cells in enumerate(maps):
        for id_ in np.unique(cells[cells != UNLABELLED]):
            found.setdefault(int(id_), []).append(np.insert(np.argwhere(cells == id_), 0, index, axis=1))
    return {id_: np.concatenate(found[id_]) for id_ in sorted(found)}


def _around(
    cell: tuple[int, int], grid: tuple[int, ...], plan: ReadPlan, size: int, rng: np.random.Generator
) -> Region:
    """A window whose centre lies in a cell, moved into the image."""
    start = []
    for axis in (0, 1):
        centre = (cell[axis] + rng.random()) * plan.shape[axis] / grid[axis]
        start.append(int(np.clip(round(centre - size / 2), 0, plan.shape[axis] - size)))
    return Region(start[0], start[1], size, size)
