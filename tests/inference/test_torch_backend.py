"""A model file through torch: what goes in, what comes out, and what is refused."""

from __future__ import annotations

import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from small import tiny_model
from torch._dynamo.utils import counters

from wsi_espnet.errors import ModelError, UsageError
from wsi_espnet.inference.compiled import compile_network, digest
from wsi_espnet.inference.predictor import Execution, Precision
from wsi_espnet.inference.torch_backend import TorchPredictor, choose_execution, network_bytes
from wsi_espnet.models.card import ModelCard, Normalisation
from wsi_espnet.models.catalog import class_table, find_model, read_card
from wsi_espnet.models.espnet import build
from wsi_espnet.models.network_config import EspNetConfig
from wsi_espnet.models.weights import save_model

FP32 = Execution("cpu", "fp32", compiled=False, batch=1)


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
    half = TorchPredictor("glas-colon", Execution("cpu", "bf16", compiled=False, batch=1)).predict(window).labels
    assert (full == half).mean() > 0.98


COMPILED = Execution("cpu", "fp32", compiled=True, batch=1)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for compiled networks that starts empty."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def kept(cache: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in cache.glob("network-*.bin")}


def agreement(predictor: TorchPredictor, other: TorchPredictor) -> float:
    """Least share of px with the same label, over windows of several sizes."""
    shares = []
    for shape in ((8, 16), (512, 512), (832, 896), (64, 11648), (1536, 512)):
        window = np.random.default_rng(1).integers(0, 256, (1, *shape, 3), dtype=np.uint8)
        shares.append((predictor.predict(window).labels == other.predict(window).labels).mean())
    return min(shares)


def ensure_takes_batches_and_views(compiled: TorchPredictor) -> None:
    rgba = np.random.default_rng(2).integers(0, 256, (2, 832, 896, 4), dtype=np.uint8)
    together = compiled.predict(rgba[..., :3])
    for n in range(2):
        alone = compiled.predict(np.ascontiguousarray(rgba[n, ..., :3])[None])  # NumPy gives the new axis a stride of 0
        np.testing.assert_array_equal(together.labels[n], alone.labels[0])
        np.testing.assert_array_equal(together.probabilities[n], alone.probabilities[0])


@pytest.mark.slow
def test_one_compilation_serves_any_size_agrees_with_the_eager_network_and_is_kept(cache: Path, tmp_path: Path) -> None:
    path = tiny_model(tmp_path / "m.safetensors", architecture="encoder")  # compiled in half of the time of others
    torch.compiler.reset()
    counters.clear()
    compiled = TorchPredictor(path, COMPILED)
    eager = TorchPredictor(path, FP32)
    assert agreement(compiled, eager) > 0.999
    assert counters["stats"]["unique_graphs"] == 1
    ensure_takes_batches_and_views(compiled)
    first = kept(cache)
    assert len(first) == 1

    counters.clear()
    again = TorchPredictor(path, COMPILED)
    assert agreement(again, compiled) == 1
    assert counters["stats"]["unique_graphs"] == 0, "traced again although it was kept"
    assert kept(cache) == first


class Brightest(torch.nn.Module):
    """The smallest network that windows could go through: compiled in seconds."""

    def forward(self, windows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(B, H, W, 3) uint8 -> the brightest channel, how bright it is, and that this is a number."""
        brightest = windows.max(dim=-1)
        return brightest.indices.to(torch.uint8), brightest.values, torch.tensor(True)


@torch.no_grad()
def test_a_damaged_file_of_a_kept_network_is_compiled_anew(cache: Path) -> None:
    network = Brightest()
    windows = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (1, 1024, 1088, 3), dtype=np.uint8))
    labels, _, _ = compile_network(network, "brightest", sources=[])(windows)
    assert torch.equal(labels, network(windows)[0])
    ((path, written),) = kept(cache).items()
    compile_network(network, "brightest", sources=[])
    assert kept(cache) == {path: written}

    path.write_bytes(path.read_bytes()[:1000])
    again, _, _ = compile_network(network, "brightest", sources=[])(windows)
    assert torch.equal(again, labels)
    ((mended, rewritten),) = kept(cache).items()
    assert mended == path
    assert rewritten != written
    assert path.stat().st_size > 1000


def test_what_machine_code_depends_on_is_in_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = tmp_path / "network.py"
    code.write_text("one")
    name = digest("weights fp32", [code])
    assert digest("weights fp32", [code]) == name
    others = {digest("weights bf16", [code]), digest("others fp32", [code])}
    code.write_text("two")
    others.add(digest("weights fp32", [code]))
    code.write_text("one")
    monkeypatch.setattr(torch, "__version__", "3.0")
    others.add(digest("weights fp32", [code]))
    assert len(others - {name}) == 4


def test_weights_that_give_no_numbers_are_reported(tmp_path: Path, windows: np.ndarray) -> None:
    predictor = TorchPredictor(save(tmp_path / "m.safetensors", broken=True), FP32)
    with pytest.raises(ModelError, match="not finite"):
        predictor.predict(windows)


def choose(**changes: object) -> Execution:
    asked: dict[str, object] = {"device": "cpu", "precision": "fp32", "compiled": False, "batch": 1}
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
        execution = Execution("cpu", precision, compiled=False, batch=batch)
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
