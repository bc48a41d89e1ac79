"""A model repository for Triton: its configuration names what the graph has."""

from __future__ import annotations

import re

import onnxruntime
import pytest

from wsi_espnet.exporting.bundle import Request
from wsi_espnet.exporting.triton import triton
from wsi_espnet.models.weights import LoadedModel

TYPES = {"tensor(float)": "TYPE_FP32", "tensor(uint8)": "TYPE_UINT8"}


@pytest.mark.parametrize(
    "how",
    [{}, {"input": "uint8", "size": (64, 96)}, {"outputs": ("labels",), "precisions": ("fp16",)}],
    ids=["any size", "one size", "labels in fp16"],
)
def test_the_configuration_is_that_of_the_graph(tiny: LoadedModel, how: dict[str, object]) -> None:
    bundle = triton(Request(tiny, **how))
    assert set(bundle.files) == {"tiny/config.pbtxt", "tiny/labels.txt", "tiny/1/model.onnx", "tiny.json"}
    config = bundle.files["tiny/config.pbtxt"].decode()
    assert config.startswith('name: "tiny"\nplatform: "onnxruntime_onnx"\nmax_batch_size: 0\n')
    told = re.findall(r'name: "(\w+)"\s+data_type: (\w+)\s+dims: \[ (.+?) \]', config)
    session = onnxruntime.InferenceSession(bundle.files["tiny/1/model.onnx"])
    graph = [
        (t.name, TYPES[t.type], ", ".join(str(d) if isinstance(d, int) else "-1" for d in t.shape))
        for t in [*session.get_inputs(), *session.get_outputs()]
    ]
    # Where the graph leaves the number of channels open, the configuration knows it.
    assert [(name, type_) for name, type_, _ in told] == [(name, type_) for name, type_, _ in graph]
    for (name, _, said), (_, _, had) in zip(told, graph, strict=True):
        if name in ("image", "labels"):
            assert said == had
        else:
            assert said == re.sub(r"^(\S+ )\S+", r"\g<1>3,", had)
    assert bundle.files["tiny/labels.txt"] == b"glass\nstroma\ngland\n"
