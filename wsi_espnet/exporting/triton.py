"""Target `triton`: a folder that NVIDIA's Triton Inference Server serves as it is."""

from __future__ import annotations

from wsi_espnet.errors import UsageError
from wsi_espnet.exporting.bundle import Bundle, Request, checked_graph
from wsi_espnet.exporting.graph import CURRENT_OPSET, IMAGE, LABELS, PROBABILITIES, GraphSpec
from wsi_espnet.exporting.metadata import class_lines, sidecar

DEFAULT_OUTPUTS = (PROBABILITIES, LABELS)
"""Logits are left out: they say nothing more, and every output is sent."""

_TYPES = {"float32": "TYPE_FP32", "uint8": "TYPE_UINT8"}


def triton(request: Request) -> Bundle:
    """`NAME/config.pbtxt`, `NAME/labels.txt`, `NAME/1/model.onnx`, `NAME.json`, for `tritonserver --model-repository`.

    Raises
    ------
    UsageError
        The model's name cannot be that of a folder.
    """
    model, name = request.model, request.model.card.name
    precision = request.precisions[0]  # float32 unless fp16 alone is asked for
    spec = GraphSpec(
        opset=request.opset or CURRENT_OPSET,
        outputs=request.outputs or DEFAULT_OUTPUTS,
        input=request.input or "float32",
        size=request.size,
    )
    if "/" in name:
        raise UsageError(f"Triton names a model by its folder, and {name!r} has a slash; give the model another name")
    graph, parity = checked_graph(model, spec, precision)
    path = f"{name}/1/model.onnx"
    return Bundle(
        files={
            f"{name}/config.pbtxt": config(name, spec, classes=len(model.card.classes)).encode(),
            f"{name}/labels.txt": class_lines(model.card),
            path: graph.SerializeToString(),
            f"{name}.json": sidecar(model, {path: (graph, spec, precision, parity)}),
        },
        parities={path: parity},
    )


def config(name: str, spec: GraphSpec, *, classes: int) -> str:
    """Triton's description of a graph, with `max_batch_size` 0: the batch is an axis like the others."""
    batch, height, width = (1, *spec.size) if spec.size else (-1, -1, -1)
    inputs = [_tensor(IMAGE, _TYPES[spec.input], (batch, 3, height, width))]
    outputs = [
        _tensor(LABELS, _TYPES[spec.labels], (batch, height, width), "labels.txt")
        if output == LABELS
        else _tensor(output, "TYPE_FP32", (batch, classes, height, width), "labels.txt")
        for output in spec.outputs
    ]
    return (
        f'name: "{name}"\nplatform: "onnxruntime_onnx"\nmax_batch_size: 0\n'
        f"input [\n{_join(inputs)}\n]\noutput [\n{_join(outputs)}\n]\n"
    )


def _tensor(name: str, type_: str, dims: tuple[int, ...], labels: str | None = None) -> str:
    said = f'    name: "{name}"\n    data_type: {type_}\n    dims: [ {", ".join(map(str, dims))} ]\n'
    return said + (f'    label_filename: "{labels}"\n' if labels else "")


def _join(tensors: list[str]) -> str:
    return ",\n".join(f"  {{\n{tensor}  }}" for tensor in tensors)
