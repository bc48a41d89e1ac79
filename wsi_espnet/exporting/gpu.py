"""Target `gpu`: any size and batch, today's operators, for onnxruntime and TensorRT on a workstation."""

from __future__ import annotations

from wsi_espnet.exporting.bundle import Bundle, Request, checked_graph
from wsi_espnet.exporting.graph import CURRENT_OPSET, OUTPUTS, GraphSpec
from wsi_espnet.exporting.metadata import class_lines, sidecar

SUFFIXES = {"fp32": ".onnx", "fp16": ".fp16.onnx"}
"""What a file's name ends in, by precision."""


def gpu(request: Request) -> Bundle:
    """`NAME.onnx`, `NAME.fp16.onnx`, `NAME.json`, `labels.txt`."""
    spec = GraphSpec(
        opset=request.opset or CURRENT_OPSET,
        outputs=request.outputs or OUTPUTS,
        input=request.input or "float32",
        size=request.size,
    )
    bundle, told = Bundle(), {}
    name = request.model.card.name
    for precision in request.precisions:
        path = name + SUFFIXES[precision]
        graph, parity = checked_graph(request.model, spec, precision)
        bundle.files[path] = graph.SerializeToString()
        bundle.parities[path] = parity
        told[path] = graph, spec, precision, parity
    bundle.files[f"{name}.json"] = sidecar(request.model, told)
    bundle.files["labels.txt"] = class_lines(request.model.card)
    return bundle
