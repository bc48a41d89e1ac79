"""OpenVINO's own format: read back by OpenVINO."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from wsi_espnet.errors import DependencyError
from wsi_espnet.exporting import extra
from wsi_espnet.exporting.bundle import Request
from wsi_espnet.exporting.openvino import openvino
from wsi_espnet.exporting.parity import reference
from wsi_espnet.models.weights import LoadedModel


@pytest.mark.slow
def test_it_says_what_torch_says_at_any_size(tiny: LoadedModel, tmp_path: Path) -> None:
    ov = pytest.importorskip("openvino", reason="needs the extra openvino, which is not installed")
    bundle = openvino(Request(tiny))
    assert set(bundle.files) == {"tiny.xml", "tiny.bin", "tiny.json", "labels.txt"}
    assert bundle.parities["tiny.xml"].labels >= 0.9999
    for name, content in bundle.files.items():
        (tmp_path / name).write_bytes(content)
    model = ov.Core().read_model(str(tmp_path / "tiny.xml"))
    assert model.get_rt_info(["model_info", "weights_sha256"]).astype(str) == tiny.sha256
    compiled = ov.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    image = np.random.default_rng(0).integers(0, 256, (2, 3, 72, 104)).astype(np.float32)
    said, wanted = compiled({"image": image}), reference(tiny, image)
    np.testing.assert_allclose(said["logits"], wanted["logits"], atol=1e-4)
    assert (said["labels"] == wanted["labels"]).mean() >= 0.9999
    assert json.loads(bundle.files["tiny.json"])["files"]["tiny.xml"]["against_torch"]["px"] > 0


def test_openvino_that_is_not_there_is_named(tiny: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extra, "find_spec", lambda name: None)
    with pytest.raises(
        DependencyError, match=r"--target openvino needs openvino: pip install 'wsi-espnet\[openvino\]'"
    ):
        openvino(Request(tiny))
