"""How much of the tissue each class covers: counted px by px, block by block, in px, mm2 and shares."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from wsi_espnet.atomic import write_bytes_atomic
from wsi_espnet.classes import UNLABELLED, ClassTable
from wsi_espnet.errors import GeometryError, OutputError
from wsi_espnet.geometry import Region
from wsi_espnet.outputs.stored import LabelImage, read_labels
from wsi_espnet.scores import count_ids
from wsi_espnet.slides.rings import Ring, fill
from wsi_espnet.slides.tissue_mask import TissueMask
from wsi_espnet.threads import on_threads

UM2_PER_MM2 = 1e6


class Where(Protocol):
    """Which px of an image are counted, such as those of a `TissueMask`."""

    @property
    def shape(self) -> tuple[int, int]:
        """(h, w) of the image."""
        ...

    def box(self, region: Region) -> Region | None:
        """The part of a region outside which nothing is counted; None where nothing is."""
        ...

    def counted(self, region: Region, labels: NDArray[np.uint8], *, glass: int) -> NDArray[np.bool_]:
        """Whether each px of a region is counted: (h, w) bool; see `TissueMask.counted`."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Outlined:
    """The tissue inside outlines that somebody drew.

    Parameters
    ----------
    tissue
        What was segmented.
    polygons
        Each a sequence of rings, (y, x) in px of the same image from its corner, the outline first and then its holes;
        a px is inside where its centre is.
    """

    tissue: TissueMask
    polygons: Sequence[Sequence[Ring]]

    @property
    def shape(self) -> tuple[int, int]:
        """(h, w) of the image."""
        return self.tissue.shape

    def box(self, region: Region) -> Region | None:
        """As in `Where`."""
        corners = np.concatenate([ring for rings in self.polygons for ring in rings])
        low = np.maximum(np.floor(corners.min(axis=0)), (region.y, region.x)).astype(int)
        high = np.minimum(np.ceil(corners.max(axis=0)), (region.y + region.h, region.x + region.w)).astype(int)
        if (low >= high).any():
            return None
        return self.tissue.box(Region(int(low[0]), int(low[1]), int(high[0] - low[0]), int(high[1] - low[1])))

    def counted(self, region: Region, labels: NDArray[np.uint8], *, glass: int) -> NDArray[np.bool_]:
        """As in `Where`."""
        corner = np.array([region.y, region.x], np.float64)
        inside = fill([[ring - corner for ring in rings] for rings in self.polygons], region.shape)
        return inside & self.tissue.counted(region, labels, glass=glass)


@dataclass(frozen=True, slots=True)
class ClassArea:
    """What one class covers.

    Parameters
    ----------
    id
        Id in the label image; 255 is what could not be labelled.
    name
        Name in the class table.
    px
        Px of this class.
    mm2
        The same in square millimetres.
    share_of_tissue
        The same as a share of all px that count, 0..1.
    """

    id: int
    name: str
    px: int
    mm2: float
    share_of_tissue: float


@dataclass(frozen=True, slots=True)
class Areas:
    """Areas of all classes, in the order of the table, and of what could not be labelled.

    Parameters
    ----------
    classes
        One for each class of the table, also where it covers nothing.
    unlabelled
        Px that failed; with the classes they make up all of the tissue.
    tissue_px
        Px that count, those of all of the tissue.
    tissue_mm2
        The same in square millimetres.
    """

    classes: tuple[ClassArea, ...]
    unlabelled: ClassArea
    tissue_px: int
    tissue_mm2: float


