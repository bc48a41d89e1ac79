"""A result that `wsi-espnet segment` left on disk, opened again: its mask, classes, tissue, and the slide it is of."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from wsi_espnet.classes import UNLABELLED, ClassTable, TissueClass
from wsi_espnet.errors import OutputError, SlideError
from wsi_espnet.geometry import Level, ReadPlan
from wsi_espnet.outputs.ome_zarr import CLASSES, TISSUE
from wsi_espnet.outputs.result import KIND, LEVEL_0, MODEL, SLIDE
from wsi_espnet.resume import read_mark
from wsi_espnet.slides.source import PixelSource, open_source
from wsi_espnet.slides.stored_tissue import cells_of
from wsi_espnet.slides.tissue_mask import TissueMask


@dataclass(frozen=True, slots=True, eq=False)
class OpenedResult:
    """A result on disk, finished or in work.

    Parameters
    ----------
    path
        The ``.ome.zarr`` folder.
    labels
        Class ids (h, w) uint8, largest level first; read from disk whenever they are indexed.
    classes
        What the ids mean.
    plan
        Where the labels lie: their px as if they were those of a slide, whose px (0, 0) lies at `plan.origin_um`.
    tissue
        Where the slide was segmented.
    done
        Whether the run came to its end without a failed window.
    source
        The identity of the slide, as in `PixelSource.identity`.
    model
        Name of the model; ``unknown`` where the result does not say it.
    slide
        Where the slide was, absolute; it may have been moved since.
    l0_per_px
        (y, x) level-0 px of the slide per px of the labels.
    origin_uncropped, origin_cropped
        (y, x) of the labels' corner in level-0 px, from the corner of the whole scan area, and of the slide's bounds.
    """

    path: Path
    labels: tuple[zarr.Array[Any], ...]
    classes: ClassTable
    plan: ReadPlan
    tissue: TissueMask
    done: bool
    source: dict[str, Any]
    model: str
    slide: Path | None
    l0_per_px: tuple[float, float]
    origin_uncropped: tuple[float, float]
    origin_cropped: tuple[float, float]

    def open_slide(self) -> PixelSource | None:
        """The slide, where it was or beside the result; None if neither holds the very slide that was segmented.

        It is opened at the scale that it was segmented with.
        """
        name = str(self.source.get("name", ""))
        folders = (self.path.parent, self.path.parent.parent)
        for path in (self.slide, *(folder / name for folder in folders if name)):
            if path is None or not path.exists():
                continue
            try:
                source = open_source(path)
                scale = {"mpp_y": self.source.get("mpp_y"), "mpp_x": self.source.get("mpp_x")}
                own = source.identity()
                if {"mpp_y": own.get("mpp_y"), "mpp_x": own.get("mpp_x")} != scale and scale["mpp_x"] is not None:
                    source.close()
                    source = open_source(path, mpp=scale["mpp_x"])
            except SlideError:  # something else of that name
                continue
            if source.identity() == self.source:
                return source
            source.close()
        return None


def find_result(path: str | Path) -> Path | None:
    """The ``.ome.zarr`` of a result: `path` itself, or the only one in the folder `path`; None if there is none."""
    path = Path(path)
    if is_result(path):
        return path
    found = [inner for inner in sorted(path.glob("*.ome.zarr")) if is_result(inner)] if path.is_dir() else []
    return found[0] if len(found) == 1 else None


def open_result(path: str | Path) -> OpenedResult:
    """Open a result, or the folder that holds one.

    Raises
    ------
    OutputError
        There is no result of `wsi-espnet segment`, or it is damaged.
    """
    found = find_result(path)
    if found is None:
        raise OutputError(f"{path} holds no result of `wsi-espnet segment`; give its folder, or the .ome.zarr in it")
    marks = read_mark(found) or {}
    try:
        group = zarr.open_group(found / "labels", mode="r", zarr_format=3)
        ome: Any = group[CLASSES].attrs["ome"]
        datasets = ome["multiscales"][0]["datasets"]
        labels = tuple(_array(group, f"{CLASSES}/{entry['path']}") for entry in datasets)
        scale, translation = (step[step["type"]] for step in datasets[0]["coordinateTransformations"])
        classes = _classes(ome["image-label"])
        level_0: Any = marks[LEVEL_0]
        (y, x), per_px, bounds = level_0["origin"], level_0["per_px"], level_0["bounds"]
        tissue = cells_of(np.asarray(_array(group, f"{TISSUE}/0")[...]), dict(group[TISSUE].attrs))
    except (OSError, KeyError, IndexError, ValueError, TypeError) as exc:
        raise OutputError(f"{found} is damaged ({type(exc).__name__}: {exc}); segment the slide again") from exc
    shape = (int(labels[0].shape[0]), int(labels[0].shape[1]))
    fingerprint = marks.get("fingerprint") or {}
    slide = marks.get(SLIDE)
    return OpenedResult(
        path=found,
        labels=labels,
        classes=classes,
        plan=ReadPlan(
            level=Level(0, shape, 1.0),
            mpp=(float(scale[0]), float(scale[1])),
            shape=shape,
            origin_l0=(0.0, 0.0),
            l0_per_px=(1.0, 1.0),
            origin_um=(float(translation[0]), float(translation[1])),
        ),
        tissue=TissueMask(tissue, shape, str((fingerprint.get("tissue") or {}).get("origin", "stored"))),
        done=marks.get("state") == "done",
        source=dict(fingerprint.get("source") or {}),
        model=str(marks.get(MODEL, "unknown")),
        slide=None if slide is None else (found.resolve() / slide).resolve(),
        l0_per_px=(float(per_px[0]), float(per_px[1])),
        origin_uncropped=(float(y), float(x)),
        origin_cropped=(float(y) - bounds[0], float(x) - bounds[1]),
    )


def is_result(path: Path) -> bool:
    """Whether a folder is the ``.ome.zarr`` of a result."""
    return (read_mark(path) or {}).get("kind") == KIND


def _array(group: zarr.Group, name: str) -> zarr.Array[Any]:
    array = group[name]
    if not isinstance(array, zarr.Array):
        raise TypeError(f"{name} is no array")
    return array


def _classes(image_label: dict[str, Any]) -> ClassTable:
    """The class table from the names and colours that the mask carries; glass is what is transparent."""
    names = {entry["label-value"]: entry["class"] for entry in image_label["properties"]}
    rgba = {entry["label-value"]: entry["rgba"] for entry in image_label["colors"]}
    ids = sorted(names.keys() - {UNLABELLED})
    clear = [id_ for id_ in ids if rgba[id_][3] == 0]
    return ClassTable(
        name="stored",
        classes=tuple(TissueClass(id=id_, name=names[id_], color=tuple(rgba[id_][:3])) for id_ in ids),
        glass=clear[0] if clear else None,
    )
