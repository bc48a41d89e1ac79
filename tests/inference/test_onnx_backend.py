"""Exported files in place of torch: the same masks, and what is refused."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import zarr
from PIL import Image
from small import blobs, small_slide, some_of_camvid, tiny_model

from wsi_espnet.errors import ModelError, UsageError
from wsi_espnet.evaluate import evaluate
from wsi_espnet.export import export
from wsi_espnet.inference.backends import choose_backend, choose_execution, open_labeller, open_predictor
from wsi_espnet.inference.images import ImagePredictor
from wsi_espnet.inference.onnx_backend import ensure_provider
from wsi_espnet.inference.onnx_file import read_onnx
from wsi_espnet.inference.predictor import Execution
from wsi_espnet.inference.torch_backend import TorchPredictor
from wsi_espnet.inference.view import Size, View
from wsi_espnet.models.weights import load_model
from wsi_espnet.segment import segment

FP32 = Execution("cpu", "fp32", batch=1)
GRAPHS = ["onnx", pytest.param("openvino", marks=pytest.mark.slow)]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache/wsi-espnet/onnx"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("weights") / "tiny.safetensors")


@pytest.fixture(scope="module")
def exported(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(weights, tmp_path_factory.mktemp("exported")).files[0]


def written(weights: Path, folder: Path, **how: Any) -> Path:
    return export(weights, folder, precision="fp32", **how).files[0]


def on(backend: str) -> Execution:
    return Execution("cpu", "fp32", batch=1, backend=backend)


def need(backend: str) -> None:
    if backend == "openvino":
        pytest.importorskip("openvino", reason="needs the extra openvino, which is not installed")


@pytest.mark.parametrize("backend", GRAPHS)
def test_windows_have_the_labels_and_probabilities_of_torch(weights: Path, exported: Path, backend: str) -> None:
    need(backend)
    windows = np.stack([blobs(128, 200, seed=i) for i in range(2)])
    wanted = TorchPredictor(weights, FP32).predict(windows)
    said = open_predictor(exported, on(backend)).predict(windows)
    assert said.labels.dtype == said.probabilities.dtype == np.uint8
    assert (said.labels == wanted.labels).mean() >= 0.9999
    assert np.abs(said.probabilities.astype(int) - wanted.probabilities).max() <= 1


@pytest.mark.parametrize("backend", GRAPHS)
def test_threads_get_their_own_answers(exported: Path, backend: str) -> None:
    need(backend)
    predictor = open_predictor(exported, on(backend))
    windows = [blobs(64 + 8 * (i % 3), 96, seed=i)[None] for i in range(12)]
    alone = [predictor.predict(window).labels for window in windows]
    with ThreadPoolExecutor(4) as pool:
        for wanted, said in zip(alone, pool.map(predictor.predict, windows), strict=True):
            np.testing.assert_array_equal(said.labels, wanted)


VIEWS = {
    "as it is": View(),
    "resized": View(size=Size(72, 104)),
    "shrunk": View(size=Size(16, 24)),
    "averaged": View(scales=(0.75, 1.0, 1.3), flip=True),
}


@pytest.mark.parametrize("view", VIEWS.values(), ids=list(VIEWS))
@pytest.mark.parametrize("architecture", ["espnet", "espnet-c"])
def test_pictures_of_any_size_have_the_labels_of_torch(tmp_path: Path, architecture: Any, view: View) -> None:
    path = tiny_model(tmp_path / "m.safetensors", architecture=architecture)
    rgb = blobs(61, 90)
    wanted = ImagePredictor(load_model(path), view, device="cpu", precision="fp32").labels(rgb)
    said = open_labeller(written(path, tmp_path), view, backend=None, device="cpu", precision="fp32").labels(rgb)
    assert said.shape == (61, 90)
    assert (said == wanted).mean() >= 0.9995
    assert len(np.unique(wanted)) > 1


@pytest.mark.parametrize("how", [{"backend": "onnx"}, {"model": "exported"}])
def test_a_slide_has_the_mask_of_torch(
    weights: Path, exported: Path, tmp_path: Path, how: dict[str, str], cache: Path
) -> None:
    slide = small_slide(tmp_path / "slide.svs", blobs(600, 800))
    wanted = segment(slide, tmp_path / "torch", model=weights, precision="fp32")
    model = exported if "model" in how else weights
    found = segment(slide, tmp_path / "onnx", model=model, backend=how.get("backend"), precision="fp32")
    assert found.execution.backend == "onnx"
    a, b = (np.asarray(zarr.open_group(run.path, mode="r")["labels/classes/0"]) for run in (found, wanted))
    assert a.shape == (600, 800)
    assert (a == b).mean() >= 0.9999
    assert len(np.unique(b)) > 1
    assert cache.is_dir() == ("backend" in how)


def test_a_run_through_another_program_does_not_go_on_with_this_one(
    weights: Path, exported: Path, tmp_path: Path
) -> None:
    from wsi_espnet.errors import ResumeError

    slide = small_slide(tmp_path / "slide.svs", blobs(300, 400))
    segment(slide, tmp_path / "out", model=weights, precision="fp32")
    with pytest.raises(ResumeError):
        segment(slide, tmp_path / "out", model=exported)


PROGRAM = """
import sys
from wsi_espnet.cli.main import run
sys.argv[0] = "wsi-espnet"
run()
"""


@pytest.mark.parametrize("command", ["segment", "batch", "predict", "evaluate"])
def test_torch_is_not_needed(exported: Path, tmp_path: Path, command: str) -> None:
    small_slide(tmp_path / "slide.svs", blobs(300, 400))
    for kind, content in (("images", blobs(64, 96)), ("masks", np.zeros((64, 96), np.uint8))):
        (tmp_path / "data" / kind).mkdir(parents=True)
        Image.fromarray(content).save(tmp_path / "data" / kind / "a.png")
    (tmp_path / "classes.json").write_text(read_onnx(exported).card.classes.model_dump_json())
    arguments = {
        "segment": ["segment", "slide.svs", "-m", exported, "-o", "out"],
        "batch": ["batch", "slide.svs", "-m", exported, "-o", "out", "--workers", "1"],
        "predict": ["predict", exported, "data/images", "-o", "out", "--size", "48x40"],
        "evaluate": ["evaluate", exported, "glas", "--data", "absent"],
    }[command]
    # Found before the real one, by the workers of a batch too.
    (tmp_path / "blocked").mkdir()
    (tmp_path / "blocked" / "torch.py").write_text('raise ImportError("torch is blocked")')
    path = os.pathsep.join([str(tmp_path / "blocked"), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *map(str, arguments)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    if command == "evaluate":  # gets as far as looking for the data
        assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
        assert "absent" in done.stderr
    else:
        assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_camvid_scores_are_those_of_torch(shared: Path, tmp_path: Path) -> None:
    from wsi_espnet.models.importer import import_pth
    from wsi_espnet.models.weights import save_model

    module, card = import_pth(shared / "data/weights/espnet/decoder/espnet_p_2_q_8_camvid.pth", name="camvid")
    model = save_model(tmp_path / "camvid.safetensors", module, card)
    file, half = export(model, tmp_path / "out").files[:2]
    few = some_of_camvid(shared / "data/camvid", tmp_path / "camvid", 6)
    wanted = evaluate(model, "camvid", data=few)
    said = evaluate(file, "camvid", data=few)
    assert (wanted.about["backend"], said.about["backend"]) == ("torch", "onnx")
    assert said.scores.means["mIoU"] == pytest.approx(wanted.scores.means["mIoU"], abs=1e-4)
    halved = evaluate(half, "camvid", data=few, precision="fp16")
    assert halved.scores.means["mIoU"] == pytest.approx(wanted.scores.means["mIoU"], abs=1e-3)


def test_weights_are_exported_once(weights: Path, cache: Path) -> None:
    first = choose_backend(weights, "onnx")
    made = {path: path.stat().st_mtime_ns for path in cache.iterdir()}
    assert list(made) == [first.path]
    assert choose_backend(weights, "onnx") == first
    assert {path: path.stat().st_mtime_ns for path in cache.iterdir()} == made
    half = choose_backend(weights, "onnx", precision="fp16")
    assert half.path != first.path
    assert read_onnx(half.path).precision == "fp16"


def test_what_does_not_go_together_is_refused(weights: Path, exported: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--backend must be torch, onnx, openvino, got 'abacus'"):
        choose_backend(weights, "abacus")
    with pytest.raises(UsageError, match=r"--backend torch runs \.safetensors files"):
        choose_backend(exported, "torch")
    chosen = choose_backend(exported, None)
    how: dict[str, Any] = {"device": "cpu", "precision": "auto", "batch": 1}
    for change, words in {
        ("precision", "fp16"): "computes in fp32, and --precision asks for fp16",
        ("batch", 0): "--batch must be 1 or more",
        ("device", "tpu"): "--device must be auto, cpu, cuda or cuda:N",
        ("device", "cuda"): "a build without CUDA",
    }.items():
        if change == ("device", "cuda"):
            import onnxruntime

            if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
                continue
        with pytest.raises(UsageError, match=words):
            choose_execution(chosen, **how | dict([change]))


def test_another_device_than_asked_for_is_refused() -> None:
    class Session:
        def get_providers(self) -> list[str]:
            return ["CPUExecutionProvider"]

    ensure_provider(Session(), "CPUExecutionProvider")
    with pytest.raises(UsageError, match="was to use CUDAExecutionProvider and uses CPUExecutionProvider"):
        ensure_provider(Session(), "CUDAExecutionProvider")


def test_files_that_cannot_be_used_are_refused(weights: Path, tmp_path: Path) -> None:
    (tmp_path / "text.onnx").write_text("no graph\n" * 9)
    (tmp_path / "empty.onnx").touch()
    for name in ("text.onnx", "empty.onnx"):
        with pytest.raises(ModelError, match="not an ONNX file, or is damaged"):
            read_onnx(tmp_path / name)
    graph = onnx.load_model(str(written(weights, tmp_path)))
    del graph.metadata_props[:]
    onnx.save_model(graph, str(tmp_path / "foreign.onnx"))
    with pytest.raises(ModelError, match="holds no model card"):
        read_onnx(tmp_path / "foreign.onnx")


def test_a_file_of_one_size_is_for_pictures_of_that_size(weights: Path, tmp_path: Path) -> None:
    file = written(weights, tmp_path, size=(64, 96))
    with pytest.raises(UsageError, match=r"takes images of 96x64 px alone, and windows of a slide have many sizes"):
        open_predictor(file, on("onnx"))
    labeller = open_labeller(file, View(), backend=None, device="cpu", precision="fp32")
    assert labeller.labels(blobs(64, 96)).shape == (64, 96)
    with pytest.raises(UsageError, match="px alone, got 104x64; give --size 96x64"):
        labeller.labels(blobs(64, 100))
    resized = open_labeller(file, View(size=Size(64, 96)), backend=None, device="cpu", precision="fp32")
    assert resized.labels(blobs(100, 100)).shape == (100, 100)


def test_a_file_without_the_outputs_that_are_needed_is_refused(weights: Path, tmp_path: Path) -> None:
    file = written(weights, tmp_path, outputs=["labels"])
    with pytest.raises(ModelError, match="gives labels, and probabilities is needed here"):
        open_predictor(file, on("onnx"))
    with pytest.raises(ModelError, match="gives labels, and logits is needed here"):
        open_labeller(file, View(), backend=None, device="cpu", precision="fp32")


def test_eight_bit_files_take_pictures_as_they_are(weights: Path, tmp_path: Path) -> None:
    file = written(weights, tmp_path, input="uint8")
    rgb = blobs(64, 96)
    wanted = ImagePredictor(load_model(weights), View(), device="cpu", precision="fp32").labels(rgb)
    said = open_labeller(file, View(), backend=None, device="cpu", precision="fp32").labels(rgb)
    assert (said == wanted).mean() >= 0.9999
    resized = open_labeller(file, View(size=Size(40, 48)), backend=None, device="cpu", precision="fp32")
    with pytest.raises(UsageError, match="takes 8-bit images"):
        resized.labels(rgb)


def test_values_that_are_not_finite_are_refused(tmp_path: Path, exported: Path) -> None:
    graph = onnx.load_model(str(exported))
    for weight in graph.graph.initializer:
        if weight.name.endswith("classifier.weight"):
            weight.CopyFrom(onnx.numpy_helper.from_array(np.full(list(weight.dims), np.nan, np.float32), weight.name))
    onnx.save_model(graph, str(tmp_path / "broken.onnx"))
    with pytest.raises(ModelError, match="values that are not finite"):
        open_predictor(tmp_path / "broken.onnx", on("onnx")).predict(blobs(64, 64)[None])
