"""`export` and `export check` as users meet them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from small import Call, run_process


def test_export_says_what_it_wrote_and_how_it_compares(wsi_espnet: Call, bench: Path, tmp_path: Path) -> None:
    told = wsi_espnet("export", bench / "tiny.safetensors", "-o", tmp_path, "--precision", "fp32")
    assert told.status == 0, told.err
    assert f"{tmp_path}/gpu/tiny.onnx  labels as in torch: 100.00%, largest difference " in told.out
    told = wsi_espnet("export", bench / "tiny.safetensors", "-o", tmp_path, "--json", "--overwrite")
    said = json.loads(told.out)
    assert said["against_torch"][f"{tmp_path}/gpu/tiny.onnx"]["same_labels"] >= 0.9999
    assert len(said["files"]) == 4


def test_export_check_names_the_fault_and_fails(wsi_espnet: Call, bench: Path, tmp_path: Path) -> None:
    model = bench / "tiny.safetensors"
    wsi_espnet("export", model, "-o", tmp_path, "--opset", 17, "--size", "96x64", "--outputs", "logits")
    told = wsi_espnet("export", "check", tmp_path / "gpu/tiny.onnx", "--profile", "tx2")
    assert told.status == 1
    assert told.out.splitlines()[0].startswith("file: opset 17, and TensorRT 8.2 reads up to 13")
    assert told.err.startswith("error: ")
    assert "2 faults, the first: file: opset 17" in told.err
    wsi_espnet("export", model, "-o", tmp_path / "b", "--opset", 13, "--size", "96x64", "--outputs", "logits")
    told = wsi_espnet("export", "check", tmp_path / "b/gpu/tiny.onnx")
    assert (told.status, told.out) == (0, f"{tmp_path}/b/gpu/tiny.onnx fits tx2\n")


def test_bad_words_are_one_sentence(wsi_espnet: Call, bench: Path, tmp_path: Path) -> None:
    model = bench / "tiny.safetensors"
    wsi_espnet("export", model, "-o", tmp_path, "--size", "100x64").assert_refused(2, "multiples of 8", "use 96x64")
    wsi_espnet("export", model, "-o", tmp_path, "--opset", 9).assert_refused(2, "--opset must be 11 to 20, got 9")
    wsi_espnet("export", model, "-o", tmp_path, "--outputs", "x").assert_refused(2, "got x")
    wsi_espnet("export", model).assert_refused(2, "--out")
    wsi_espnet("export", "absent", "-o", tmp_path).assert_refused(1, "no model 'absent'")
    wsi_espnet("export", "check", bench / "text.png").assert_refused(1, "not an ONNX file")
    wsi_espnet("export", "check").assert_refused(2, "file")
    assert not list(tmp_path.iterdir())


@pytest.fixture
def without_onnx(tmp_path: Path) -> dict[str, str]:
    """The environment of a process that has no onnx and no onnxruntime."""
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules.update(onnx=None, onnxruntime=None)\n")
    return os.environ | {"PYTHONPATH": str(tmp_path)}


@pytest.mark.parametrize(
    "words",
    [
        ["export", "tiny.safetensors", "-o", "OUT"],
        ["export", "check", "tiny.onnx"],
        ["segment", "slide.svs", "-m", "tiny.safetensors", "--backend", "onnx", "-o", "OUT"],
    ],
    ids=" ".join,
)
def test_without_the_extra_it_is_named(
    words: list[str], bench: Path, tmp_path: Path, without_onnx: dict[str, str]
) -> None:
    out = str(tmp_path / "out")
    told = run_process(*(out if word == "OUT" else word for word in words), cwd=bench, env=without_onnx)
    told.assert_refused(1, "exporting needs onnx, onnxruntime: pip install 'wsi-espnet[export]'")
    assert not Path(out).exists()


def test_a_benchmark_without_its_packages_names_them(tmp_path: Path, without_onnx: dict[str, str]) -> None:
    words = [sys.executable, "-m", "wsi_espnet.bench", "--only", "frames", "--out", str(tmp_path / "out")]
    done = subprocess.run(words, env=without_onnx, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "error: the benchmark frames needs onnxruntime: pip install 'wsi-espnet[bench]'\n"
