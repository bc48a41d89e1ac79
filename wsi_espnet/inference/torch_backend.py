"""Networks through torch: ESPNet on the CPU in bands, all else and CUDA devices whole."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

# Torch reads this once: large blocks then come in huge pages, which makes a window 6 to 17 % faster.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
# oneDNN reads this once: it keeps that many convolutions ready, each for one window size. Windows that follow the
# tissue have many sizes, and its own default of 1024 grows by 100 MiB over a large slide; 256 costs no time.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "256")

import torch
from numpy.typing import NDArray
from torch import Tensor

from wsi_espnet.budget import set_up_malloc
from wsi_espnet.errors import ModelError, UsageError
from wsi_espnet.inference.predictor import Columns, Execution, Precision, Prediction
from wsi_espnet.inference.segmenter import BandedSegmenter, Segmenter
from wsi_espnet.models.card import ModelCard
from wsi_espnet.models.network_config import EFFICIENTNET, ENET, ERFNET, ESP_PSP, ESPNET, PSPNET, UNET, UNITS
from wsi_espnet.models.weights import load_model

BYTES_PER_PX = {
    # (way, lower precision): (bytes per px at 3 classes, bytes per px for each class more).
    # Peak of one pass over 2432 x 2432 px, measured on Linux x86-64 with torch 2.13, rounded up.
    ("bands", False): (75, 2.8),
    ("bands", True): (45, 1.5),
    ("whole", False): (135, 8.5),
    ("whole", True): (165, 7.0),
}

OTHER_BYTES_PER_PX = {
    # In float32, at 3 classes, and for each class more. Peak of one pass over 1216 x 1216 px, as above. A lower
    # precision takes up to twice as much where the processor has none of its own.
    UNITS: (140, 9.0),
    ESP_PSP: (400, 1.0),
    ENET: (130, 9.6),
    ERFNET: (80, 12.6),
    PSPNET: (870, 0.0),
    UNET: (1430, 0.0),  # of the usual width; a quarter of it takes 370
    EFFICIENTNET: (370, 2.3),  # of size 4; size 0 takes 250
}

Run = Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]
"""From (B, H, W, 3) uint8 to labels, probabilities, and whether all is finite."""

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""Of each precision."""


def choose_execution(*, device: str, precision: Precision, batch: int) -> Execution:
    """How to run a network on this machine.

    Parameters
    ----------
    device
        ``auto`` (the first CUDA device, else the CPU), ``cpu``, ``cuda`` or ``cuda:N``.
    precision
        ``auto`` (bf16 where the device multiplies it natively, else fp32), or one of the three.
    batch
        Windows per call, > 0.

    Raises
    ------
    UsageError
        There is no such device, precision or batch.
    """
    if batch < 1:
        raise UsageError(f"--batch must be 1 or more, got {batch}")
    found = _device(device)
    if precision == "auto":
        precision = "bf16" if _has_native_bf16(found) else "fp32"
    elif precision not in DTYPES:
        raise UsageError(f"--precision must be auto, fp32, bf16 or fp16, got {precision!r}")
    return Execution(device=str(found), precision=precision, batch=batch)


def in_bands(card: ModelCard, execution: Execution) -> bool:
    """Whether a network goes over windows in bands: ESPNet on the CPU, where bands have no fp16."""
    return execution.device == "cpu" and card.network.architecture == ESPNET and execution.precision != "fp16"


def network_bytes(work_px: int, *, card: ModelCard, execution: Execution) -> int:
    """Memory that one pass over `work_px` px on the CPU needs beside the weights, in bytes."""
    lower = execution.precision != "fp32"
    if card.network.architecture in OTHER_BYTES_PER_PX:
        base, per_class = (figure * (2 if lower else 1) for figure in OTHER_BYTES_PER_PX[card.network.architecture])
    else:
        way = "bands" if in_bands(card, execution) else "whole"
        base, per_class = BYTES_PER_PX[way, lower]
    return int(work_px * execution.batch * (base + per_class * max(0, len(card.classes) - 3)))


class TorchPredictor:
    """A model file, run by torch; each calling thread computes on one core.

    One thread per window beats several threads on one window (7.2 against 4.9 Mpx/s on two cores), and a result
    then does not depend on the number of cores.

    Parameters
    ----------
    model
        Bundled name or path of a `.safetensors` file.
    execution
        How to run it.

    Raises
    ------
    ModelError
        The model cannot be loaded.
    """

    def __init__(self, model: str | Path, execution: Execution) -> None:
        set_up_malloc()
        loaded = load_model(model)
        self.card = loaded.card
        self.sha256 = loaded.sha256
        self.classes = len(loaded.card.classes)
        self._device = torch.device(execution.device)
        network = Segmenter(loaded.module, loaded.card, DTYPES[execution.precision], self._device.type)
        network = network.to(self._device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        network = network.eval().requires_grad_(False)
        # CUDA runs one kernel queue: more threads at once only need more memory there.
        self._turn = threading.Lock() if self._device.type == "cuda" else None
        self._run: Run = BandedSegmenter(network) if in_bands(loaded.card, execution) else network

    def predict(self, windows: NDArray[np.uint8], columns: Sequence[Columns] | None = None) -> Prediction:
        """Segment a batch of RGB windows, (B, H, W, 3) uint8, H and W multiples of 8; in bands only what is wanted.

        Raises
        ------
        ModelError
            The network gives NaN or infinite logits.
        """
        torch.set_num_threads(1)
        with torch.no_grad():
            # What another process sent may not be written to; torch warns of that, though nothing here writes.
            batch = torch.from_numpy(np.require(windows, requirements="W"))
            if isinstance(self._run, BandedSegmenter):
                labels, probabilities, finite = self._run(batch, columns)
            elif self._turn is None:
                labels, probabilities, finite = self._run(batch)
            else:
                with self._turn:
                    labels, probabilities, finite = self._run(batch.to(self._device))
            if not bool(finite):
                raise ModelError(
                    f"the network {self.card.name!r} gives values that are not finite; its weights are damaged, or the "
                    "precision is too low for it: try --precision fp32"
                )
            return Prediction(labels.cpu().numpy(), probabilities.cpu().numpy())


def gpu_count() -> int:
    """CUDA devices of this machine."""
    return torch.cuda.device_count()


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    if name == "cpu":
        return torch.device("cpu")
    kind, _, number = name.partition(":")
    if kind != "cuda" or not (number == "" or number.isdigit()):
        raise UsageError(f"--device must be auto, cpu, cuda or cuda:N, got {name!r}")
    count = torch.cuda.device_count()
    if int(number or 0) >= count:
        raise UsageError(f"--device {name} is not there: torch sees {count} CUDA devices; use --device cpu")
    return torch.device("cuda", int(number or 0))


def _has_native_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
