"""A model file through torch: what goes in, what comes out, and what is refused."""

from __future__ import annotations

import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from wsi_espnet.errors import ModelError, UsageError
from wsi_espnet.inference.predictor import Execution, Precision
from wsi_espnet.inference.torch_backend import TorchPredictor, choose_execution, network_bytes
from wsi_espnet.models.card import ModelCard, Normalisation
from wsi_espnet.models.catalog import class_table, find_model, read_card
from wsi_espnet.models.espnet import build
from wsi_espnet.models.network_config import EspNetConfig
from wsi_espnet.models.weights import save_model

FP32 = Execution("cpu", "fp32", batch=1)


def save(path: Path, *, architecture: str = "espnet", order: str = "rgb", broken: bool = False) -> Path:
    torch.manual_seed(0)
    config = EspNetConfig(architecture=architecture, p=1, q=1, classes=3)
    module = build(config).eval()
    if broken:
        next(module.parameters()).data.fill_(float("nan"))
    card = ModelCard(
        format=1,
        name="small",
        summary="random weights",
        network=config,
        classes=class_table("glas-grade"),
        mpp=0.5,
        normalisation=Normalisation(order=order, mean=(10.0, 20.0, 30.0), std=(50.0, 60.0, 70.0), divide=2.0),
        data="none",
        terms="none",
        split="none",
        scores={},
        limits="random",
        source="a test",
    )
    return save_model(path, module, card)


@pytest.fixture
def windows() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (2, 64, 96, 3), dtype=np.uint8)


def logits(predictor: TorchPredictor, path: Path, windows: np.ndarray, order: str) -> torch.Tensor:
    """An independent way: the card's own normalisation, the bare module, torch's softmax."""
    from wsi_espnet.models.weights import load_model

    loaded = load_model(path)
    batch = np.stack([loaded.card.normalisation.apply(window) for window in windows])
    with torch.inference_mode():
        out = loaded.module(torch.from_numpy(batch))
    if out.shape[-2:] != windows.shape[1:3]:
        out = torch.nn.functional.interpolate(out, size=windows.shape[1:3], mode="bilinear", align_corners=False)
    return out


@pytest.mark.parametrize("order", ["rgb", "bgr"])
@pytest.mark.parametrize("architecture", ["espnet", "espnet-c"])
def test_prediction_is_softmax_and_argmax_of_the_bare_network(
    tmp_path: Path, windows: np.ndarray, architecture: str, order: str
) -> None:
    path = save(tmp_path / "m.safetensors", architecture=architecture, order=order)
    predictor = TorchPredictor(path, FP32)
    labels, probabilities = predictor.predict(windows)
    expected = logits(predictor, path, windows, order)
    assert labels.dtype == probabilities.dtype == np.uint8
    assert (labels == expected.argmax(1).numpy()).mean() > 0.9999
    wanted = torch.softmax(expected, 1).numpy() * 255
    assert np.abs(probabilities.astype(float) - wanted).max() <= 0.5 + 1e-2


def test_windows_that_may_not_be_written_to_are_taken_without_a_warning(tmp_path: Path, windows: np.ndarray) -> None:
    predictor = TorchPredictor(save(tmp_path / "m.safetensors"), FP32)
    sent = windows.copy()
    sent.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(predictor.predict(sent).labels, predictor.predict(windows).labels)


def test_many_threads_say_what_one_says(tmp_path: Path, windows: np.ndarray) -> None:
    predictor = TorchPredictor(save(tmp_path / "m.safetensors"), FP32)
    alone = predictor.predict(windows)
    with ThreadPoolExecutor(4) as pool:
        for labels, probabilities in pool.map(lambda _: predictor.predict(windows), range(8)):
            np.testing.assert_array_equal(labels, alone.labels)
            np.testing.assert_array_equal(probabilities, alone.probabilities)


def test_bf16_agrees_with_fp32_nearly_everywhere(tmp_path: Path, shared: Path) -> None:
    from PIL import Image

    image = next((shared / "data/glas/images").glob("testA_1*.jpg"))
    window = np.array(Image.open(image).convert("RGB"))[None, :512, :768]
    full = TorchPredictor("glas-colon", FP32).predict(window).labels
    half = TorchPredictor("glas-colon", Execution("cpu", "bf16", batch=1)).predict(window).labels
    assert (full == half).mean() > 0.98


def test_weights_that_give_no_numbers_are_reported(tmp_path: Path, windows: np.ndarray) -> None:
    predictor = TorchPredictor(save(tmp_path / "m.safetensors", broken=True), FP32)
    with pytest.raises(ModelError, match="not finite"):
        predictor.predict(windows)


def choose(**changes: object) -> Execution:
    asked: dict[str, object] = {"device": "cpu", "precision": "fp32", "batch": 1}
    return choose_execution(**(asked | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"device": "gpu"}, "auto, cpu, cuda or cuda:N"),
        ({"device": "cuda:x"}, "auto, cpu, cuda or cuda:N"),
        ({"device": "cuda:99"}, "CUDA devices"),
        ({"precision": "int8"}, "fp32, bf16 or fp16"),
        ({"batch": 0}, "1 or more"),
    ],
)
def test_what_cannot_work_is_refused(changes: dict[str, object], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        choose(**changes)


def test_memory_grows_with_px_classes_and_batch(tmp_path: Path) -> None:
    names = ("espnet", "espnet-c")
    cards = {name: read_card(save(tmp_path / f"{name}.safetensors", architecture=name)) for name in names}

    def needed(px: int, *, batch: int = 1, architecture: str = "espnet", precision: Precision = "fp32") -> int:
        execution = Execution("cpu", precision, batch=batch)
        return network_bytes(px, card=cards[architecture], execution=execution)

    small = needed(1000)
    assert needed(2000) == 2 * small
    assert needed(1000, batch=4) == 4 * small
    assert needed(1000, precision="bf16") < small
    assert needed(1000, architecture="espnet-c") > small  # whole
    assert needed(1000, precision="fp16") > small
    three, more = (
        network_bytes(1000, card=read_card(find_model(name)), execution=FP32)
        for name in ("glas-colon", "camvid-street")
    )
    assert three == small < more
