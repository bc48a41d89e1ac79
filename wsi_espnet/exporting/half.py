"""A float32 graph as float16: the network alone; what is put around it stays float32."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from wsi_espnet.exporting.graph import IMAGE

BEFORE = frozenset({"Cast", "Gather", "Sub", "Mul"})
"""Operators that normalise an image, as long as nothing else came between."""

AFTER = frozenset({"Softmax", "ArgMax", "Resize", "Cast"})
"""Operators that follow the network's logits."""


def to_half(graph: onnx.ModelProto) -> onnx.ModelProto:
    """The same graph with weights and activations of the network in float16; inputs and outputs keep their types.

    Normalising stays float32, because float16 holds differences from a mean near 128 to 0.06 only. So does what
    follows the logits.

    Parameters
    ----------
    graph
        As `wsi_espnet.exporting.graph.export_graph` gives it; it is not changed.
    """
    half = onnx.ModelProto()
    half.CopyFrom(graph)
    nodes, outside = half.graph.node, _outside(half)
    weights = {w.name for w in half.graph.initializer}
    inner = {name for i, node in enumerate(nodes) if i not in outside for name in node.output}
    given = {o.name for o in half.graph.output} & inner
    written: list[onnx.NodeProto] = []
    cast: set[str] = set()
    shrunk: set[str] = set()
    for i, node in enumerate(nodes):
        for place, name in enumerate(node.input):
            if i in outside and name in inner and name not in given:
                node.input[place] = _cast(name, "32", TensorProto.FLOAT, written, cast)
            elif i not in outside and name in weights:
                shrunk.add(name)
            elif i not in outside and name not in inner and name:
                node.input[place] = _cast(name, "16", TensorProto.FLOAT16, written, cast)
        written.append(node)
        for place, name in enumerate(node.output):
            if name in given:  # an output of the graph: under its own name it is float32
                node.output[place] = f"{name}_16"
                back = helper.make_node("Cast", [f"{name}_16"], [name], name=f"{name}_32", to=TensorProto.FLOAT)
                written.append(back)
    for weight in half.graph.initializer:
        if weight.name in shrunk and weight.data_type == TensorProto.FLOAT:
            weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight).astype(np.float16), weight.name))
    kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in written]
    del half.graph.node[:]
    del half.graph.value_info[:]
    half.graph.node.extend(kept)
    onnx.checker.check_model(half, full_check=True)
    return half


def _cast(name: str, suffix: str, to: int, written: list[onnx.NodeProto], cast: set[str]) -> str:
    """Name of a value in another type; the node that makes it is written once."""
    other = f"{name}_{suffix}"
    if other not in cast:
        cast.add(other)
        written.append(helper.make_node("Cast", [name], [other], name=f"{other}_cast", to=to))
    return other


def _outside(graph: onnx.ModelProto) -> set[int]:
    """Places of the nodes before the network and after its logits."""
    normalised = {IMAGE}
    places = set()
    for i, node in enumerate(graph.graph.node):  # in topological order
        if node.op_type in BEFORE and normalised.intersection(node.input):
            normalised.update(node.output)
            places.add(i)
        elif node.op_type in AFTER:
            places.add(i)
    return places
