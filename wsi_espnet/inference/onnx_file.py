"""An exported `.onnx` file: what it says of itself, read by onnxruntime. No torch here."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from wsi_espnet.errors import DependencyError, ModelError, UsageError
from wsi_espnet.models.card import ModelCard
from wsi_espnet.models.catalog import CARD_KEY

ONNX_SUFFIX = ".onnx"

MULTIPLE = 8
"""The networks halve their input three times."""

LABELS, PROBABILITIES, LOGITS = "labels", "probabilities", "logits"
"""Names of a graph's outputs."""

_INPUTS = {"tensor(float)": "float32", "tensor(uint8)": "uint8"}


@dataclass(frozen=True, slots=True)
class OnnxFile:
    """What an exported file is.

    Parameters
    ----------
    path
        Where it lies.
    card
        Card of the model that it was made from.
    sha256
        Digest of the file.
    precision
        ``fp32`` or ``fp16``.
    input
        Type of the image: ``float32`` or ``uint8``.
    size
        (height, width) in px that alone is taken; None for any multiples of 8.
    outputs
        Names of what it gives.
    """

    path: Path
    card: ModelCard
    sha256: str
    precision: str
    input: str
    size: tuple[int, int] | None
    outputs: tuple[str, ...]

    def ensure_outputs(self, *names: str) -> None:
        """Refuse a file that does not give these.

        Raises
        ------
        ModelError
            One is missing.
        """
        missing = [name for name in names if name not in self.outputs]
        if missing:
            raise ModelError(
                f"{self.path} gives {', '.join(self.outputs)}, and {', '.join(missing)} is needed here; export the "
                "model without --outputs"
            )

    def ensure_any_size(self) -> None:
        """Refuse a file that takes one size alone.

        Raises
        ------
        UsageError
            It does.
        """
        if self.size is not None:
            raise UsageError(
                f"{self.path} takes images of {self.size[1]}x{self.size[0]} px alone, and windows of a slide have many "
                "sizes; take a file of `wsi-espnet export --target gpu`"
            )


def is_onnx(path: str | Path) -> bool:
    """Whether a model is given as an ONNX file, told by its name."""
    return Path(path).suffix == ONNX_SUFFIX


def ensure_onnxruntime() -> None:
    """Look for onnxruntime without importing it.

    Raises
    ------
    DependencyError
        It is not installed.
    """
    if find_spec("onnxruntime") is None:
        raise DependencyError("running ONNX needs onnxruntime: pip install 'wsi-espnet[export]'")


def read_onnx(path: str | Path) -> OnnxFile:
    """What a file that `wsi-espnet export` wrote says of itself.

    Raises
    ------
    ModelError
        It is missing, damaged, no ONNX, or was not written by `wsi-espnet export`.
    DependencyError
        onnxruntime is not installed.
    """
    ensure_onnxruntime()
    import onnxruntime

    path = Path(path)
    try:
        content = path.read_bytes()
    except OSError as exc:
        raise ModelError(f"cannot read the model file {path}: {exc.strerror}") from exc
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL  # only to look at it
    session = open_session(path, content, options, ["CPUExecutionProvider"])
    properties = session.get_modelmeta().custom_metadata_map
    if CARD_KEY not in properties:
        raise ModelError(
            f"{path} holds no model card, so its classes and scale are not known; take a file of `wsi-espnet export`"
        )
    try:
        card = ModelCard.model_validate_json(properties[CARD_KEY])
    except ValidationError as exc:
        raise ModelError(f"the model card in {path} is not valid; export the model again") from exc
    image = session.get_inputs()[0]
    sides = image.shape[2:]
    return OnnxFile(
        path=path,
        card=card,
        sha256=hashlib.sha256(content).hexdigest(),
        precision=properties.get("precision", "fp32"),
        input=_INPUTS[image.type],
        size=(sides[0], sides[1]) if all(isinstance(side, int) for side in sides) else None,
        outputs=tuple(output.name for output in session.get_outputs()),
    )


def open_session(path: Path, content: bytes, options: Any, providers: list[str]) -> Any:
    """An onnxruntime session of a file's bytes.

    Raises
    ------
    ModelError
        onnxruntime cannot make one of it.
    """
    import onnxruntime
    from onnxruntime.capi import onnxruntime_pybind11_state as faults

    try:
        return onnxruntime.InferenceSession(content, options, providers=providers)
    except (faults.InvalidProtobuf, faults.InvalidGraph, faults.InvalidArgument, faults.NotImplemented) as exc:
        raise ModelError(f"{path} is not an ONNX file, or is damaged: {str(exc).splitlines()[0]}") from exc
    except faults.Fail as exc:
        raise ModelError(f"onnxruntime cannot load {path}: {str(exc).splitlines()[0]}") from exc
