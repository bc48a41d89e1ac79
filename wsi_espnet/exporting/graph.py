"""A network with its normalisation and its answers as one ONNX graph.

`image` (B, 3, H, W), RGB 0..255 -> Gather (where the network wants BGR) -> Sub, Mul -> network -> `logits`
(B, C, H, W) -> Softmax -> `probabilities` (B, C, H, W); `logits` -> ArgMax, Cast -> `labels` (B, H, W).
"""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass

import onnx
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wsi_espnet.errors import ModelError, UsageError
from wsi_espnet.models.card import Normalisation
from wsi_espnet.models.espnet import MULTIPLE
from wsi_espnet.models.network_config import EXPORTED
from wsi_espnet.models.weights import LoadedModel

LOGITS, PROBABILITIES, LABELS = "logits", "probabilities", "labels"
OUTPUTS = (LOGITS, PROBABILITIES, LABELS)
"""What a graph may say, in the order of its outputs."""

IMAGE = "image"
"""Name of the only input."""

CURRENT_OPSET = 20
"""The newest that torch's tracing exporter writes (torch 2.13); onnxruntime reads it since 1.17."""

OLDEST_OPSET = 11
"""The first in which Resize can say how torch places px (coordinate transformation `half_pixel`)."""

TRACED_PX = (64, 96)
"""Height and width of the example that a graph of any size is traced with: two multiples of 8 that differ."""

_INPUTS = {"float32": torch.float32, "uint8": torch.uint8}
_LABELS = {"uint8": torch.uint8, "int32": torch.int32}


@dataclass(frozen=True, slots=True)
class GraphSpec:
    """What a graph takes and gives.

    Parameters
    ----------
    opset
        Version of ONNX's operators, 11 to 20.
    outputs
        Some of ``logits``, ``probabilities`` and ``labels``.
    input
        Type of the image: ``float32`` or ``uint8``, RGB 0..255 in either case.
    labels
        Type of the labels: ``uint8`` or ``int32``.
    size
        (height, width) in px that alone is taken, one image at a time; None takes any multiples of 8 and any batch.
    """

    opset: int = CURRENT_OPSET
    outputs: tuple[str, ...] = OUTPUTS
    input: str = "float32"
    labels: str = "uint8"
    size: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if not OLDEST_OPSET <= self.opset <= CURRENT_OPSET:
            raise UsageError(f"--opset must be {OLDEST_OPSET} to {CURRENT_OPSET}, got {self.opset}")
        if not self.outputs or not set(self.outputs) <= set(OUTPUTS):
            raise UsageError(f"--outputs must be some of {', '.join(OUTPUTS)}, got {','.join(self.outputs) or 'none'}")
        if self.input not in _INPUTS:
            raise UsageError(f"--input must be float32 or uint8, got {self.input!r}")
        if self.labels not in _LABELS:
            raise UsageError(f"labels must be uint8 or int32, got {self.labels!r}")
        if self.size is not None:
            ensure_multiples(*self.size)


def ensure_multiples(height: int, width: int) -> None:
    """Refuse sides that the network cannot halve three times.

    Raises
    ------
    UsageError
        One is not a multiple of 8, or below 8.
    """
    if min(height, width) < MULTIPLE or height % MULTIPLE or width % MULTIPLE:
        near = f"{max(1, round(width / MULTIPLE)) * MULTIPLE}x{max(1, round(height / MULTIPLE)) * MULTIPLE}"
        raise UsageError(f"--size must be multiples of {MULTIPLE} px, got {width}x{height}; use {near}")


