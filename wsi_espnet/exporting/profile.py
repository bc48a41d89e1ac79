"""Whether a machine can run an ONNX file: every node that it cannot, by name. Nothing is run to find out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import DecodeError
from onnx import TensorProto, helper, shape_inference

from wsi_espnet.errors import ModelError, UsageError
from wsi_espnet.exporting import trt82
from wsi_espnet.exporting.graph import written_opset

SIDE_MULTIPLE = 8
"""The network halves its input three times."""


Stored = dict[str, list[int] | None]
"""Shapes of what a file stores, by name; None for constants, whose shape is not looked up."""


@dataclass(frozen=True, slots=True)
class Offence:
    """One thing that a machine cannot do: where (a node, an input, the file) and why."""

    place: str
    fault: str

    def __str__(self) -> str:
        return f"{self.place}: {self.fault}"

    @property
    def facts(self) -> dict[str, str]:
        """JSON-able."""
        return {"node": self.place, "fault": self.fault}


def check_file(path: str | Path, profile: str) -> list[Offence]:
    """All that keeps a file from running on a machine; none if it fits.

    Parameters
    ----------
    path
        An ONNX file.
    profile
        ``tx2``: TensorRT 8.2, as in JetPack 4.6.

    Raises
    ------
    ModelError
        It cannot be read as ONNX.
    UsageError
        There is no such profile.
    """
    if profile not in PROFILES:
        raise UsageError(f"--profile must be {', '.join(PROFILES)}, got {profile!r}")
    return check_graph(read_graph(path), profile)


def check_graph(graph: onnx.ModelProto, profile: str) -> list[Offence]:
    """As `check_file`, of a graph in memory."""
    return list(PROFILES[profile](graph))


def read_graph(path: str | Path) -> onnx.ModelProto:
    """An ONNX file; weights that it keeps in files of their own are not read.

    Raises
    ------
    ModelError
        It is missing or no ONNX.
    """
    try:
        graph = onnx.load_model(str(path), load_external_data=False)
    except OSError as exc:
        raise ModelError(f"cannot read {path}: {exc.strerror}") from exc
    except DecodeError as exc:
        raise ModelError(f"{path} is not an ONNX file, or is damaged") from exc
    if not graph.graph.node or not graph.opset_import:
        raise ModelError(f"{path} is not an ONNX file, or is damaged: it holds no nodes")
    return graph


def _tx2(graph: onnx.ModelProto) -> Iterator[Offence]:
    yield from _file(graph)
    typed, fault = _inferred(graph)
    if fault is not None:
        yield fault
    weights = {weight.name for weight in graph.graph.initializer}
    inputs = [value for value in graph.graph.input if value.name not in weights]
    for side, values in (("input", inputs), ("output", list(graph.graph.output))):
        for value in values:
            yield from _edge(value, side)
    fixed = not any(None in _shape(value) for value in inputs)  # otherwise nearly every node would be named
    shapes = {v.name: _shape(v) for v in [*typed.graph.value_info, *typed.graph.input, *typed.graph.output]}
    stored: Stored = {w.name: list(w.dims) for w in graph.graph.initializer}
    stored |= {n.output[0]: None for n in graph.graph.node if n.op_type == "Constant"}
    for number, node in enumerate(graph.graph.node):
        place = f"node {node.name or f'{node.op_type}_{number}'}"
        yield from (Offence(place, fault) for fault in _node(node, stored))
        loose = [name for name in node.output if None in shapes.get(name, [])]
        if fixed and loose:
            yield Offence(place, f"its output {loose[0]} has no fixed shape, although the inputs have")


PROFILES: dict[str, Callable[[onnx.ModelProto], Iterator[Offence]]] = {"tx2": _tx2}
"""What can be checked against."""


def _file(graph: onnx.ModelProto) -> Iterator[Offence]:
    opset = written_opset(graph)
    if opset > trt82.OPSET:
        yield Offence("file", f"opset {opset}, and TensorRT 8.2 reads up to {trt82.OPSET}; export with --opset 13")
    if graph.ir_version > trt82.IR:
        yield Offence("file", f"IR version {graph.ir_version}, and TensorRT 8.2 reads up to {trt82.IR}")
    for entry in graph.opset_import:
        if entry.domain not in ("", "ai.onnx"):
            yield Offence("file", f"operators of the domain {entry.domain}, of which TensorRT 8.2 knows none")
    for weight in graph.graph.initializer:
        if weight.data_location == TensorProto.EXTERNAL:
            yield Offence(f"weight {weight.name}", "lies in a file of its own; keep weights inside")
        elif _name(weight.data_type) not in trt82.TYPES:
            yield Offence(f"weight {weight.name}", f"type {_name(weight.data_type)}, which TensorRT 8.2 lacks")


def _inferred(graph: onnx.ModelProto) -> tuple[onnx.ModelProto, Offence | None]:
    """The graph with the shapes of its values, as far as they follow, and what stood in the way."""
    try:
        return shape_inference.infer_shapes(graph, check_type=True, strict_mode=True, data_prop=True), None
    except (shape_inference.InferenceError, ValueError) as exc:
        return graph, Offence("file", f"its shapes contradict each other: {str(exc).strip().splitlines()[-1]}")


def _edge(value: onnx.ValueInfoProto, side: str) -> Iterator[Offence]:
    place = f"{side} {value.name}"
    type_ = _name(value.type.tensor_type.elem_type)
    if type_ not in trt82.EDGE_TYPES:
        remedy = "take float32" if side == "input" else "cast it to int32"
        yield Offence(place, f"type {type_}, which TensorRT 8.2 does not take at an {side}; {remedy}")
    shape = _shape(value)
    if None in shape or not shape:
        yield Offence(place, "no fixed shape; export with --size")
    elif side == "input" and len(shape) == 4 and any(d is not None and d % SIDE_MULTIPLE for d in shape[2:]):
        yield Offence(place, f"{shape[3]}x{shape[2]} px, and sides must be multiples of {SIDE_MULTIPLE}")


def _node(node: onnx.NodeProto, stored: Stored) -> Iterator[str]:
    """What is wrong with a node by itself; `stored` has the shapes of weights, None for constants."""
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    if node.domain in ("", "ai.onnx") and node.op_type not in trt82.OPERATORS:
        yield f"operator {node.op_type}, which TensorRT 8.2 does not import"
    elif node.op_type in trt82.WEIGHTED and any(name not in stored for name in node.input[1:] if name):
        yield f"{node.op_type} with weights that are computed, which must be stored"
    elif (rule := _RULES.get(node.op_type)) is not None:
        yield from rule(node, attributes, stored)


def _prelu(node: onnx.NodeProto, _: dict[str, Any], stored: Stored) -> Iterator[str]:
    slope = stored.get(node.input[1])
    if slope is not None and len(slope) < 3:
        yield f"PRelu with slopes of shape {slope}, which must be [C, 1, 1]"


def _cast(_: onnx.NodeProto, attributes: dict[str, Any], __: Stored) -> Iterator[str]:
    if _name(attributes["to"]) not in trt82.TYPES:
        yield f"Cast to {_name(attributes['to'])}, which TensorRT 8.2 lacks"


def _pool(_: onnx.NodeProto, attributes: dict[str, Any], __: Stored) -> Iterator[str]:
    if set(attributes.get("dilations", [1])) != {1}:
        yield "pooling with dilation"
    pads = attributes.get("pads", [])
    half = len(pads) // 2
    if any(end - begin not in (0, 1) for begin, end in zip(pads[:half], pads[half:], strict=True)):
        yield f"pooling with pads {list(pads)}, which must be equal at both ends, or one more at the end"


def _transposed(_: onnx.NodeProto, attributes: dict[str, Any], __: Stored) -> Iterator[str]:
    if any(attributes.get("output_padding", [])):
        yield f"ConvTranspose with output_padding {list(attributes['output_padding'])}, which must be 0"
    if min(attributes.get("pads", [0])) < 0:
        yield f"ConvTranspose with pads {list(attributes['pads'])}, which must not be negative"


def _resize(_: onnx.NodeProto, attributes: dict[str, Any], __: Stored) -> Iterator[str]:
    mode = attributes.get("mode", b"nearest").decode()
    if mode not in trt82.RESIZE_MODES:
        yield f"Resize by {mode}, where TensorRT 8.2 knows {' and '.join(sorted(trt82.RESIZE_MODES))}"
    placed = attributes.get("coordinate_transformation_mode", b"half_pixel").decode()
    if placed not in trt82.RESIZE_COORDINATES:
        yield f"Resize by {placed} coordinates"


_RULES: dict[str, Callable[[onnx.NodeProto, dict[str, Any], Stored], Iterator[str]]] = {
    "PRelu": _prelu,
    "Cast": _cast,
    "AveragePool": _pool,
    "MaxPool": _pool,
    "ConvTranspose": _transposed,
    "Resize": _resize,
}
"""What the importer asks of single operators."""


def _shape(value: onnx.ValueInfoProto) -> list[int | None]:
    """Extent of each axis, None where it is open; empty where nothing is known."""
    return [d.dim_value if d.HasField("dim_value") else None for d in value.type.tensor_type.shape.dim]


def _name(type_: int) -> str:
    return str(TensorProto.DataType.Name(type_))
