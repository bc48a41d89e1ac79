"""Corrected parts of masks, kept as a data set that the adapter `slides` reads.

FOLDER/classes.toml              the classes of the mask
FOLDER/manifest.csv              a row for each slide
FOLDER/<slide>.ome.zarr/         class ids over the whole slide; 255, which is ignored, where nothing was corrected
"""

from __future__ import annotations

import csv
import io
import json
import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wsi_espnet.atomic import output_errors, write_bytes_atomic
from wsi_espnet.classes import UNLABELLED, ClassTable
from wsi_espnet.data.files import read_table
from wsi_espnet.data.folder import CLASSES, read_classes
from wsi_espnet.data.slides import MANIFEST
from wsi_espnet.errors import DataError, UsageError
from wsi_espnet.geometry import Region
from wsi_espnet.locks import hold
from wsi_espnet.outputs.ome_zarr import ResultStore
from wsi_espnet.outputs.opened import OpenedResult

BLOCK_PX = 1024
"""Side of the files that an annotation is written in."""


def save_corrections(result: OpenedResult, region: Region, ids: NDArray[np.uint8], folder: Path) -> Path:
    """Keep a part of a mask that somebody corrected, beside what was kept of this slide before.

    Parameters
    ----------
    result
        The mask that was corrected.
    region
        The part, in px of the mask.
    ids
        (h, w) uint8 class ids of it; 255 leaves a px as it was kept before, which is ignored unless it was corrected.
    folder
        The data set; made where there is none.

    Returns
    -------
    Path
        The annotation of the slide.

    Raises
    ------
    UsageError
        The ids are not of the region, or of no class of the mask.
    DataError
        The slide is not at hand, or the folder holds another data set.
    OutputError
        The folder cannot be written.
    """
    wrong = sorted(set(np.unique(ids).tolist()) - {UNLABELLED, *range(len(result.classes))})
    if ids.shape != region.shape or wrong:
        raise UsageError(
            f"corrections of a part of {region.w} x {region.h} px must be as large and hold the ids 0.."
            f"{len(result.classes) - 1} or {UNLABELLED}, got {ids.shape[1]} x {ids.shape[0]} px"
            + (f" with the ids {', '.join(map(str, wrong))}" if wrong else "")
        )
    source = result.open_slide()
    if source is None:
        raise DataError(
            f"{result.source.get('name', 'the slide')} is not beside {result.path.name}, and corrections are kept "
            "together with where the slide lies; put it there"
        )
    with source:
        slide, mpp = source.path.resolve(), source.mpp
    name = result.path.name
    with output_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with hold(folder / ".corrections.lock", f"another process keeps corrections in {folder}; wait until it is done"):
        _ensure_classes(folder, result)
        _add_to_manifest(folder, slide, name, mpp)
        _write(folder / name, result, region, ids)
    return folder / name


def _ensure_classes(folder: Path, result: OpenedResult) -> None:
    path = folder / CLASSES
    if not path.exists():
        write_bytes_atomic(path, _classes_toml(result.classes, result.plan.mpp[1]).encode())
        return
    _, table = read_classes(folder)
    if table.names != result.classes.names:
        raise DataError(
            f"{path} has the classes {', '.join(table.names)}, the mask {', '.join(result.classes.names)}; choose "
            "another folder"
        )


def _classes_toml(classes: ClassTable, mpp: float) -> str:
    # JSON's strings, numbers and lists are TOML's too.
    lines = [f"mpp = {mpp}"]
    if classes.glass is not None:
        lines.append(f"glass = {json.dumps(classes.names[classes.glass])}")
    for entry in classes.classes:
        lines += ["", "[[classes]]", f"name = {json.dumps(entry.name)}", f"color = {json.dumps(list(entry.color))}"]
    return "\n".join(lines) + "\n"


def _add_to_manifest(folder: Path, slide: Path, annotation: str, mpp: tuple[float, float] | None) -> None:
    path = folder / MANIFEST
    columns = ["slide", "annotation", "split", "mpp"]
    rows: list[dict[str, str]] = []
    if path.exists():
        rows = read_table(path)
    if rows and not {"slide", "annotation", "split"} <= rows[0].keys():
        raise DataError(
            f"{path} must have the columns slide, annotation, split, got {', '.join(rows[0])}; mend it, or choose "
            "another folder"
        )
    for row in rows:
        if row["annotation"] == annotation:
            if (folder / row["slide"]).resolve() == slide:
                return
            raise DataError(f"{folder} already holds corrections of another {annotation}; choose another folder")
    scale = str(mpp[0]) if mpp is not None and mpp[0] == mpp[1] else ""  # a manifest holds one number, not (y, x)
    where = Path(os.path.relpath(slide, folder.resolve())).as_posix()
    rows.append({"slide": where, "annotation": annotation, "split": "train", "mpp": scale})
    text = io.StringIO(newline="")
    table = csv.DictWriter(text, fieldnames=list(rows[0] | dict.fromkeys(columns, "")), lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    write_bytes_atomic(path, text.getvalue().encode())


def _write(path: Path, result: OpenedResult, region: Region, ids: NDArray[np.uint8]) -> None:
    store = ResultStore(
        path=path,
        shape=result.plan.shape,
        core_px=BLOCK_PX,
        classes=len(result.classes),
        glass=UNLABELLED,
        probabilities=False,
    )
    store.create(result.plan, result.classes, name=path.name)
    labels = store.open_labels(0)
    if tuple(labels.shape) != result.plan.shape:
        raise DataError(f"{path} holds corrections at another scale; choose another folder")
    for row in range(region.y // BLOCK_PX, -(-(region.y + region.h) // BLOCK_PX)):
        for column in range(region.x // BLOCK_PX, -(-(region.x + region.w) // BLOCK_PX)):
            y, x = max(region.y, row * BLOCK_PX), max(region.x, column * BLOCK_PX)
            y_stop = min(region.y + region.h, (row + 1) * BLOCK_PX)
            x_stop = min(region.x + region.w, (column + 1) * BLOCK_PX)
            part = Region(y, x, y_stop - y, x_stop - x)
            new = ids[y - region.y : y_stop - region.y, x - region.x : x_stop - region.x]
            before = np.asarray(labels[part.slices])
            store.discard_above((row, column))
            store.write(part, np.where(new == UNLABELLED, before, new), None)
    store.complete_levels()
