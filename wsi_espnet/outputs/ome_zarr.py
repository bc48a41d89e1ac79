"""A result on disk: one OME-Zarr (NGFF 0.5) with the label pyramid, written shard by shard.

    <slide>.ome.zarr/
        zarr.json          the slide's overview as an image of L levels; fingerprint and state of the run
        0 .. L-1/          overview px
        labels/classes/    class ids, L levels, 0 = the plan's px; one shard per core of the grid
        labels/tissue/     where the slide was segmented, L levels of cells
        probabilities/     only if asked for: uint8 (C, h, w), 0..255 for 0..1, 0 outside tissue; L levels

NGFF wants as many label levels as image levels, not the same sizes: the image is a coarse one with L levels of its
own, each placed by its own scale and translation. So a result without the full image is valid and honest.

A shard is written by one task, whole or not at all. Level k + 1 is made from level k as soon as its four shards are
there, and shards in which nothing was computed are never written: they read as glass.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from wsi_espnet import ngff
from wsi_espnet.atomic import output_errors, remove_partials, write_bytes_atomic
from wsi_espnet.classes import UNLABELLED, ClassTable
from wsi_espnet.geometry import ReadPlan, Region
from wsi_espnet.outputs.levels import ZSTD, chunk_px, majority
from wsi_espnet.outputs.stored import chunk_errors
from wsi_espnet.slides.tile_level import halved

CLASSES = "classes"
TISSUE = "tissue"
PROBABILITIES = "probabilities"

_NOTE = re.compile(r"\d+\.\d+\.json")


@dataclass(frozen=True)
class ResultStore:
    """Where the tasks of one run write to; travels to workers and opens its arrays there.

    Parameters
    ----------
    path
        The ``.ome.zarr`` folder.
    shape
        (height, width) of the plan's image.
    core_px
        Side of a core, which is the side of a shard of every level.
    classes
        Number of classes.
    glass
        Id of px that are not segmented.
    probabilities
        Whether they are kept as well.
    """

    path: Path
    shape: tuple[int, int]
    core_px: int
    classes: int
    glass: int
    probabilities: bool

    @property
    def shapes(self) -> list[tuple[int, int]]:
        """(height, width) of every level of the labels."""
        return ngff.pyramid_shapes(self.shape)

    @property
    def shard_counts(self) -> list[tuple[int, int]]:
        """(rows, columns) of shards of every level."""
        return [(-(-h // self.core_px), -(-w // self.core_px)) for h, w in self.shapes]

    def create(self, plan: ReadPlan, table: ClassTable, *, name: str) -> None:
        """Make the arrays that tasks write to; what is there already stays.

        Raises
        ------
        OutputError
            The folder cannot be written.
        """
        levels = [ngff.placement(plan, 2**k) for k in range(len(self.shapes))]
        with output_errors(self.path):
            labels = zarr.open_group(self.path, mode="a", zarr_format=3).require_group("labels")
            labels.update_attributes(ngff.labels_group_attributes([CLASSES, TISSUE]))
            multiscale = ngff.multiscales(name=CLASSES, axes="yx", levels=levels, method="majority of 2 x 2")
            self._create_levels(
                labels.require_group(CLASSES),
                ngff.label_attributes(multiscale, table),
                leading=(),
                fill=self.glass,
            )
            if self.probabilities:
                multiscale = ngff.multiscales(name=f"{name} probabilities", axes="cyx", levels=levels, method="mean")
                channels = [(c.name, "{:02X}{:02X}{:02X}".format(*c.color)) for c in table.classes]
                root = zarr.open_group(self.path, mode="a", zarr_format=3)
                self._create_levels(
                    root.require_group(PROBABILITIES),
                    ngff.image_attributes(multiscale, channels=channels),
                    leading=(self.classes,),
                    fill=0,
                )

    def has(self, index: tuple[int, int]) -> bool:
        """Whether the core at `index` is finished."""
        return self._shard(self._names[-1], 0, *index).is_file()

    def discard(self, index: tuple[int, int]) -> None:
        """Delete a core and everything in the pyramid above it."""
        self.discard_above(index)
        for name in self._names:
            self._shard(name, 0, *index).unlink(missing_ok=True)

    def discard_above(self, index: tuple[int, int]) -> None:
        """Delete what the pyramid made from a core: before the core is written anew."""
        for level in range(1, len(self.shapes)):
            for name in self._names:
                self._shard(name, level, index[0] >> level, index[1] >> level).unlink(missing_ok=True)

    def write(
        self, core: Region, labels: NDArray[np.uint8], probabilities: NDArray[np.uint8] | None
    ) -> NDArray[np.uint8]:
        """Write a core: labels (h, w), probabilities (C, h, w) if the store keeps them; the labels at half the scale.

        Labels come first and probabilities last: `has` looks at what is written last.
        """
        with output_errors(self.path):
            self._array(f"labels/{CLASSES}", 0)[core.slices] = labels
            if self.probabilities:
                assert probabilities is not None
                self._array(PROBABILITIES, 0)[(slice(None), *core.slices)] = probabilities
        return majority(labels)

    def reduce(
        self, level: int, row: int, column: int, below: Mapping[tuple[int, int], NDArray[np.uint8]] | None = None
    ) -> NDArray[np.uint8] | None:
        """Make one shard of level `level` (> 0) from up to four shards of the finer one.

        Parameters
        ----------
        level, row, column
            Which.
        below
            Labels of shards of the finer level, at half their scale, by (row, column); what it lacks is read.

        Returns
        -------
        numpy.ndarray
            Its labels at half the scale; None if it was there already, or there is nothing below it.
        """
        shard = self._region(level, row, column)
        children = [
            c for c in self._children(level, row, column) if self._shard(self._names[0], level - 1, *c).is_file()
        ]
        if not children:
            return None
        known = below or {}
        half = None
        with output_errors(self.path):
            for name in self._names:
                if self._shard(name, level, row, column).is_file():
                    continue
                array = self._array(name, level)
                smaller = halved if name == PROBABILITIES else majority
                px = np.full((*array.shape[:-2], *shard.shape), array.fill_value, np.uint8)
                for child in children:
                    finer = self._region(level - 1, *child)
                    if name != PROBABILITIES and child in known:
                        part = known[child]
                    else:
                        with chunk_errors(finer):
                            stored = np.asarray(self._array(name, level - 1)[(..., *finer.slices)])
                        part = smaller(stored)
                    y, x = finer.y // 2 - shard.y, finer.x // 2 - shard.x
                    px[..., y : y + part.shape[-2], x : x + part.shape[-1]] = part
                array[(..., *shard.slices)] = px
                if name != PROBABILITIES:
                    half = majority(px)
        return half

    def complete_levels(self, pending: Collection[tuple[int, int]] = ()) -> None:
        """Make every shard of the pyramid that is missing: what a killed run, or a failed core, left out.

        Shards above the cores in `pending` are left to the tasks that finish these cores.
        """
        above = set(pending)
        for level in range(1, len(self.shapes)):
            above = {(row // 2, column // 2) for row, column in above}
            rows, columns = self.shard_counts[level]
            for row, column in ((r, c) for r in range(rows) for c in range(columns)):
                if (row, column) not in above:
                    self.reduce(level, row, column)

    @property
    def failures_path(self) -> Path:
        """Folder beside the Zarr with a file for each core that could not be computed; absent without any."""
        return self.path.with_name(f"{self.path.name.removesuffix('.ome.zarr')}.failures")

    def note_failure(self, index: tuple[int, int], core: Region, cause: str) -> None:
        """Remember a core that could not be computed: index on the grid, region in plan px, cause."""
        note = {"index": list(index), "core": [core.y, core.x, core.h, core.w], "cause": cause}
        name = f"{index[0]}.{index[1]}.json"
        write_bytes_atomic(self.failures_path / name, (json.dumps(note, indent=2) + "\n").encode())

    def noted_failures(self) -> list[tuple[int, int]]:
        """Indices of the cores that a run before could not compute."""
        return [(int(row), int(column)) for row, column, _ in (note.name.split(".") for note in self._notes())]

    def forget_failures(self) -> None:
        """Delete the notes; what lacks these cores must have been discarded before."""
        with output_errors(self.failures_path):
            for note in self._notes():
                note.unlink()
            if self.failures_path.is_dir():
                remove_partials(self.failures_path)
            if self.failures_path.is_dir() and not any(self.failures_path.iterdir()):
                self.failures_path.rmdir()

    def _notes(self) -> list[Path]:
        return sorted(path for path in self.failures_path.glob("*.*.json") if _NOTE.fullmatch(path.name))

    def open_labels(self, level: int) -> zarr.Array[Any]:
        """Class ids of one level, (h, w) uint8."""
        return self._array(f"labels/{CLASSES}", level)

    def has_block(self, region: Region) -> bool:
        """Whether the core that starts at a region's corner is finished."""
        return self.has((region.y // self.core_px, region.x // self.core_px))

    def write_failed(self, index: tuple[int, int], core: Region, inside: NDArray[np.bool_]) -> None:
        """Mark a core that could not be computed: unlabelled where `inside` (h, w), glass elsewhere."""
        labels = np.where(inside, np.uint8(UNLABELLED), np.uint8(self.glass))
        zeros = np.zeros((self.classes, *core.shape), np.uint8) if self.probabilities else None
        self.discard(index)
        self.write(core, labels, zeros)

    @cached_property
    def _names(self) -> tuple[str, ...]:
        """Groups with a pyramid, in the order in which they are written."""
        return (f"labels/{CLASSES}", PROBABILITIES) if self.probabilities else (f"labels/{CLASSES}",)

    @cached_property
    def _arrays(self) -> dict[tuple[str, int], zarr.Array[Any]]:
        return {}

    def __getstate__(self) -> dict[str, Any]:
        # Open arrays stay where they are: a worker opens its own.
        return {key: value for key, value in self.__dict__.items() if key != "_arrays"}

    def _array(self, name: str, level: int) -> zarr.Array[Any]:
        if (name, level) not in self._arrays:
            array = zarr.open_array(self.path / name / str(level), mode="r+", zarr_format=3)
            # A core of nothing but glass still leaves its file: it says that the core is finished.
            self._arrays[name, level] = array.with_config({"write_empty_chunks": True})
        return self._arrays[name, level]

    def _shard(self, name: str, level: int, row: int, column: int) -> Path:
        leading = ("0",) if name == PROBABILITIES else ()
        return self.path.joinpath(name, str(level), "c", *leading, str(row), str(column))

    def _region(self, level: int, row: int, column: int) -> Region:
        h, w = self.shapes[level]
        y, x = row * self.core_px, column * self.core_px
        return Region(y, x, min(self.core_px, h - y), min(self.core_px, w - x))

    def _children(self, level: int, row: int, column: int) -> Iterator[tuple[int, int]]:
        h, w = self.shapes[level - 1]
        for r in (2 * row, 2 * row + 1):
            for c in (2 * column, 2 * column + 1):
                if r * self.core_px < h and c * self.core_px < w:
                    yield r, c

    def _create_levels(
        self, group: zarr.Group, attributes: dict[str, Any], *, leading: tuple[int, ...], fill: int
    ) -> None:
        group.update_attributes(attributes)
        chunk = chunk_px(self.core_px)
        for level, shape in enumerate(self.shapes):
            if (self.path / group.path / str(level) / "zarr.json").is_file():
                continue
            group.create_array(
                str(level),
                shape=(*leading, *shape),
                dtype="uint8",
                chunks=(*leading, chunk, chunk),
                shards=(*leading, self.core_px, self.core_px),
                compressors=ZSTD,
                fill_value=fill,
                dimension_names=["c", "y", "x"][-len(leading) - 2 :],
            )
