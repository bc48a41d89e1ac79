"""On a CUDA device: the same labels as on the CPU. Skipped where there is none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from skimage import data
from small import blobs, small_slide, tiny_model

from wsi_espnet.inference.predictor import Precision
from wsi_espnet.inference.torch_backend import TorchPredictor, choose_execution
from wsi_espnet.segment import segment

DEVICE = "cuda"

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device"),
]


def predictor(device: str, precision: Precision) -> TorchPredictor:
    execution = choose_execution(device=device, precision=precision, batch=1)
    return TorchPredictor("glas-colon", execution)


@pytest.mark.parametrize(("precision", "wanted"), [("fp32", 0.999), ("fp16", 0.99), ("bf16", 0.97)])
def test_windows_have_the_labels_of_the_cpu(precision: Precision, wanted: float) -> None:
    window = data.immunohistochemistry()[None, :512, :512]
    here, there = (predictor(*way).predict(window) for way in (("cpu", "fp32"), (DEVICE, precision)))
    assert (here.labels == there.labels).mean() > wanted
    assert len(np.unique(here.labels)) > 1


def test_a_slide_has_the_areas_of_the_cpu(tmp_path: Path) -> None:
    model = tiny_model(tmp_path / "tiny.safetensors")
    slide = small_slide(tmp_path / "slide.svs", blobs(600, 800))
    here, there = (
        segment(slide, tmp_path / device, model=model, device=device, precision="fp32") for device in ("cpu", DEVICE)
    )
    assert there.execution.device.startswith(DEVICE)
    for ours, theirs in zip(here.areas.classes, there.areas.classes, strict=True):
        assert theirs.px == pytest.approx(ours.px, rel=0.01, abs=50)
