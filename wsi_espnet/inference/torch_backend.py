"""ESPNet through torch: on the CPU eager or compiled, on CUDA devices eager."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import numpy as np

# Torch reads this once: large blocks then come in huge pages, which makes a window 6 to 17 % faster.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
# oneDNN reads this once: it keeps that many convolutions ready, each for one window size. Windows that follow the
# tissue have many sizes, and its own default of 1024 grows by 100 MiB over a large slide; 256 costs no time.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "256")

import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from wsi_espnet.budget import set_up_malloc
from wsi_espnet.errors import DependencyError, ModelError, UsageError
from wsi_espnet.inference.compiled import Run, compile_network, find_compiler
from wsi_espnet.inference.predictor import Execution, Precision, Prediction
from wsi_espnet.models import espnet
from wsi_espnet.models.card import ModelCard
from wsi_espnet.models.weights import load_model

COMPILE_FROM_PX = 200_000_000
"""Work from which compiling pays even when it has not been done before on this machine.

Compiling takes 30 to 70 s once (measured on 2 cores) and then saves about 0.2 s per Mpx. The choice looks only at
the size of the job, never at what happens to be cached: the same command always gives the same mask.
"""

BYTES_PER_PX = {
    # (compiled, lower precision): (bytes per px at 3 classes, bytes per px for each class more).
    # Peak of one forward pass over 2432 x 2432 px, measured on Linux x86-64 with torch 2.13, rounded up.
    (False, False): (135, 8.5),
    (False, True): (165, 7.0),
    (True, False): (170, 3.0),
    (True, True): (105, 3.5),
}

_SOURCES = (Path(__file__), Path(espnet.__file__))
"""Files that say what a network computes: code compiled from others is not used."""

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def choose_execution(
    *, device: str, precision: Precision, compiled: bool | None, batch: int, work_px: int
) -> Execution:
    """How to run a job of `work_px` px on this machine.

    Parameters
    ----------
    device
        ``auto`` (the first CUDA device, else the CPU), ``cpu``, ``cuda`` or ``cuda:N``.
    precision
        ``auto`` (bf16 where the device multiplies it natively, else fp32), or one of the three.
    compiled
        None compiles on the CPU from `COMPILE_FROM_PX` if a C++ compiler is there.
    batch
        Windows per call, > 0.
    work_px
        Px that the network will compute, halos included.

    Raises
    ------
    UsageError
        There is no such device, precision or batch.
    DependencyError
        Compiling is asked for and no C++ compiler is installed.
    """
    if batch < 1:
        raise UsageError(f"--batch must be 1 or more, got {batch}")
    found = _device(device)
    if precision == "auto":
        precision = "bf16" if _has_native_bf16(found) else "fp32"
    elif precision not in _DTYPES:
        raise UsageError(f"--precision must be auto, fp32, bf16 or fp16, got {precision!r}")
    if compiled is None:
        compiled = found.type == "cpu" and work_px >= COMPILE_FROM_PX and find_compiler() is not None
    elif compiled and find_compiler() is None:
        raise DependencyError("compiling needs a C++ compiler (c++ or g++), and none is on the PATH; install g++")
    return Execution(device=str(found), precision=precision, compiled=compiled, batch=batch)


def network_bytes(work_px: int, *, classes: int, execution: Execution) -> int:
    """Memory that one forward pass over `work_px` px needs beside the weights, in bytes."""
    base, per_class = BYTES_PER_PX[execution.compiled, execution.precision != "fp32"]
    return int(work_px * execution.batch * (base + per_class * max(0, classes - 3)))


class TorchPredictor:
    """A model file, run by torch; each calling thread computes on one core.

    One thread per window beats several threads on one window (7.2 against 4.9 Mpx/s on two cores), and a result
    then does not depend on the number of cores.

    Parameters
    ----------
    model
        Bundled name or path of a `.safetensors` file.
    execution
        How to run it. With `compiled` the constructor compiles: seconds from the cache, a minute without.

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
        network = _Segmenter(loaded.module, loaded.card, _DTYPES[execution.precision], self._device.type)
        network = network.to(self._device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        network = network.eval().requires_grad_(False)
        # CUDA runs one kernel queue: more threads at once only need more memory there.
        self._turn = threading.Lock() if self._device.type == "cuda" else None
        key = f"{loaded.sha256} {execution.precision}"
        self._run: Run = compile_network(network, key, sources=_SOURCES) if execution.compiled else network

    def predict(self, windows: NDArray[np.uint8]) -> Prediction:
        """Segment a batch of RGB windows, (B, H, W, 3) uint8 with H and W multiples of 8.

        Raises
        ------
        ModelError
            The network gives NaN or infinite logits.
        """
        torch.set_num_threads(1)
        with torch.no_grad():  # what was compiled is not called in inference mode
            batch = torch.from_numpy(windows)
            if self._turn is None:
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


class _Segmenter(nn.Module):
    """From 8-bit RGB to labels and 8-bit probabilities, in one graph so that a compiler can fuse both ends."""

    mean: Tensor
    scale: Tensor

    def __init__(self, network: nn.Module, card: ModelCard, dtype: torch.dtype, device_type: str) -> None:
        super().__init__()
        self.network = network
        self.dtype = dtype
        self.device_type = device_type
        norm = card.normalisation
        self.channels = [0, 1, 2] if norm.order == "rgb" else [2, 1, 0]
        scale = torch.tensor(norm.std, dtype=torch.float32) * norm.divide
        self.register_buffer("mean", torch.tensor(norm.mean, dtype=torch.float32))
        self.register_buffer("scale", 1 / scale)

    def forward(self, windows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, H, W, 3) uint8 -> labels (B, H, W) uint8, probabilities (B, C, H, W) uint8, finite () bool."""
        values = (windows[..., self.channels].float() - self.mean) * self.scale
        with torch.autocast(self.device_type, self.dtype, enabled=self.dtype != torch.float32):
            logits = self.network(values.permute(0, 3, 1, 2))
        logits = logits.float()  # (B, C, H / stride, W / stride)
        if logits.shape[-2:] != windows.shape[1:3]:
            logits = F.interpolate(logits, size=windows.shape[1:3], mode="bilinear", align_corners=False)
        labels = logits.argmax(dim=1).to(torch.uint8)
        probabilities = torch.softmax(logits, dim=1).mul_(255).round_().to(torch.uint8)
        return labels, probabilities, torch.isfinite(logits.sum())


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
