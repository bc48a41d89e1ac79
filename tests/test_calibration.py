"""Probabilities and how often they come true, against numbers made with a known temperature."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.special import softmax
from small import CLASSES, MPP, tiny_model

from wsi_espnet.calibrate import ERROR, calibrate
from wsi_espnet.calibration import calibration_error, fit_temperature
from wsi_espnet.errors import DataError, OutputError, UsageError
from wsi_espnet.inference.images import ImagePredictor
from wsi_espnet.inference.view import View
from wsi_espnet.models.weights import load_model


def honest(count: int, temperature: float) -> tuple[np.ndarray, np.ndarray]:
    """Logits, and truth drawn from their softmax after division by `temperature`."""
    rng = np.random.default_rng(0)
    logits = rng.normal(scale=3, size=(count, 3)).astype(np.float32)
    chance = np.exp(logits / temperature)
    chance /= chance.sum(axis=1, keepdims=True)
    return logits, (chance.cumsum(axis=1) < rng.random((count, 1))).sum(axis=1)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_the_temperature_that_made_the_truth_is_found(temperature: float) -> None:
    logits, truth = honest(40_000, temperature)
    assert fit_temperature(logits, truth) == pytest.approx(temperature, rel=0.04)
    assert calibration_error(logits / temperature, truth) < 0.01


def test_a_network_that_is_too_sure_has_an_error() -> None:
    logits, truth = honest(40_000, 3.0)
    by_hand = 0.0
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == truth
    for low in np.arange(15) / 15:
        inside = (confidence >= low) & (confidence < low + 1 / 15)
        if inside.any():
            by_hand += inside.mean() * abs(confidence[inside].mean() - right[inside].mean())
    assert by_hand > 0.1
    assert calibration_error(logits, truth) == pytest.approx(by_hand, abs=1e-3)


def labelled(root: Path, model: Path, temperature: float) -> Path:
    """Noise, with truth drawn from what the model says after division by `temperature`."""
    rng = np.random.default_rng(0)
    predictor = ImagePredictor(load_model(model), View(), device="cpu", precision="fp32")
    for part in ("images", "masks"):
        (root / "val" / part).mkdir(parents=True)
    for name in "abcd":
        rgb = rng.integers(0, 256, (192, 240, 3), dtype=np.uint8)
        chance = softmax(predictor.logits(rgb, mpp=MPP) / temperature, axis=0)
        truth = (chance.cumsum(axis=0) < rng.random(rgb.shape[:2])).sum(axis=0).clip(max=2)
        Image.fromarray(rgb).save(root / "val" / "images" / f"{name}.png")
        Image.fromarray(truth.astype(np.uint8)).save(root / "val" / "masks" / f"{name}.png")
    rows = "\n".join(f'[[classes]]\nname = "{c.name}"\ncolor = {list(c.color)}\n' for c in CLASSES.classes)
    (root / "classes.toml").write_text(f"mpp = {MPP}\n{rows}")
    return root


@pytest.mark.parametrize("architecture", ["espnet", "espnet-c"])
def test_a_calibrated_model_says_the_same_as_surely_as_it_is_right(tmp_path: Path, architecture: str) -> None:
    model = tiny_model(tmp_path / "tiny.safetensors", architecture=architecture)  # type: ignore[arg-type]
    folder = labelled(tmp_path / "data", model, 0.1)
    done = calibrate(model, "folder", tmp_path / "calibrated.safetensors", data=folder)
    assert done.temperature == pytest.approx(0.1, rel=0.15)
    assert done.after < done.before
    assert done.px == 4 * 48 * 60
    before, after = load_model(model), load_model(done.model)
    assert after.card.temperature == pytest.approx(done.temperature, abs=1e-4)
    assert after.card.scores[ERROR] == round(done.after, 4)
    x = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        raw, cool = before.module(x), after.module(x)
    torch.testing.assert_close(cool * done.temperature, raw, rtol=1e-4, atol=1e-4)
    again = calibrate(done.model, "folder", tmp_path / "again.safetensors", data=folder)
    assert again.temperature == pytest.approx(1.0, abs=0.01)
    assert load_model(again.model).card.temperature == pytest.approx(done.temperature, rel=0.01)


def test_answers_that_have_nothing_to_do_with_the_truth_are_refused(tmp_path: Path) -> None:
    model = tiny_model(tmp_path / "tiny.safetensors")
    folder = labelled(tmp_path / "data", model, -0.1)  # the less likely, the likelier
    with pytest.raises(DataError, match="no temperature"):
        calibrate(model, "folder", tmp_path / "x.safetensors", data=folder)
    assert not (tmp_path / "x.safetensors").exists()


def test_other_classes_and_files_that_are_there_are_refused(tmp_path: Path) -> None:
    model = tiny_model(tmp_path / "tiny.safetensors")
    folder = labelled(tmp_path / "data", model, 1.0)
    with pytest.raises(OutputError, match="exists"):
        calibrate(model, "folder", model, data=folder)
    (folder / "classes.toml").write_text((folder / "classes.toml").read_text().replace("gland", "fat"))
    with pytest.raises(UsageError, match=r"knows glass, stroma, gland, .* has glass, stroma, fat"):
        calibrate(model, "folder", tmp_path / "x.safetensors", data=folder)
    assert not (tmp_path / "x.safetensors").exists()
