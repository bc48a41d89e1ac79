"""Frames: pictures of street scenes labelled per second, through torch and through exported files."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray

from wsi_espnet.bench.report import Report
from wsi_espnet.bench.settings import Settings
from wsi_espnet.exporting.graph import IMAGE, LABELS, ExportedNetwork, GraphSpec, export_graph
from wsi_espnet.exporting.half import to_half
from wsi_espnet.inference.onnx_backend import CUDA, ensure_provider
from wsi_espnet.models.importer import import_pth
from wsi_espnet.models.weights import LoadedModel

WEIGHTS = "data/weights/espnet/decoder/espnet_p_2_q_8.pth"
"""The authors' Cityscapes weights (p 2, q 8, 20 classes), below the data."""

SIZES_PX = ((512, 1024), (1024, 2048))
"""Height and width: what the authors measured at, and Cityscapes' own."""

FRAMES = {"cuda": 200, "cpu": 10}
"""Frames that are timed, after a tenth of them."""

Run = Callable[[NDArray[np.uint8]], NDArray[Any]]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Timed:
    """How long one way took for one size: median and slowest frame, in s."""

    way: str
    size: tuple[int, int]
    median: float
    slowest: float

    @property
    def facts(self) -> dict[str, Any]:
        """JSON-able."""
        height, width = self.size
        return {"way": self.way, "width": width, "height": height, "fps": 1 / self.median, "slowest_s": self.slowest}


def run(settings: Settings) -> Report:
    """Time each way on the device that is there: CUDA, else the CPU with all its cores."""
    module, card = import_pth(settings.data / WEIGHTS)
    model = LoadedModel(card, module, "")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    found = []
    for size in SIZES_PX:
        frame = np.random.default_rng(0).integers(0, 256, (1, 3, *size), dtype=np.uint8)
        for way, label in _ways(model, device):
            log.info("frames: %s, %dx%d", way, size[1], size[0])
            found.append(_time(way, size, label, frame, FRAMES[device]))
    return _report(found, device)


def _ways(model: LoadedModel, device: str) -> Iterator[tuple[str, Run]]:
    for precision in ("fp32", "fp16") if device == "cuda" else ("fp32",):
        yield f"torch {torch.__version__} {precision}", _torch(model, device, precision)
    providers = [name for name in (CUDA, "CPUExecutionProvider") if name in onnxruntime.get_available_providers()]
    on_cuda = CUDA in providers
    graph = export_graph(model, GraphSpec(outputs=(LABELS,), input="uint8"))
    for precision in ("fp32", "fp16") if on_cuda else ("fp32",):
        made = graph if precision == "fp32" else to_half(graph)
        session = onnxruntime.InferenceSession(made.SerializeToString(), providers=providers)
        ensure_provider(session, providers[0])
        name = f"onnxruntime {onnxruntime.__version__} {precision}, {'CUDA' if on_cuda else 'CPU'}"
        yield name, _onnx(session)


def _onnx(session: Any) -> Run:
    return lambda frame: session.run([LABELS], {IMAGE: frame})[0]


def _torch(model: LoadedModel, device: str, precision: str) -> Run:
    network = ExportedNetwork(model.module, model.card.normalisation, outputs=(LABELS,), labels="uint8").eval()
    network = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def label(frame: NDArray[np.uint8]) -> NDArray[Any]:
        with torch.inference_mode(), torch.autocast(device, torch.float16, enabled=precision == "fp16"):
            said: NDArray[Any] = network(torch.from_numpy(frame).to(device))[0].cpu().numpy()
        return said

    return label


def _time(way: str, size: tuple[int, int], label: Run, frame: NDArray[np.uint8], frames: int) -> Timed:
    for _ in range(max(2, frames // 10)):
        label(frame)
    seconds = []
    for _ in range(frames):
        started = time.perf_counter()
        label(frame)
        seconds.append(time.perf_counter() - started)
    return Timed(way, size, float(np.median(seconds)), max(seconds))


def _report(found: list[Timed], device: str) -> Report:
    name = torch.cuda.get_device_name() if device == "cuda" else "CPU, all cores"
    rows = [
        (
            t.way,
            f"{t.size[1]}x{t.size[0]}",
            f"{1 / t.median:.1f}",
            f"{1000 * t.median:.1f} ms",
            f"{1000 * t.slowest:.1f} ms",
        )
        for t in found
    ]
    return Report(
        name="frames",
        title=f"street scenes per second, ESPNet p 2 q 8, 20 classes, on: {name}",
        columns=("way", "size", "fps", "median", "slowest"),
        rows=rows,
        checks=(),
        facts={"device": name, "ways": [t.facts for t in found]},
        notes=("From 8-bit RGB in main memory to labels in main memory; one frame at a time.",),
    )
