"""The bioimage.io model that QuPath reads: tested by bioimage.io's own command."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from wsi_espnet.exporting.bundle import Bundle, Request
from wsi_espnet.exporting.qupath import least_side, qupath
from wsi_espnet.models.weights import LoadedModel


@pytest.fixture(scope="module")
def bundle(tiny: LoadedModel) -> Bundle:
    return qupath(Request(tiny))


@pytest.fixture(scope="module")
def folder(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("qupath")
    for name, content in bundle.files.items():
        (folder / name).write_bytes(content)
    return folder


@pytest.mark.slow
def test_it_passes_the_test_of_bioimage_io(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("bioimageio.core", reason="needs the extra bioimageio, which is not installed")
    command = [Path(sys.executable).with_name("bioimageio"), "test", folder / "rdf.yaml", "--summary", "said.json"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    said = json.loads((tmp_path / "said.json").read_text())
    assert said["status"] == "passed"
    done_for = {str(detail["loc"]) for detail in said["details"]}
    assert {"['weights', 'torchscript']", "['weights', 'onnx']"} <= done_for


@pytest.mark.filterwarnings("ignore:.torch.jit.load. is deprecated:DeprecationWarning")  # QuPath reads nothing newer
def test_torchscript_gives_the_test_tensor_and_takes_any_size(folder: Path, bundle: Bundle) -> None:
    script = torch.jit.load(str(folder / "model.torchscript.pt"))
    image, answer = (np.load(folder / f"test_{name}.npy") for name in ("input", "output"))
    with torch.inference_mode():
        said = script(torch.from_numpy(image)).numpy()
    np.testing.assert_allclose(said, answer, atol=1e-5)
    np.testing.assert_allclose(answer.sum(axis=1), 1, atol=1e-5)
    assert script(torch.zeros(2, 3, 72, 104)).shape == (2, 3, 72, 104)


def test_it_says_what_the_card_says(bundle: Bundle, tiny: LoadedModel) -> None:
    said = yaml.safe_load(bundle.files["rdf.yaml"])
    (image,), (answer,) = said["inputs"], said["outputs"]
    assert [axis["type"] for axis in image["axes"]] == ["batch", "channel", "space", "space"]
    assert image["axes"][2]["size"] == {"min": least_side(tiny.card), "step": 8}
    assert image["axes"][2]["scale"] == tiny.card.mpp
    assert answer["axes"][1]["channel_names"] == ["glass", "stroma", "gland"]
    assert {axis["halo"] for axis in answer["axes"][2:]} == {tiny.card.halo_px}
    assert set(said["weights"]) == {"torchscript", "onnx"}
    assert np.load(io.BytesIO(bundle.files["test_input.npy"])).shape[2] > 2 * tiny.card.halo_px
    assert bundle.files["TERMS.txt"] == b"none\n"
