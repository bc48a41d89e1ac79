"""Target `tx2`: one size, operators and types that TensorRT 8.2 reads, and the programs to run and measure it there."""

from __future__ import annotations

import io
from importlib.resources import files
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsi_espnet.errors import ModelError, UsageError
from wsi_espnet.exporting import trt82
from wsi_espnet.exporting.bundle import Bundle, Request, checked_graph
from wsi_espnet.exporting.graph import LABELS, GraphSpec
from wsi_espnet.exporting.metadata import class_lines, sidecar
from wsi_espnet.exporting.parity import answers, as_input, probe_picture
from wsi_espnet.exporting.profile import check_graph

STREET_PX = (512, 1024)
"""Height and width for street scenes: what the authors measured their 9 frames per second on a TX2 at."""

SLIDE_PX = (1024, 1024)
"""Height and width for windows of a slide: about 185 MiB of activations in float32."""

PROGRAMS = ("run_tx2.py", "build_engine.sh", "power_tx2.py")
"""What is copied beside the network, from the folder `board`."""


def tx2(request: Request) -> Bundle:
    """`model.onnx`, `model.json`, `labels.txt`, golden input and output, and `PROGRAMS`.

    Raises
    ------
    UsageError
        Something is asked for that TensorRT 8.2 does not read.
    ModelError
        What was written does not fit.
    """
    opset = request.opset or trt82.OPSET
    if opset > trt82.OPSET:
        raise UsageError(f"--opset must be 11 to {trt82.OPSET} for tx2, got {opset}")
    if request.input not in (None, "float32"):
        raise UsageError(f"--input must be float32 for tx2, TensorRT 8.2 reads no {request.input}")
    model = request.model
    size = request.size or (STREET_PX if model.card.mpp is None else SLIDE_PX)
    spec = GraphSpec(opset=opset, outputs=_outputs(request), labels="int32", size=size)
    graph, parity = checked_graph(model, spec, "fp32")
    offences = check_graph(graph, "tx2")
    if offences:
        raise ModelError(f"the graph of {model.card.name} does not fit tx2: {offences[0]}")
    image = as_input(probe_picture(*size), spec)
    bundle = Bundle()
    bundle.files["model.onnx"] = graph.SerializeToString()
    bundle.parities["model.onnx"] = parity
    bundle.files["model.json"] = sidecar(model, {"model.onnx": (graph, spec, "fp32", parity)})
    bundle.files["labels.txt"] = class_lines(model.card)
    bundle.files["golden_input.npy"] = _npy(image)
    bundle.files["golden_output.npy"] = _npy(answers(graph, image)[LABELS])
    for name in PROGRAMS:
        bundle.files[name] = files("wsi_espnet.exporting").joinpath("board", name).read_bytes()
        bundle.executable.add(name)
    return bundle


def _outputs(request: Request) -> tuple[str, ...]:
    outputs = request.outputs or (LABELS,)
    if LABELS not in outputs:
        raise UsageError(f"--outputs must have labels among them for tx2, got {','.join(outputs)}")
    return outputs


def _npy(array: NDArray[Any]) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()
