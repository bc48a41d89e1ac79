"""How far camvid-street may be trusted by another light or camera, beside the authors' weights."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsi_espnet.bench.report import Check, Report
from wsi_espnet.bench.settings import Settings
from wsi_espnet.data.adapter import Labelled
from wsi_espnet.data.catalog import open_dataset
from wsi_espnet.inference.images import ImagePredictor
from wsi_espnet.inference.view import View
from wsi_espnet.models.importer import import_pth
from wsi_espnet.models.weights import load_model, save_model
from wsi_espnet.scores import confusion, iou, mean

MODEL = "camvid-street"
AUTHORS = "weights/espnet/decoder/espnet_p_2_q_8_camvid.pth"
"""Below the folder of the data; their 12th class is void."""

CLASSES = 11
"""Those of the data set, void aside."""

CLOSE = 0.1
"""How much of the mIoU may go with the light."""

Values = NDArray[np.float32]

LIGHTS: dict[str, Callable[[Values], Values]] = {
    "as it was": lambda px: px,
    "half the light": lambda px: px * np.float32(0.5),
    "deeper shadows (gamma 1.8)": lambda px: _gamma(px, 1.8),
    "paler shadows (gamma 0.6)": lambda px: _gamma(px, 0.6),
    "warm (R, G, B times 1.15, 1, 0.7)": lambda px: px * np.array([1.15, 1.0, 0.7], np.float32),
    "cold (0.75, 0.95, 1.15)": lambda px: px * np.array([0.75, 0.95, 1.15], np.float32),
    "dusk (gamma 1.5, then 1, 0.8, 0.6)": lambda px: _gamma(px, 1.5) * np.array([1.0, 0.8, 0.6], np.float32),
    "noise of 12 in 255": lambda px: px + 12 * np.random.default_rng(0).standard_normal(px.shape, dtype=np.float32),
    "grey": lambda px: np.repeat((px @ np.array([0.3, 0.59, 0.11], np.float32))[..., None], 3, axis=2),
}
"""What becomes of values 0..255."""

log = logging.getLogger(__name__)


def run(settings: Settings) -> Report:
    """Score CamVid's validation images in each light."""
    pairs = [sample.read() for sample in open_dataset("camvid", settings.data / "data" / "camvid").samples("val")]
    if settings.quick:
        pairs = pairs[::10]
    scores = {}
    for name, model in ((MODEL, MODEL), ("the authors' CamVid weights", _authors(settings))):
        predictor = ImagePredictor(load_model(model), View(), device="cpu", precision="fp32")
        for light, change in LIGHTS.items():
            log.info("light: %s, %s", name, light)
            scores[light, name] = _score(predictor, pairs, change)
    return _report(scores)


def _gamma(px: Values, power: float) -> Values:
    return 255 * (px / np.float32(255)) ** np.float32(power)


def _authors(settings: Settings) -> str:
    path = settings.out / "authors-camvid.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    save_model(path, *import_pth(settings.data / "data" / AUTHORS))
    return str(path)


def _score(predictor: ImagePredictor, pairs: list[Labelled], change: Callable[[Values], Values]) -> float:
    classes = len(predictor.card.classes)
    counts: Any = 0
    for rgb, truth in pairs:
        seen = np.clip(np.rint(change(rgb.astype(np.float32))), 0, 255).astype(np.uint8)
        counts = counts + confusion(truth, predictor.labels(seen), classes)
    return mean(iou(counts)[:CLASSES])


def _report(scores: dict[tuple[str, str], float]) -> Report:
    models = list(dict.fromkeys(model for _, model in scores))
    plain = scores["as it was", MODEL]
    worst = min(score for (_, model), score in scores.items() if model == MODEL) - plain
    return Report(
        name="light",
        title="mIoU on CamVid's validation images in other light",
        columns=("light", *models),
        rows=[(light, *(f"{scores[light, model]:.3f}" for model in models)) for light in LIGHTS],
        checks=(Check(f"{MODEL}, worst light", f"within {CLOSE:g}", f"{worst:+.3f}", worst > -CLOSE),),
        facts={"scores": [{"light": light, "model": model, "miou": s} for (light, model), s in scores.items()]},
    )
