"""ESPNet through onnxruntime or OpenVINO, from an exported file; torch is not needed and not imported."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from wsi_espnet.budget import set_up_malloc
from wsi_espnet.errors import ModelError, UsageError
from wsi_espnet.inference.onnx_file import (
    LABELS,
    PROBABILITIES,
    OnnxFile,
    ensure_onnxruntime,
    open_session,
)
from wsi_espnet.inference.predictor import Columns, Execution, Prediction

BYTES_PER_PX = (185, 14.0)
"""Bytes per px at 3 classes, and for each class more: peak of one call over 1472 x 1472 px with onnxruntime 1.31 on
Linux x86-64, its answers included, rounded up."""

CUDA = "CUDAExecutionProvider"


class Runner(Protocol):
    """A graph, ready to run; safe to call from several threads at once."""

    def run(self, names: Sequence[str], image: NDArray[Any]) -> list[NDArray[Any]]:
        """Named outputs of a batch of images, (B, 3, H, W) of the type that the file takes."""
        ...


class OnnxRuntime:
    """A file, run by onnxruntime; each calling thread computes on one core.

    Raises
    ------
    ModelError
        onnxruntime cannot load it.
    UsageError
        CUDA is asked for and cannot be used.
    """

    def __init__(self, file: OnnxFile, device: str) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        # An arena keeps what the largest window needed, once for each thread; windows have many sizes.
        options.enable_cpu_mem_arena = False
        kind, _, number = device.partition(":")
        providers: list[Any] = ["CPUExecutionProvider"]
        if kind == "cuda":
            providers.insert(0, (CUDA, {"device_id": int(number or 0)}))
        self._session = open_session(file.path, file.path.read_bytes(), options, providers)
        ensure_provider(self._session, CUDA if kind == "cuda" else "CPUExecutionProvider")
        self._only_these = onnxruntime.RunOptions()
        self._only_these.only_execute_path_to_fetches = True

    def run(self, names: Sequence[str], image: NDArray[Any]) -> list[NDArray[Any]]:
        """Named outputs of a batch of images; what only other outputs need is not computed."""
        return self._session.run(list(names), {"image": image}, self._only_these)  # type: ignore[no-any-return]


class OnnxPredictor:
    """An exported file for windows of a slide.

    Parameters
    ----------
    file
        What was exported.
    execution
        How to run it.

    Raises
    ------
    ModelError
        It cannot be run, or gives no labels or no probabilities.
    UsageError
        It takes one size alone.
    """

    def __init__(self, file: OnnxFile, execution: Execution) -> None:
        set_up_malloc()
        file.ensure_any_size()
        file.ensure_outputs(LABELS, PROBABILITIES)
        self.card = file.card
        self.sha256 = file.sha256
        self.classes = len(file.card.classes)
        self._type = np.dtype(file.input)
        self._runner = open_runner(file, execution)

    def predict(self, windows: NDArray[np.uint8], columns: Sequence[Columns] | None = None) -> Prediction:
        """Segment a batch of RGB windows, (B, H, W, 3) uint8 with H and W multiples of 8, whole.

        Raises
        ------
        ModelError
            The network gives NaN or infinite logits.
        """
        image = np.ascontiguousarray(windows.transpose(0, 3, 1, 2), dtype=self._type)
        labels, probabilities = self._runner.run((LABELS, PROBABILITIES), image)
        ensure_finite(probabilities, self.card.name)
        probabilities *= 255
        np.rint(probabilities, out=probabilities)
        return Prediction(labels.astype(np.uint8, copy=False), probabilities.astype(np.uint8))


def ensure_provider(session: Any, wanted: str) -> None:
    """Refuse a session that runs somewhere else: onnxruntime goes on with the CPU where CUDA cannot be loaded.

    Raises
    ------
    UsageError
        It does.
    """
    got = session.get_providers()[0]
    if got != wanted:
        raise UsageError(
            f"onnxruntime was to use {wanted} and uses {got}: CUDA or cuDNN of the versions that it wants cannot be "
            "loaded; install them, or use --device cpu"
        )


def open_runner(file: OnnxFile, execution: Execution) -> Runner:
    """A file in the hands of the execution's backend."""
    if execution.backend == "openvino":
        from wsi_espnet.inference.openvino_backend import OpenVino

        return OpenVino(file)
    return OnnxRuntime(file, execution.device)


def choose_onnx_execution(file: OnnxFile, *, backend: str, device: str, precision: str, batch: int) -> Execution:
    """How to run an exported file on this machine; the parameters are those of the torch backend.

    Raises
    ------
    UsageError
        There is no such device, or the file computes in another precision.
    """
    if batch < 1:
        raise UsageError(f"--batch must be 1 or more, got {batch}")
    if precision not in ("auto", file.precision):
        raise UsageError(
            f"{file.path} computes in {file.precision}, and --precision asks for {precision}; take "
            "--precision auto, or export the model again"
        )
    found = "cpu" if backend == "openvino" else _onnxruntime_device(device)
    if backend == "openvino" and device not in ("auto", "cpu"):
        raise UsageError(f"--backend openvino runs on the CPU here, got --device {device}")
    return Execution(device=found, precision=file.precision, batch=batch, backend=backend)


def onnx_network_bytes(work_px: int, *, classes: int, execution: Execution) -> int:
    """Memory that one call over `work_px` px needs beside the weights, in bytes."""
    base, per_class = BYTES_PER_PX
    return int(work_px * execution.batch * (base + per_class * max(0, classes - 3)))


def ensure_finite(values: NDArray[Any], name: str) -> None:
    """Refuse what a damaged network says.

    Raises
    ------
    ModelError
        Some of it is NaN or infinite.
    """
    if not np.isfinite(values.sum()):
        raise ModelError(
            f"the network {name!r} gives values that are not finite; its weights are damaged, or the precision is too "
            "low for it: export it with --precision fp32"
        )


def _onnxruntime_device(device: str) -> str:
    ensure_onnxruntime()
    import onnxruntime

    kind, _, number = device.partition(":")
    if kind not in ("auto", "cpu", "cuda") or (number and not (kind == "cuda" and number.isdigit())):
        raise UsageError(f"--device must be auto, cpu, cuda or cuda:N, got {device!r}")
    has_cuda = CUDA in onnxruntime.get_available_providers()
    if kind == "cuda" and not has_cuda:
        raise UsageError(
            f"--device {device} is not there: the installed onnxruntime is a build without CUDA; install "
            "onnxruntime-gpu, or use --device cpu"
        )
    return f"cuda:{number or 0}" if kind != "cpu" and has_cuda else "cpu"
