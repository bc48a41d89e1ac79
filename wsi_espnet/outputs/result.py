"""The folder of one result: opening it, finding what is still to be done, closing it with its reports.

OUT/<slide>.ome.zarr    mask, see `wsi_espnet.outputs.ome_zarr`
OUT/areas.csv, .json    what each class covers
OUT/overview.png        slide and classes side by side
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import zarr

from wsi_espnet.atomic import output_errors, remove_partials_of, write_bytes_atomic
from wsi_espnet.classes import ClassTable
from wsi_espnet.errors import ResumeError
from wsi_espnet.geometry import ReadPlan, Region
from wsi_espnet.locks import hold
from wsi_espnet.outputs.areas import Areas, measure_areas, write_areas
from wsi_espnet.outputs.levels import write_image
from wsi_espnet.outputs.ome_zarr import ResultStore
from wsi_espnet.outputs.summary import overview_png
from wsi_espnet.resume import KEY, claim_folder, ensure_apart, mark, read_mark
from wsi_espnet.slides.source import PixelSource
from wsi_espnet.slides.stored_tissue import write_tissue
from wsi_espnet.slides.thumbnail import coarse_plan, thumbnail
from wsi_espnet.slides.tissue_mask import TissueMask

KIND = "segment"

REPORTS = ("areas.csv", "areas.json", "overview.png")
"""Files beside the mask."""

OUTLINES, MASK_TIFF, MASK_DICOM = "outlines.geojson", "mask.ome.tiff", "mask.dcm"
"""Its regions, and the mask in other formats, where they were asked for."""

MODEL = "model"
"""Among the marks of a result: the name of its model."""

SLIDE = "slide"
"""Among the marks of a result: the path of its slide, relative to the Zarr."""

LEVEL_0 = "level_0"
"""Among the marks of a result: where its px lie on level 0 of the slide."""

OVERVIEW_PX = 2048
"""Longer side of the overview that a result carries as its image."""

Index = tuple[int, int]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class FailedCore:
    """A core whose window could not be read: index on the grid, region in plan px, why."""

    index: Index
    core: Region
    cause: str


@dataclass(frozen=True, slots=True)
class Reports:
    """Files beside the mask, and the areas that they tell."""

    overview: Path
    areas_csv: Path
    areas_json: Path
    areas: Areas


@dataclass(frozen=True, slots=True, eq=False)
class ResultFolder:
    """A result and what it is about.

    Parameters
    ----------
    store
        The mask.
    source, plan, tissue, classes
        What was segmented, at which scale, where, into what.
    model
        Name of the model.
    fingerprint
        Everything that the bytes depend on.
    """

    store: ResultStore
    source: PixelSource
    plan: ReadPlan
    tissue: TissueMask
    classes: ClassTable
    model: str
    fingerprint: dict[str, Any]

    @property
    def folder(self) -> Path:
        """Where mask and reports lie."""
        return self.store.path.parent

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Keep other processes out of the result while the block runs.

        Raises
        ------
        ResumeError
            Another process is writing it.
        OutputError
            The folder cannot be written.
        """
        ensure_apart(self.source.path, self.store.path)
        with keep_alone(self.folder, self.source.path):
            yield

    def open(self, cores: Collection[Index], *, overwrite: bool, resume: bool) -> list[Index]:
        """Make the result, or look what is in it; those of `cores` that are still to be done, in their order.

        Raises
        ------
        ResumeError
            Something else is there.
        OutputError
            The folder cannot be written.
        """
        ensure_apart(self.source.path, self.store.path)
        with output_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        self._ensure_alone()
        if not overwrite:
            self._ensure_no_strangers()
        claim = claim_folder(self.store.path, self.fingerprint, kind=KIND, overwrite=overwrite, resume=resume)
        # Half-written reports of a killed run: by name, since the folder may hold what is not ours.
        for name in REPORTS:
            remove_partials_of(self.folder / name)
        if claim == "done":
            return []
        for name, command in ((OUTLINES, "outlines"), (MASK_TIFF, "mask"), (MASK_DICOM, "mask")):
            path = self.folder / name
            if path.exists():
                log.warning("warning: %s is not of the mask that is written now; see wsi-espnet %s", path, command)
        if claim == "new":
            self.store.forget_failures()
        self._create()
        # A core next to one that failed was finished without its neighbour's word: both are done again.
        for row, column in self.store.noted_failures():
            for index in ((r, c) for r in range(row - 1, row + 2) for c in range(column - 1, column + 2)):
                if index in cores:
                    self.store.discard(index)
        self.store.forget_failures()
        todo = [index for index in cores if not self.store.has(index)]
        # Tasks make a shard from those below it; what no task will make must be there before.
        self.store.complete_levels(pending=todo)
        return todo

    def complete(self, failures: Sequence[FailedCore]) -> None:
        """Give failed cores the unlabelled id, and make what is missing of the pyramid."""
        for failure in failures:
            self.store.write_failed(failure.index, failure.core, self.tissue.sample(failure.core))
        self.store.complete_levels()

    def report(self, failures: Sequence[FailedCore], counts: Mapping[Index, Sequence[int]]) -> Reports:
        """Measure areas, draw the overview, write both.

        `counts` are px of the tissue in each class, of cores that this run has computed; others are read.
        """
        areas = measure_areas(
            self.store.open_labels(0),
            self.tissue,
            self.classes,
            self.plan.um2_per_px,
            block=self.store.core_px,
            has_block=self.store.has_block,
            known=counts,
        )
        facts = {
            "slide": self.source.path.name,
            "model": self.model,
            "mpp": list(self.plan.mpp),
            "tissue": self.tissue.origin,
            "failed_windows": len(failures),
        }
        csv, json = write_areas(areas, self.folder, facts=facts)
        overview = self.folder / "overview.png"
        write_bytes_atomic(overview, self._draw(areas))
        return Reports(overview, csv, json, areas)

    def close(self, failures: Sequence[FailedCore]) -> None:
        """Say in the result that it is complete; with failures it is not, and the next run tries them again."""
        attributes = self._marks("writing" if failures else "done")
        if failures:
            attributes[KEY]["failures"] = [
                {"index": list(f.index), "core": [f.core.y, f.core.x, f.core.h, f.core.w], "cause": f.cause}
                for f in failures
            ]
        with output_errors(self.store.path):
            zarr.open_group(self.store.path, mode="r+", zarr_format=3).update_attributes(attributes)

    def _ensure_alone(self) -> None:
        path = self.store.path
        others = [p for p in self.folder.glob("*.ome.zarr") if p != path and (read_mark(p) or {}).get("kind") == KIND]
        if others:
            raise ResumeError(
                f"{self.folder} already holds the result of another slide, {others[0].name}; give each slide a folder "
                f"of its own, for example -o {self.folder / slide_name(self.source.path)}"
            )

    def _ensure_no_strangers(self) -> None:
        """Without a mask of ours, reports that are there are not this result's."""
        strangers = [name for name in REPORTS if (self.folder / name).exists()]
        if strangers and read_mark(self.store.path) is None:
            raise ResumeError(
                f"{self.folder} holds {', '.join(strangers)} but not the mask that belongs to it, and nothing is "
                "replaced unasked; choose another folder, or replace it with --overwrite"
            )

    def _create(self) -> None:
        levels = len(self.store.shapes)
        name = slide_name(self.source.path)
        coarse = coarse_plan(self.source, self.plan, longest_px=OVERVIEW_PX)
        px, marks = thumbnail(self.source, coarse), self._marks("writing")
        write_image(self.store.path, px, coarse, levels=levels, name=name, marks=marks)
        self.store.create(self.plan, self.classes, name=name)
        with output_errors(self.store.path):
            labels = zarr.open_group(self.store.path / "labels", mode="r+", zarr_format=3)
            write_tissue(labels, self.plan, self.tissue.cells, levels=levels)

    def _marks(self, state: Literal["writing", "done"]) -> dict[str, Any]:
        """The marks of `wsi_espnet.resume`, and where the slide lies, from here: both may be moved together."""
        marks = mark(self.fingerprint, kind=KIND, state=state)
        bounds = self.source.bounds_l0
        marks[KEY][LEVEL_0] = {
            "origin": list(self.plan.origin_l0),
            "per_px": list(self.plan.l0_per_px),
            "bounds": [bounds.y, bounds.x, bounds.h, bounds.w],
        }
        marks[KEY][MODEL] = self.model
        marks[KEY][SLIDE] = Path(os.path.relpath(self.source.path.resolve(), self.store.path.resolve())).as_posix()
        return marks

    def _draw(self, areas: Areas) -> bytes:
        coarse = coarse_plan(self.source, self.plan, longest_px=OVERVIEW_PX)
        px = np.asarray(zarr.open_array(self.store.path / "0", mode="r", zarr_format=3)[...])
        return overview_png(
            self.store,
            np.moveaxis(px, 0, -1),
            coarse,
            self.plan,
            self.tissue,
            self.classes,
            areas,
            title=f"{self.source.path.name}: {self.model}",
        )


@contextlib.contextmanager
def keep_alone(folder: Path, slide: Path) -> Iterator[None]:
    """Keep other processes out of a slide's result folder while the block runs; the folder is made.

    Raises
    ------
    ResumeError
        Another process is writing there.
    OutputError
        The folder cannot be written.
    """
    with output_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    refusal = f"another process is writing to {folder}; wait until it has ended, or choose another folder"
    with hold(folder / f"{slide_name(slide)}.lock", refusal):
        yield


def slide_name(path: Path) -> str:
    """What a slide's result is called: its file name without what says that it is a slide or a Zarr."""
    return path.name.removesuffix(".ome.zarr") if path.name.endswith(".ome.zarr") else path.stem
