"""How far glas-colon may be trusted: other scales, other stains, and what it has not learnt."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
from PIL import Image

from wsi_espnet.bench.report import Check, Report
from wsi_espnet.bench.settings import MODEL, Settings
from wsi_espnet.data.adapter import Labelled
from wsi_espnet.data.catalog import open_dataset
from wsi_espnet.data.glas import GLAS_MPP
from wsi_espnet.inference.images import ImagePredictor
from wsi_espnet.inference.view import View
from wsi_espnet.models.weights import load_model
from wsi_espnet.scores import confusion, iou, mean, merge
from wsi_espnet.slides.source import open_source
from wsi_espnet.training.augment import jitter_stain

SCALES = (0.45, 0.5, 0.7, 0.8)
"""Um per px at which the images are shown to the network, which takes them for 0.62."""

STAINS = {"pale": (0.7, 0.7, 0.7), "dark": (1.3, 1.3, 1.3), "red": (0.75, 1.3, 1.0), "blue": (1.3, 0.75, 1.0)}
"""What haematoxylin, eosin and the residual are multiplied with."""

STRANGERS = {
    "skin (CMU-1-Small-Region)": "slides/CMU-1-Small-Region.svs",
    "nuclei in fluorescence": "slides/test3-DAPI-2-(387).ndpi",
}
"""Slides without any colon, below the folder of the data."""

WINDOW_PX = 1024
"""Side of what is looked at at once there: about that of GlaS' images."""

CLOSE, QUIET = 0.02, 0.01

log = logging.getLogger(__name__)


class Scored(NamedTuple):
    """Mean IoU of the three classes, and of glands against the rest."""

    miou: float
    gland: float


def run(settings: Settings) -> Report:
    """Score the held-out patients in each disguise, and count what is called malignant where nothing is."""
    predictor = ImagePredictor(load_model(MODEL), View(), device="cpu", precision="fp32")
    pairs = [sample.read() for sample in open_dataset("glas", settings.glas).samples("val")]
    if settings.quick:
        pairs = pairs[::5]
    disguises: dict[str, Callable[[Labelled], Labelled]] = {"as they are": lambda pair: pair}
    disguises |= {f"{mpp:g} um per px": partial(_rescaled, mpp=mpp) for mpp in SCALES}
    disguises |= {f"stained {name}": partial(_stained, gains=gains) for name, gains in STAINS.items()}
    scores = {}
    for name, disguise in disguises.items():
        log.info("robustness: %s", name)
        scores[name] = _score(predictor, [disguise(pair) for pair in pairs])
    strange = {name: _malignant(predictor, settings, path) for name, path in STRANGERS.items()}
    return _report(scores, strange)


def _rescaled(pair: Labelled, *, mpp: float) -> Labelled:
    rgb, labels = pair
    size = tuple(round(side * GLAS_MPP / mpp) for side in labels.shape[::-1])
    # Pillow's bilinear widens its kernel when it shrinks.
    picture = Image.fromarray(rgb).resize((size[0], size[1]), Image.Resampling.BILINEAR)
    truth = Image.fromarray(labels).resize((size[0], size[1]), Image.Resampling.NEAREST)
    return Labelled(np.asarray(picture), np.asarray(truth))


def _stained(pair: Labelled, *, gains: tuple[float, float, float]) -> Labelled:
    return Labelled(jitter_stain(pair.rgb, gains=np.array(gains), shifts=np.zeros(3)), pair.labels)


def _score(predictor: ImagePredictor, pairs: list[Labelled]) -> Scored:
    classes = len(predictor.card.classes)
    counts = sum(confusion(truth, predictor.labels(rgb, mpp=GLAS_MPP), classes) for rgb, truth in pairs)
    assert not isinstance(counts, int)
    return Scored(mean(iou(counts)), float(iou(merge(counts, [0, 1, 1]))[1]))


def _malignant(predictor: ImagePredictor, settings: Settings, path: str) -> float:
    """Share of all px of a slide that are called malignant gland, window by window."""
    named = predictor.card.classes.names.index("malignant gland")
    found = asked = 0
    with open_source(settings.data / "data" / path) as source:
        plan = source.plan(GLAS_MPP)
        for region in plan.region.squares(WINDOW_PX):
            labels = predictor.labels(source.read(plan, region), mpp=GLAS_MPP)
            found += int(np.count_nonzero(labels == named))
            asked += labels.size
    return found / asked


def _report(scores: dict[str, Scored], strange: dict[str, float]) -> Report:
    plain, *others = scores.values()
    rows = [(name, f"{s.miou:.3f}", f"{s.gland:.3f}", f"{s.miou - plain.miou:+.3f}") for name, s in scores.items()]
    rows += [(name, "", "", f"{share:.2%} malignant") for name, share in strange.items()]
    worst = min(s.miou for s in others[: len(SCALES)]) - plain.miou
    return Report(
        name="robustness",
        title=f"{MODEL} on the held-out patients of GlaS in disguise, and on what is no colon",
        columns=("images", "mIoU", "gland IoU", "change"),
        rows=rows,
        checks=(
            Check(f"mIoU at {SCALES[0]:g} to {SCALES[-1]:g} um per px", "within 0.02", f"{worst:+.3f}", worst > -CLOSE),
            *(
                Check(f"malignant on {name}", f"< {QUIET:.0%}", f"{share:.2%}", share < QUIET)
                for name, share in strange.items()
            ),
        ),
        facts={"scores": {name: s._asdict() for name, s in scores.items()}, "malignant": strange},
    )
