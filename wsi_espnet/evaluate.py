"""Evaluate a model on a data set: from its samples to one confusion matrix, scores and pictures."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsi_espnet.atomic import refuse_existing, write_bytes_atomic
from wsi_espnet.data.adapter import Dataset, Sample
from wsi_espnet.data.catalog import open_dataset
from wsi_espnet.data.class_map import ClassMap, map_classes
from wsi_espnet.data.street_labels import categories_of, cityscapes_label_ids, is_cityscapes
from wsi_espnet.errors import DataError
from wsi_espnet.inference.backends import open_labeller
from wsi_espnet.inference.view import ImageLabeller, Size, View
from wsi_espnet.outputs.pictures import class_palette, id_png, palette_png
from wsi_espnet.outputs.score_files import CSV_NAME, JSON_NAME, PICTURE_NAME, write_scores
from wsi_espnet.scores import Scores, confusion
from wsi_espnet.threads import in_order

MASKS = "masks"
"""Folder for the predicted masks, beside the scores."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What a model scored.

    Parameters
    ----------
    scores
        Over all samples of the split.
    about
        JSON-able: model, data, and how it was run.
    files
        What was written.
    """

    scores: Scores
    about: dict[str, Any]
    files: tuple[Path, ...]


def evaluate(
    model: str | Path,
    dataset: str | Dataset,
    *,
    data: str | Path | None = None,
    split: str = "val",
    options: Mapping[str, Any] | None = None,
    size: tuple[int, int] | None = None,
    scales: Sequence[float] = (1.0,),
    flip: bool = False,
    void_as_error: bool = False,
    class_map: Mapping[str, str] | None = None,
    backend: str | None = None,
    device: str = "auto",
    precision: str = "fp32",
    out: str | Path | None = None,
    save_masks: bool = False,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Score a model on a split of a data set, at the size of its ground truth.

    Parameters
    ----------
    model
        Bundled name, or path of a ``.safetensors`` or exported ``.onnx`` file.
    dataset, data, options
        Name in `wsi_espnet.data.catalog`, its root folder and what else the adapter takes; or a data set.
    split
        Which of its splits.
    size
        (height, width) in px that pictures are resized to for the network; labels are made at their own size.
    scales, flip
        See `wsi_espnet.inference.view.View`.
    void_as_error
        Whether void px count against the class that they are called (older numbers for CamVid); they are ignored
        otherwise.
    class_map
        Model class -> class of the data set or ``void``, for names that differ; ``*`` for all others.
    backend
        ``torch``, ``onnx`` or ``openvino``; None takes what the file is for. See `wsi_espnet.inference.backends`.
    device, precision
        See `wsi_espnet.inference.torch_backend.choose_execution`.
    out
        Folder for `scores.json`, `scores.csv`, `confusion.png`; None writes nothing.
    save_masks
        Whether the masks are written too, to `masks` in `out`: label ids under names that the official script takes
        for Cityscapes' classes, palette PNGs of class ids otherwise.
    overwrite
        Replace files that are there.
    progress
        Told about (done, total) samples.

    Raises
    ------
    DataError, ModelError, ResumeError, OutputError, ScaleError, BudgetError, UsageError
        See `wsi_espnet.errors`; each message says what to do.
    """
    view = View(size=None if size is None else Size(*size), scales=tuple(scales), flip=flip)
    predictor = open_labeller(model, view, backend=backend, device=device, precision=precision)
    source = open_dataset(dataset, data or ".", **(options or {})) if isinstance(dataset, str) else dataset
    classes = map_classes(predictor.card.classes, source.classes, class_map)
    samples = source.samples(split)
    if not samples:
        raise DataError(f"the split {split!r} of {source.name} has no samples")
    masks = _Masks(Path(out) / MASKS if out is not None and save_masks else None, source, samples)
    if out is not None and not overwrite:
        refuse_existing([*(Path(out) / n for n in (JSON_NAME, CSV_NAME, PICTURE_NAME)), *masks.paths])

    counts = np.zeros((len(source.classes) + 1,) * 2, np.int64)

    def score(sample: Sample) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        picture = sample.read()
        labels = classes.lookup[predictor.labels(picture.rgb, mpp=source.mpp)]
        return labels, confusion(picture.labels, labels, len(source.classes))

    for i, (labels, count) in enumerate(in_order(score, samples, threads=predictor.at_once)):
        counts += count
        masks.write(i, labels)
        if progress is not None:
            progress(i + 1, len(samples))

    names = source.classes.names
    scores = Scores(names, counts, void_as_error=void_as_error, categories=categories_of(names))
    about = _about(predictor, source, split, len(samples), classes, options or {})
    files = tuple(masks.paths)
    if out is not None:
        title = f"{predictor.card.name} on {source.name} {split}, mIoU {scores.means['mIoU']:.2%}"
        files = write_scores(Path(out), scores, title=title, about=about) + files
    return Evaluation(scores, about, files)


class _Masks:
    """Where the predicted masks go, if anywhere."""

    def __init__(self, folder: Path | None, source: Dataset, samples: Sequence[Sample]) -> None:
        self._classes = source.classes
        self._street = is_cityscapes(source.classes)
        self._ids = cityscapes_label_ids(source.classes) if self._street else None
        names = [] if folder is None else [_mask_name(s.name, street=self._street) for s in samples]
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise DataError(f"two samples would have the mask {twice}; names must differ")
        self.paths = [folder / name for name in names] if folder is not None else []

    def write(self, index: int, labels: NDArray[np.uint8]) -> None:
        if not self.paths:
            return
        png = palette_png(labels, class_palette(self._classes)) if self._ids is None else id_png(self._ids[labels])
        write_bytes_atomic(self.paths[index], png)


def _mask_name(sample: str, *, street: bool) -> str:
    """File of a sample's mask; the official script looks for `<city>_<seq>_<frame>*.png`."""
    found = re.search(r"[^/\\]+_\d{6}_\d{6}", sample) if street else None
    return f"{found.group()}_labelIds.png" if found else f"{sample}.png"


def _about(
    predictor: ImageLabeller,
    source: Dataset,
    split: str,
    count: int,
    classes: ClassMap,
    options: Mapping[str, Any],
) -> dict[str, Any]:
    if classes.unreached:
        log.warning(
            "warning: no class of %s becomes %s: where the truth has them, all of it is wrong",
            predictor.card.name,
            ", ".join(classes.unreached),
        )
    view, execution = predictor.view, predictor.execution
    return {
        "model": predictor.card.name,
        "model sha256": predictor.sha256,
        "data set": source.name,
        "options": {key: str(value) for key, value in options.items()},
        "split": split,
        "images": count,
        "class table": source.classes.name,
        "class map": dict(classes.targets),
        "size": "as it is" if view.size is None else str(view.size),
        "scales": list(view.scales),
        "flip": view.flip,
        "backend": execution.backend,
        "device": execution.device,
        "precision": execution.precision,
    }
