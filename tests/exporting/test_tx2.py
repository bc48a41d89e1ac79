"""What goes to a Jetson TX2: the files, and the programs among them, run under the interpreters that it has."""

from __future__ import annotations

import ctypes
import importlib.util
import json
import shutil
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from PIL import Image
from small import blobs

from wsi_espnet.errors import ModelError, UsageError
from wsi_espnet.exporting import tx2 as module
from wsi_espnet.exporting.bundle import Bundle, Request
from wsi_espnet.exporting.profile import Offence, check_file
from wsi_espnet.exporting.tx2 import SLIDE_PX, STREET_PX, tx2
from wsi_espnet.models.weights import LoadedModel

SIZE = (64, 96)
PROJECT = Path(__file__).resolve().parents[2]
OLD = PROJECT / ".old-pythons"
"""Environments of old interpreters, made once: what they need comes from the package index."""

PACKAGES = {
    # edge.md and PyPI: the last onnxruntime for CPython 3.6 on x86, and the version of NVIDIA's wheel for JetPack 4.6.
    "3.6": ("onnxruntime==1.10.0", "numpy==1.19.5", "protobuf==3.19.6", "Pillow==8.4.0"),
    "3.9": ("onnxruntime==1.11.0", "numpy==1.23.5", "protobuf==3.20.3", "Pillow==11.3.0"),
}


