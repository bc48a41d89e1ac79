"""The job of `wsi-espnet models calibrate`: a model and labelled images in, the model with honest probabilities out.

The temperature is divided into the weights that make the logits, so whoever runs the model, exported files included,
needs not know of it. Labels stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from wsi_espnet.calibration import COOLEST, HOTTEST, calibration_error, fit_temperature
from wsi_espnet.data.adapter import Dataset
from wsi_espnet.data.catalog import open_dataset
from wsi_espnet.data.class_map import ensure_same_classes
from wsi_espnet.errors import DataError
from wsi_espnet.inference.images import ImagePredictor
from wsi_espnet.inference.view import View
from wsi_espnet.models.networks import logits_layer
from wsi_espnet.models.weights import ensure_can_save, load_model, save_model

STEP_PX = 4
"""One px in 4 x 4 is asked: neighbours say the same, and CamVid's logits would be 0.8 GB."""

EDGE = 1.01
"""A temperature as near as this to the ends of where it is looked for was not found."""

ERROR = "expected calibration error"
"""The score's name in a card."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """What became of a model's probabilities.

    Parameters
    ----------
    model
        The file that was written.
    temperature
        What all logits were divided by.
    before, after
        Expected calibration error, 0..1, on the split that the temperature was fitted on.
    px
        Px that were asked.
    """

    model: Path
    temperature: float
    before: float
    after: float
    px: int


def calibrate(
    model: str | Path,
    dataset: str | Dataset,
    out: str | Path,
    *,
    data: str | Path | None = None,
    split: str = "val",
    options: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Calibration:
    """Write a copy of a model whose probabilities fit a split of a data set.

    Parameters
    ----------
    model
        Bundled name, or path of a ``.safetensors`` file.
    dataset, data, options, split
        As in `wsi_espnet.evaluate.evaluate`; the split should not have trained the model.
    out
        The ``.safetensors`` file to write.
    overwrite
        Replace it if it is there.
    progress
        Told about (done, total) samples.

    Raises
    ------
    DataError
        The split has no labelled px, is damaged, or has nothing to do with what the model says.
    UsageError
        Its classes are not the model's.
    ModelError, OutputError
        See `wsi_espnet.errors`.
    """
    ensure_can_save(Path(out), overwrite=overwrite)
    loaded = load_model(model)
    source = open_dataset(dataset, data or ".", **(options or {})) if isinstance(dataset, str) else dataset
    ensure_same_classes(loaded.card, source)
    logits, truth = _ask(ImagePredictor(loaded, View(), device="cpu", precision="fp32"), source, split, progress)
    temperature = fit_temperature(logits, truth)
    if not COOLEST * EDGE < temperature < HOTTEST / EDGE:
        raise DataError(
            f"no temperature between {COOLEST:g} and {HOTTEST:g} fits: what {loaded.card.name} says has nothing to do "
            f"with the truth of {source.name} {split}; see what `wsi-espnet evaluate` says of the two"
        )
    before, after = (calibration_error(said, truth) for said in (logits, logits / temperature))
    with torch.no_grad():
        for values in logits_layer(loaded.module).parameters():
            values.div_(temperature)
    card = loaded.card.model_copy(
        update={
            "temperature": round(loaded.card.temperature * temperature, 4),
            "scores": {**loaded.card.scores, ERROR: round(after, 4)},
        }
    )
    return Calibration(
        save_model(out, loaded.module, card, overwrite=overwrite), temperature, before, after, len(truth)
    )


def _ask(
    predictor: ImagePredictor, source: Dataset, split: str, progress: Callable[[int, int], None] | None
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """(N, C) and (N,): what is said of every labelled px of the lattice, and what is true."""
    said, true = [], []
    samples = source.samples(split)
    for i, sample in enumerate(samples):
        picture = sample.read()
        labels = picture.labels[::STEP_PX, ::STEP_PX]
        known = labels < len(source.classes)
        said.append(predictor.logits(picture.rgb, mpp=source.mpp)[:, ::STEP_PX, ::STEP_PX][:, known].T)
        true.append(labels[known])
        if progress is not None:
            progress(i + 1, len(samples))
    if not sum(map(len, true)):
        raise DataError(f"the split {split!r} of {source.name} has no labelled px")
    return np.concatenate(said), np.concatenate(true)
