"""Run a model on pictures: from files to palette masks, overlays and ids that others take."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from wsi_espnet.atomic import refuse_existing, write_bytes_atomic
from wsi_espnet.classes import ClassTable
from wsi_espnet.data.photographs import find_pictures
from wsi_espnet.data.pictures import read_rgb
from wsi_espnet.data.street_labels import cityscapes_label_ids
from wsi_espnet.errors import BudgetError, DataError, UsageError
from wsi_espnet.inference.images import ImagePredictor, Size, View
from wsi_espnet.models.catalog import class_table
from wsi_espnet.models.weights import load_model
from wsi_espnet.outputs.pictures import class_palette, id_png, overlay_png, palette_png, voc_palette

MASKS, OVERLAYS, LABEL_IDS, VOC = "masks", "overlays", "label_ids", "voc"
"""Folders of the results, one for each kind; the last two are what the servers of Cityscapes and VOC take."""

Encode = Callable[[NDArray[np.uint8], NDArray[np.uint8]], bytes]
"""A file's bytes from a picture (h, w, 3) and its labels (h, w)."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Failure:
    """A picture that could not be done, and why."""

    picture: Path
    cause: str


@dataclass(frozen=True, slots=True)
class Predictions:
    """What a run left behind.

    Parameters
    ----------
    folders
        One for each kind of result.
    pictures
        Those that were done.
    failures
        Those that could not be read or were too large.
    """

    folders: tuple[Path, ...]
    pictures: tuple[Path, ...]
    failures: tuple[Failure, ...]


def predict(
    model: str | Path,
    source: str | Path,
    out: str | Path,
    *,
    overlay: bool = False,
    label_ids: Literal["cityscapes"] | None = None,
    voc: bool = False,
    size: tuple[int, int] | None = None,
    scales: Sequence[float] = (1.0,),
    flip: bool = False,
    mpp: float | None = None,
    device: str = "auto",
    precision: str = "fp32",
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Predictions:
    """Label pictures px by px.

    Parameters
    ----------
    model
        Bundled name or path of a ``.safetensors`` file.
    source
        A picture, or a folder that is searched through for pictures.
    out
        Folder for the results: `masks/NAME.png`, and `overlays`, `label_ids` and `voc` as asked for.
    overlay
        Whether pictures tinted by class are written.
    label_ids
        ``cityscapes`` writes the label ids that its server takes, void as 0.
    voc
        Whether masks in VOC's palette are written, as its server takes them.
    size, scales, flip
        (height, width) in px for the network, and further looks; see `wsi_espnet.inference.images.View`.
    mpp
        Um per px of the pictures, for models of tissue; None takes them as they are.
    device, precision
        See `wsi_espnet.inference.torch_backend.choose_execution`.
    overwrite
        Replace files that are there.
    progress
        Told about (done, total) pictures.

    Raises
    ------
    DataError, ModelError, ResumeError, OutputError, ScaleError, UsageError
        See `wsi_espnet.errors`. Of several pictures, those that cannot be read are told in the result instead.
    """
    if mpp is not None and not 0 < mpp < float("inf"):
        raise UsageError(f"--mpp must be positive um per px, got {mpp:g}")
    loaded = load_model(model)
    kinds = _kinds(loaded.card.classes, overlay=overlay, label_ids=label_ids, voc=voc)
    out = Path(out)
    pictures = find_pictures(Path(source), leave_out=out)
    if not overwrite:
        refuse_existing([_place(out, kind, name) for _, name in pictures for kind in kinds])
    view = View(size=None if size is None else Size(*size), scales=tuple(scales), flip=flip)
    predictor = ImagePredictor(loaded, view, device=device, precision=precision)
    if loaded.card.mpp is not None and mpp is None and size is None:
        log.warning(
            "warning: %s was trained at %g um per px and the pictures are taken as they are; --mpp says their scale",
            loaded.card.name,
            loaded.card.mpp,
        )

    done: list[Path] = []
    failures: list[Failure] = []
    for picture, name in pictures:
        try:
            rgb = read_rgb(picture)
            labels = predictor.labels(rgb, mpp=mpp)
        except (DataError, BudgetError) as exc:
            if len(pictures) == 1:
                raise
            failures.append(Failure(picture, str(exc)))
        else:
            for kind, encode in kinds.items():
                write_bytes_atomic(_place(out, kind, name), encode(rgb, labels))
            done.append(picture)
        if progress is not None:
            progress(len(done) + len(failures), len(pictures))
    return Predictions(tuple(out / kind for kind in kinds), tuple(done), tuple(failures))


def _kinds(classes: ClassTable, *, overlay: bool, label_ids: str | None, voc: bool) -> dict[str, Encode]:
    """Folder and contents of each kind of file that is asked for; refuses what the classes do not allow."""
    colors = class_palette(classes)
    kinds: dict[str, Encode] = {MASKS: lambda rgb, labels: palette_png(labels, colors)}
    if overlay:
        kinds[OVERLAYS] = lambda rgb, labels: overlay_png(rgb, labels, classes)
    if label_ids is not None:
        if label_ids != "cityscapes":
            raise UsageError(f"--label-ids must be cityscapes, got {label_ids!r}")
        ids = cityscapes_label_ids(classes)
        kinds[LABEL_IDS] = lambda rgb, labels: id_png(ids[labels])
    if voc:
        if classes.names != class_table("voc21").names:
            raise UsageError(f"--voc needs a model of VOC's 21 classes, and this one has those of {classes.name}")
        palette = voc_palette()
        kinds[VOC] = lambda rgb, labels: palette_png(labels, palette)
    return kinds


def _place(out: Path, kind: str, name: Path) -> Path:
    return out / kind / name.parent / f"{name.name}.png"
