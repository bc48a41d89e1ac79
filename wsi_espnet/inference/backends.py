"""Which program runs a network: torch from weights, or onnxruntime or OpenVINO from an exported file.

Torch is imported only where it is the one that runs.
"""

from __future__ import annotations

import hashlib
import os
import threading
from dataclasses import dataclass
from pathlib import Path

from wsi_espnet.errors import ModelError, UsageError
from wsi_espnet.inference.onnx_file import is_onnx, read_onnx
from wsi_espnet.inference.predictor import Execution, Predictor
from wsi_espnet.inference.view import ImageLabeller, View
from wsi_espnet.models.card import ModelCard
from wsi_espnet.models.catalog import find_model, read_card

TORCH, ONNX, OPENVINO = "torch", "onnx", "openvino"
BACKENDS = (TORCH, ONNX, OPENVINO)


@dataclass(frozen=True, slots=True)
class Chosen:
    """A model file and what runs it.

    Parameters
    ----------
    path
        A `.safetensors` file for torch, an `.onnx` file for the others.
    card
        What the model is.
    backend
        One of `BACKENDS`.
    """

    path: Path
    card: ModelCard
    backend: str


def choose_backend(model: str | Path, backend: str | None, *, precision: str = "auto") -> Chosen:
    """The file that a backend needs for a model.

    Parameters
    ----------
    model
        Bundled name, or path of a `.safetensors` or `.onnx` file.
    backend
        None takes torch for weights and onnxruntime for an `.onnx` file. Where weights are to be run by another
        program than torch they are exported first, once, into the cache of this machine; only that needs torch.
    precision
        Of that export: ``fp16``, or float32 for anything else.

    Raises
    ------
    UsageError
        There is no such backend, or it does not take such a file.
    ModelError, DependencyError
        The model cannot be read, or an extra is missing.
    """
    if backend is not None and backend not in BACKENDS:
        raise UsageError(f"--backend must be {', '.join(BACKENDS)}, got {backend!r}")
    path = find_model(model)
    if is_onnx(path):
        if backend == TORCH:
            raise UsageError(
                f"--backend torch runs .safetensors files, got {path}; take --backend onnx or leave it out"
            )
        return Chosen(path, read_onnx(path).card, backend or ONNX)
    card = read_card(path)
    if backend in (None, TORCH):
        return Chosen(path, card, TORCH)
    return Chosen(_exported(path, "fp16" if precision == "fp16" else "fp32"), card, backend or ONNX)


def choose_execution(chosen: Chosen, *, device: str, precision: str, batch: int) -> Execution:
    """How to run a network; see `wsi_espnet.inference.torch_backend.choose_execution`.

    Raises
    ------
    UsageError, DependencyError
        It cannot be run so.
    """
    if chosen.backend == TORCH:
        from wsi_espnet.inference import torch_backend

        return torch_backend.choose_execution(device=device, precision=precision, batch=batch)
    from wsi_espnet.inference.onnx_backend import choose_onnx_execution

    return choose_onnx_execution(
        read_onnx(chosen.path),
        backend=chosen.backend,
        device=device,
        precision=precision,
        batch=batch,
    )


def network_bytes(work_px: int, *, card: ModelCard, execution: Execution) -> int:
    """Memory that one pass over `work_px` px needs beside the weights, in bytes."""
    if execution.backend == TORCH:
        from wsi_espnet.inference import torch_backend

        return torch_backend.network_bytes(work_px, card=card, execution=execution)
    from wsi_espnet.inference.onnx_backend import onnx_network_bytes

    return onnx_network_bytes(work_px, classes=len(card.classes), execution=execution)


def open_predictor(path: Path, execution: Execution) -> Predictor:
    """A model file for windows of a slide.

    Raises
    ------
    ModelError, UsageError, DependencyError
        It cannot be loaded.
    """
    if execution.backend == TORCH:
        from wsi_espnet.inference.torch_backend import TorchPredictor

        return TorchPredictor(path, execution)
    from wsi_espnet.inference.onnx_backend import OnnxPredictor

    return OnnxPredictor(read_onnx(path), execution)


_shared: dict[tuple[str, Execution], Predictor] = {}
_shared_lock = threading.Lock()


def shared_predictor(path: Path, sha256: str, execution: Execution) -> Predictor:
    """The one predictor of this process for a model run in one way; opened when it is first asked for.

    `sha256` is the digest of the file that the job was planned with.

    Raises
    ------
    ModelError, UsageError, DependencyError
        The model cannot be loaded, or is not the one that the job was planned with.
    """
    with _shared_lock:
        found = _shared.get((sha256, execution))
        if found is None:
            if hashlib.sha256(path.read_bytes()).hexdigest() != sha256:
                raise ModelError(f"{path} was changed while it was in use; start the run again")
            found = _shared[sha256, execution] = open_predictor(path, execution)
        return found


def open_labeller(model: str | Path, view: View, *, backend: str | None, device: str, precision: str) -> ImageLabeller:
    """A model for whole pictures.

    Raises
    ------
    ModelError, UsageError, DependencyError
        It cannot be loaded, or not be run so.
    """
    chosen = choose_backend(model, backend, precision=precision)
    if chosen.backend == TORCH:
        from wsi_espnet.inference.images import ImagePredictor
        from wsi_espnet.models.weights import load_model

        return ImagePredictor(load_model(chosen.path), view, device=device, precision=precision)
    from wsi_espnet.inference.onnx_images import OnnxImagePredictor

    execution = choose_execution(chosen, device=device, precision=precision, batch=1)
    return OnnxImagePredictor(read_onnx(chosen.path), view, execution)


def _exported(path: Path, precision: str) -> Path:
    """The ONNX file of some weights in this machine's cache, made if it is not there."""
    from wsi_espnet.exporting.cached import cached_onnx

    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cached_onnx(path, precision, base / "wsi-espnet" / "onnx")