def write(bundle: Bundle, folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in bundle.files.items():
        (folder / name).write_bytes(content)
        (folder / name).chmod(0o755 if name in bundle.executable else 0o644)
    return folder


@pytest.fixture(scope="module")
def folder(tiny: LoadedModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tx2(Request(tiny, size=SIZE)), tmp_path_factory.mktemp("tx2"))


@pytest.fixture(scope="module")
def program(folder: Path) -> Any:
    """run_tx2.py as a module."""
    return load(folder / "run_tx2.py")


def load(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def find_interpreter(version: str) -> Path | None:
    """A CPython of this version: of pyenv, else on the PATH."""
    kept = sorted((Path.home() / ".pyenv/versions").glob(f"{version}.*/bin/python{version}"))
    on_path = shutil.which(f"python{version}")
    candidates = [*kept, *([Path(on_path)] if on_path else [])]
    works = (p for p in candidates if subprocess.run([p, "-c", ""], capture_output=True, check=False).returncode == 0)
    return next(works, None)


@pytest.fixture(scope="session", params=list(PACKAGES))
def old_python(request: pytest.FixtureRequest) -> Path:
    version = request.param
    interpreter = find_interpreter(version)
    if interpreter is None:
        pytest.skip(f"needs a CPython {version}, which is neither in pyenv nor on the PATH")
    home = OLD / version
    python = home / "bin" / "python"
    if not (home / "ready").is_file():
        subprocess.run([interpreter, "-m", "venv", "--clear", home], check=True)
        # The pip of 3.6 itself does not know today's names of wheels.
        for packages in (("--upgrade", "pip<22"), PACKAGES[version]):
            subprocess.run(
                [python, "-m", "pip", "install", "-q", "--no-compile", *packages], check=True, stderr=subprocess.DEVNULL
            )
        (home / "ready").touch()
    return python


def run(python: Path | str, *arguments: object, **how: Any) -> subprocess.CompletedProcess[str]:
    command = [str(python), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, **how)


@pytest.mark.slow
@pytest.mark.parametrize("which", ["colon", "camvid"])
def test_old_interpreters_give_our_labels(
    old_python: Path, which: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    folder = write(tx2(Request(request.getfixturevalue(which), size=(128, 256))), tmp_path / "tx2")
    Image.fromarray(blobs(300, 400)).save(tmp_path / "large.png")
    done = run(old_python, folder / "run_tx2.py", "--check", "--frames", 2)
    assert done.returncode == 0, done.stderr
    assert "CPUExecutionProvider" in done.stdout
    assert "golden labels: 100.0000% the same" in done.stdout
    assert " fps (median " in done.stdout
    done = run(old_python, folder / "run_tx2.py", tmp_path / "large.png", "--windows", 32, "-o", tmp_path / "old")
    assert done.returncode == 0, done.stderr
    done = run(sys.executable, folder / "run_tx2.py", tmp_path / "large.png", "--windows", 32, "-o", tmp_path / "new")
    assert done.returncode == 0, done.stderr
    old, new = (np.asarray(Image.open(tmp_path / age / "large.png")) for age in ("old", "new"))
    assert old.shape == (300, 400)
    assert (old == new).mean() >= 0.9999


@pytest.mark.slow
def test_old_interpreters_run_the_power_program(old_python: Path, tmp_path: Path) -> None:
    sensors(tmp_path)
    power = PROJECT / "wsi_espnet/exporting/board/power_tx2.py"
    command = [old_python, "-c", "pass"]
    done = run(old_python, power, "--frames", 4, "--idle", 0.1, "--sensors", tmp_path, "--", *command)
    assert done.returncode == 0, done.stderr
    assert "VDD_IN" in done.stdout


def test_the_file_fits_the_board(folder: Path) -> None:
    assert check_file(folder / "model.onnx", "tx2") == []
    graph = onnx.load_model(str(folder / "model.onnx"))
    assert (graph.ir_version, graph.opset_import[0].version) == (7, 13)
    image, labels = np.load(folder / "golden_input.npy"), np.load(folder / "golden_output.npy")
    assert (image.shape, image.dtype, labels.shape, labels.dtype) == ((1, 3, *SIZE), "f4", (1, *SIZE), "i4")
    said = onnxruntime.InferenceSession(str(folder / "model.onnx")).run(None, {"image": image})
    np.testing.assert_array_equal(said[0], labels)
    assert (folder / "labels.txt").read_text() == "glass\nstroma\ngland\n"


def test_street_and_slide_models_have_sizes_of_their_own(
    camvid: LoadedModel, tiny: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def checked(model: LoadedModel, spec: Any, precision: str) -> Any:
        asked.append(spec.size)
        raise ModelError("far enough")

    monkeypatch.setattr(module, "checked_graph", checked)
    for model in (camvid, tiny):
        with pytest.raises(ModelError, match="far enough"):
            tx2(Request(model))
    assert asked == [STREET_PX, SLIDE_PX]


def test_what_the_board_cannot_read_is_refused(tiny: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    for wrong, words in (
        ({"opset": 17}, "--opset must be 11 to 13 for tx2, got 17"),
        ({"input": "uint8"}, "--input must be float32 for tx2"),
        ({"outputs": ("logits",)}, "--outputs must have labels among them"),
    ):
        with pytest.raises(UsageError, match=words):
            tx2(Request(tiny, **wrong))
    monkeypatch.setattr(module, "check_graph", lambda graph, profile: [Offence("node n", "operator X")])
    with pytest.raises(ModelError, match="does not fit tx2: node n: operator X"):
        tx2(Request(tiny, size=SIZE))


def test_pictures_become_palette_masks(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    rgb = blobs(*SIZE)
    Image.fromarray(rgb).save(tmp_path / "in/a.png")
    done = run(sys.executable, folder / "run_tx2.py", tmp_path / "in", "-o", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert "tiny 96x64 px, onnxruntime" in done.stdout
    assert "1 pictures, " in done.stdout
    mask = Image.open(tmp_path / "out/a.png")
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"))
    wanted = session.run(None, {"image": rgb.transpose(2, 0, 1)[None].astype(np.float32)})[0][0]
    np.testing.assert_array_equal(np.asarray(mask), wanted)
    assert mask.getpalette()[3:6] == [230, 120, 160]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["large.png"], "has 100x90 px and the network takes 96x64; add --resize or --windows"),
        (["absent.png"], "cannot be read as a picture"),
        (["text.png"], "cannot be read as a picture"),
        (["empty"], "there are no pictures in empty"),
        ([], "give pictures, or --check"),
        (["large.png", "--windows", "32"], "--windows must leave a core: 0 to 31 px, got 32"),
        (["large.png", "--backend", "tensorrt"], "there is no engine in "),
    ],
)
def test_what_it_cannot_do_it_says(folder: Path, tmp_path: Path, arguments: list[str], words: str) -> None:
    Image.fromarray(blobs(90, 100)).save(tmp_path / "large.png")
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "empty").mkdir()
    done = run(sys.executable, folder / "run_tx2.py", *arguments, cwd=tmp_path)
    assert done.returncode != 0
    assert words in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("shape", [(64, 96), (90, 100), (20, 30), (129, 193)])
def test_windows_cover_a_picture_once(program: Any, shape: tuple[int, int]) -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    seen = []

    def red(image: np.ndarray) -> np.ndarray:
        seen.append(image.shape)
        return image[:, 0].astype(np.int32)

    np.testing.assert_array_equal(program.label(red, rgb, SIZE, 16), rgb[..., 0])
    assert set(seen) == {(1, 3, *SIZE)}
    assert len(seen) == -(-shape[0] // 32) * -(-shape[1] // 64)


def test_a_wrong_answer_fails_the_check(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "wrong")
    labels = np.load(tmp_path / "wrong/golden_output.npy")
    np.save(tmp_path / "wrong/golden_output.npy", labels + (np.arange(labels.size).reshape(labels.shape) % 100 == 0))
    done = run(sys.executable, tmp_path / "wrong/run_tx2.py", "--check", "--frames", 1)
    assert done.returncode == 1
    assert "golden labels: 98.99" in done.stdout
    assert "error: too few labels are the same; wanted 99.99%" in done.stderr


class FakeCuda:
    """The three calls of the CUDA runtime that run_tx2.py makes, in this machine's memory."""

    def __init__(self) -> None:
        self.kept: list[Any] = []

    def cudaMalloc(self, pointer: Any, size: ctypes.c_size_t) -> int:  # noqa: N802 - NVIDIA's names
        self.kept.append(ctypes.create_string_buffer(size.value))
        pointer._obj.value = ctypes.addressof(self.kept[-1])
        return 0

    def cudaMemcpy(self, to: Any, source: Any, size: Any, kind: Any) -> int:  # noqa: N802
        ctypes.memmove(to, source, size.value)
        return 0


class FakeEngine:
    """An engine that has the graph run by onnxruntime, on the addresses that it is given."""

    names = ("labels", "image")
    num_bindings = 2

    def __init__(self, path: Path) -> None:
        self.session = onnxruntime.InferenceSession(str(path))

    def get_binding_shape(self, which: str | int) -> tuple[int, ...]:
        name = self.names[which] if isinstance(which, int) else which
        return {"image": (1, 3, *SIZE), "labels": (1, *SIZE)}[name]

    def get_binding_index(self, name: str) -> int:
        return self.names.index(name)

    def create_execution_context(self) -> FakeEngine:
        return self

    def execute_v2(self, buffers: list[int]) -> bool:
        image = np.ctypeslib.as_array((ctypes.c_float * (3 * SIZE[0] * SIZE[1])).from_address(buffers[1]))
        labels = self.session.run(None, {"image": image.reshape(1, 3, *SIZE)})[0]
        ctypes.memmove(buffers[0], labels.ctypes.data, labels.nbytes)
        return True


def test_an_engine_goes_before_the_onnx_file(
    folder: Path, program: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The calls are those of TensorRT 8.2's documentation; TensorRT itself is not here."""
    shutil.copytree(folder, tmp_path / "board")
    (tmp_path / "board/model_fp16.engine").write_bytes(b"an engine")
    fake = types.SimpleNamespace(
        __version__="8.2.1",
        Logger=type("Logger", (), {"WARNING": 1, "__init__": lambda self, level: None}),
        Runtime=lambda logger: types.SimpleNamespace(
            deserialize_cuda_engine=lambda content: FakeEngine(folder / "model.onnx")
        ),
    )
    monkeypatch.setitem(sys.modules, "tensorrt", fake)
    monkeypatch.setattr(program.ctypes, "CDLL", lambda name: FakeCuda())
    assert program.main(["--check", "--frames", "3", "--model", str(tmp_path / "board")]) == 0
    said = capsys.readouterr().out
    assert "tiny 96x64 px, TensorRT 8.2.1" in said
    assert "golden labels: 100.0000% the same" in said


def test_engines_are_built_and_timed_by_trtexec(folder: Path, tmp_path: Path) -> None:
    trtexec = tmp_path / "trtexec"
    trtexec.write_text('#!/bin/sh\necho "$@" >> "$(dirname "$0")/said"\n')
    trtexec.chmod(0o755)
    for precision, flag in (("fp16", "--fp16 "), ("fp32", "")):
        done = run(folder / "build_engine.sh", precision, env={"TRTEXEC": str(trtexec), "PATH": "/usr/bin:/bin"})
        assert done.returncode == 0, done.stderr
        built, timed = (tmp_path / "said").read_text().splitlines()[-2:]
        assert built == f"--onnx=model.onnx {flag}--workspace=1024 --saveEngine=model_{precision}.engine"
        assert timed.startswith(f"--loadEngine=model_{precision}.engine --iterations=200")
    done = run(folder / "build_engine.sh", "int8", env={"TRTEXEC": str(trtexec), "PATH": "/usr/bin:/bin"})
    assert (done.returncode, done.stderr) == (2, "error: precision must be fp16 or fp32, got int8\n")
    done = run(folder / "build_engine.sh", env={"TRTEXEC": "/absent", "PATH": "/usr/bin:/bin"})
    assert (done.returncode, "no trtexec at /absent" in done.stderr) == (1, True)


def sensors(root: Path) -> None:
    """The two sensors of a TX2, as edge.md has them: rails by number, names beside them, power in mW."""
    rails = {"0-0041/iio:device1": ("VDD_IN", "VDD_SYS_CPU", "VDD_SYS_DDR"), "0-0040/iio:device0": ("VDD_SYS_GPU",)}
    for place, names in rails.items():
        (root / place).mkdir(parents=True)
        for number, name in enumerate(names):
            (root / place / f"rail_name_{number}").write_text(f"{name}\n")
            (root / place / f"in_power{number}_input").write_text(f"{1000 * (number + 2)}\n")


def test_rails_are_found_by_their_names(tmp_path: Path) -> None:
    power = load(PROJECT / "wsi_espnet/exporting/board/power_tx2.py")
    sensors(tmp_path)
    rails = power.find_rails(str(tmp_path))
    assert power.read_watts(rails) == {"VDD_IN": 2.0, "VDD_SYS_CPU": 3.0, "VDD_SYS_DDR": 4.0, "VDD_SYS_GPU": 2.0}


def test_watts_and_joules_per_frame_follow(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    power = load(PROJECT / "wsi_espnet/exporting/board/power_tx2.py")
    sensors(tmp_path)
    rail = tmp_path / "0-0041/iio:device1/in_power0_input"
    work = f"import time; p = open({str(rail)!r}, 'w'); p.write('7000'); p.close(); time.sleep(1)"
    arguments = ["--frames", "10", "--idle", "0.2", "--sensors", tmp_path, "--json", tmp_path / "said.json"]
    assert power.main([*map(str, arguments), "--", sys.executable, "-c", work]) == 0
    said = json.loads((tmp_path / "said.json").read_text())
    row = said["rails"]["VDD_IN"]
    assert row["idle_w"] == 2.0
    assert 6.0 < row["busy_w"] <= 7.0
    assert row["joules_per_frame"] == pytest.approx(row["busy_w"] * said["seconds"] / 10)
    assert row["joules_per_frame_above_idle"] == pytest.approx(row["more_w"] * said["seconds"] / 10)
    assert said["rails"]["VDD_SYS_GPU"]["more_w"] == 0
    assert "VDD_IN" in capsys.readouterr().out


def test_power_is_not_measured_where_it_cannot_be(tmp_path: Path) -> None:
    power = load(PROJECT / "wsi_espnet/exporting/board/power_tx2.py")
    with pytest.raises(SystemExit, match="no INA3221 rails below"):
        power.main(["--frames", "1", "--sensors", str(tmp_path), "--", "true"])
    sensors(tmp_path)
    with pytest.raises(SystemExit, match="the command ended with status 1; nothing was measured"):
        power.main(["--frames", "1", "--idle", "0.1", "--sensors", str(tmp_path), "--", "false"])