class ExportedNetwork(nn.Module):
    """From RGB 0..255 to what a graph says; one module for tracing, for TorchScript and for comparing.

    Parameters
    ----------
    network
        Takes normalised images.
    normalisation
        Of the network's card.
    outputs, labels
        As in `GraphSpec`.
    """

    order: Tensor
    mean: Tensor
    scale: Tensor

    def __init__(self, network: nn.Module, normalisation: Normalisation, *, outputs: tuple[str, ...], labels: str):
        super().__init__()
        self.network = network
        self.bgr = normalisation.order == "bgr"
        self.upsampling = int(network.stride)  # type: ignore[arg-type]  # 1 or 8, an attribute of every network
        self.outputs = [name for name in OUTPUTS if name in outputs]
        self.labels_dtype = _LABELS[labels]
        scale = torch.tensor(normalisation.std, dtype=torch.float64) * normalisation.divide
        self.register_buffer("order", torch.tensor([2, 1, 0]))
        self.register_buffer("mean", torch.tensor(normalisation.mean).view(1, 3, 1, 1))
        self.register_buffer("scale", (1 / scale).float().view(1, 3, 1, 1))

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """(B, 3, H, W) RGB, uint8 or float32, 0..255 -> the outputs asked for, in the order of `OUTPUTS`."""
        x = image.float()
        if self.bgr:
            x = x.index_select(1, self.order)
        logits = self.network((x - self.mean) * self.scale)
        if self.upsampling > 1:
            logits = F.interpolate(logits, scale_factor=self.upsampling, mode="bilinear", align_corners=False)
        said = []
        for name in self.outputs:
            if name == LOGITS:
                said.append(logits)
            elif name == PROBABILITIES:
                said.append(torch.softmax(logits, dim=1))
            else:
                said.append(logits.argmax(dim=1).to(self.labels_dtype))
        return tuple(said)


def export_graph(model: LoadedModel, spec: GraphSpec) -> onnx.ModelProto:
    """The ONNX model of a network, checked, in float32.

    Torch's tracing exporter writes it: the newer one writes opset 18 where 11 or 13 is asked for, and says nothing.

    Raises
    ------
    UsageError
        The network has no form in ONNX that every target runs.
    ModelError
        What was written is not what was asked for.
    """
    if model.card.network.architecture not in EXPORTED:
        raise UsageError(
            f"the model {model.card.name!r} is {model.card.network}, which has no form in ONNX that every target runs; "
            f"what is exported are {', '.join(EXPORTED)}"
        )
    network = ExportedNetwork(model.module, model.card.normalisation, outputs=spec.outputs, labels=spec.labels).eval()
    example = torch.zeros((1, 3, *(spec.size or TRACED_PX)), dtype=_INPUTS[spec.input])
    written = io.BytesIO()
    with warnings.catch_warnings():
        # Torch asks for its newer exporter, see above.
        warnings.filterwarnings("ignore", "You are using the legacy TorchScript-based ONNX export", DeprecationWarning)
        warnings.filterwarnings("ignore", "The feature will be removed", DeprecationWarning)
        # The network asks whether sides are multiples of 8, which they are: nothing is to be padded, whatever the size.
        warnings.filterwarnings("ignore", "Converting a tensor to a Python boolean", Warning)
        torch.onnx.export(
            network,
            (example,),
            written,  # type: ignore[arg-type]  # the tracing exporter takes open files
            dynamo=False,
            opset_version=spec.opset,
            input_names=[IMAGE],
            output_names=network.outputs,
            dynamic_axes=None if spec.size is not None else _dynamic_axes(network.outputs),
        )
    graph = onnx.load_model_from_string(written.getvalue())
    _name_weights_once(graph)
    _ensure_as_asked(graph, spec)
    return graph


def written_opset(graph: onnx.ModelProto) -> int:
    """Version of ONNX's own operators that a model says it uses; 0 where it says nothing."""
    return next((entry.version for entry in graph.opset_import if entry.domain in ("", "ai.onnx")), 0)


def _dynamic_axes(outputs: list[str]) -> dict[str, dict[int, str]]:
    image = {0: "batch", 2: "height", 3: "width"}
    labels = {0: "batch", 1: "height", 2: "width"}
    return {IMAGE: image} | {name: labels if name == LABELS else image for name in outputs}


def _name_weights_once(graph: onnx.ModelProto) -> None:
    """Take out the Identity nodes by which the exporter lets equal weights share their numbers.

    TensorRT 8.2 wants the weights of a convolution to be stored, not to be the output of a node.
    """
    stored = {weight.name for weight in graph.graph.initializer}
    aliases = {n.output[0]: n.input[0] for n in graph.graph.node if n.op_type == "Identity" and n.input[0] in stored}
    for node in list(graph.graph.node):
        if node.op_type == "Identity" and node.output[0] in aliases:
            graph.graph.node.remove(node)
            continue
        for place, name in enumerate(node.input):
            node.input[place] = aliases.get(name, name)


def _ensure_as_asked(graph: onnx.ModelProto, spec: GraphSpec) -> None:
    onnx.checker.check_model(graph, full_check=True)
    if written_opset(graph) != spec.opset:
        raise ModelError(
            f"opset {spec.opset} was asked for and the exporter wrote {written_opset(graph)}; this is a fault of the "
            "installed torch: install the version of constraints.txt"
        )