def measure_areas(
    labels: LabelImage,
    tissue: Where,
    classes: ClassTable,
    um2_per_px: float,
    *,
    block: int = 2048,
    has_block: Callable[[Region], bool] | None = None,
    known: Mapping[tuple[int, int], Sequence[int]] | None = None,
) -> Areas:
    """Count the px of each class within the tissue; glass around it is never counted.

    Parameters
    ----------
    labels
        Class ids (h, w) uint8. Blocks without tissue are not read.
    tissue
        The mask that was segmented within, for the same image, or a part of it: `Outlined`.
    classes
        What the ids mean.
    um2_per_px
        Area of a px of `labels` in square micrometres.
    block
        Side of the blocks that are read, in px; a multiple of the chunks' side reads no chunk twice.
    has_block
        Whether anything was written in a region. Where nothing was, the tissue counts as unlabelled, unread.
    known
        Px of the tissue in each class, by (row, column) of the block: what was counted already is not read.

    Raises
    ------
    GeometryError
        Labels and tissue mask are of different images.
    OutputError
        A chunk of the labels is damaged, or they hold an id that the table does not.
    """
    if tuple(labels.shape) != tissue.shape:
        raise GeometryError(
            f"labels of {tuple(labels.shape)} px need a tissue mask of the same image, got {tissue.shape}"
        )

    glass = UNLABELLED if classes.glass is None else classes.glass

    def count(region: Region) -> NDArray[np.int64]:
        counts = np.zeros(UNLABELLED + 1, dtype=np.int64)
        found = (known or {}).get((region.y // block, region.x // block))
        if found is not None:
            counts[: len(found)] = found
            return counts
        box = tissue.box(region)
        if box is None:
            return counts
        written = has_block is None or has_block(region)
        ids = read_labels(labels, box) if written else np.full(box.shape, UNLABELLED, np.uint8)
        return count_ids(ids, tissue.counted(box, ids, glass=glass), len(classes))

    counts = np.sum(on_threads(count, Region(0, 0, *tissue.shape).squares(block)), axis=0)
    _ensure_known(counts, classes)
    return _areas(counts, classes, um2_per_px)


def write_areas(areas: Areas, folder: Path, *, facts: Mapping[str, Any]) -> tuple[Path, Path]:
    """Write ``areas.csv``, a row per class and one for what was not labelled, and ``areas.json``.

    Parameters
    ----------
    areas
        From `measure_areas`.
    folder
        Where the two files go.
    facts
        What else belongs beside the numbers, such as the slide's name and mpp: JSON-able, first in the JSON.

    Raises
    ------
    OutputError
        The folder cannot be written.
    """
    rows = [asdict(area) for area in (*areas.classes, areas.unlabelled)]
    text = io.StringIO(newline="")
    table = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    table.writeheader()
    table.writerows(
        row | {"mm2": f"{row['mm2']:.6f}", "share_of_tissue": f"{row['share_of_tissue']:.6f}"} for row in rows
    )
    document = {
        **facts,
        "tissue_px": areas.tissue_px,
        "tissue_mm2": areas.tissue_mm2,
        "classes": rows[:-1],
        "unlabelled": rows[-1],
    }
    csv_path, json_path = folder / "areas.csv", folder / "areas.json"
    write_bytes_atomic(csv_path, text.getvalue().encode())
    write_bytes_atomic(json_path, (json.dumps(document, indent=2, ensure_ascii=False) + "\n").encode())
    return csv_path, json_path


def read_areas(path: Path) -> Areas:
    """What `write_areas` wrote into ``areas.json``.

    Raises
    ------
    OutputError
        The file is missing or damaged.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        return Areas(
            classes=tuple(ClassArea(**row) for row in document["classes"]),
            unlabelled=ClassArea(**document["unlabelled"]),
            tissue_px=document["tissue_px"],
            tissue_mm2=document["tissue_mm2"],
        )
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise OutputError(f"{path} cannot be read ({type(exc).__name__}: {exc}); segment the slide again") from exc


def _ensure_known(counts: NDArray[np.int64], classes: ClassTable) -> None:
    unknown = [int(i) for i in np.flatnonzero(counts[:UNLABELLED]) if i >= len(classes)]
    if unknown:
        raise OutputError(
            f"the labels hold ids {unknown}, but the table {classes.name} ends at {len(classes) - 1}; "
            "measure them with the table that they were made with"
        )


def _areas(counts: NDArray[np.int64], classes: ClassTable, um2_per_px: float) -> Areas:
    total = int(counts.sum())

    def area(id_: int, name: str, px: int) -> ClassArea:
        return ClassArea(id_, name, px, px * um2_per_px / UM2_PER_MM2, px / total if total else 0.0)

    return Areas(
        classes=tuple(area(c.id, c.name, int(counts[c.id])) for c in classes.classes),
        unlabelled=area(UNLABELLED, "unlabelled", int(counts[UNLABELLED])),
        tissue_px=total,
        tissue_mm2=total * um2_per_px / UM2_PER_MM2,
    )
