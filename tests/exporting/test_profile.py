"""What TensorRT 8.2 cannot run is named, node by node."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from wsi_espnet.errors import ModelError, UsageError
from wsi_espnet.exporting import trt82
from wsi_espnet.exporting.graph import GraphSpec, export_graph
from wsi_espnet.exporting.profile import check_file, check_graph
from wsi_espnet.models.weights import LoadedModel

BOARD = GraphSpec(opset=13, outputs=("labels",), labels="int32", size=(64, 96))


def faults(graph: onnx.ModelProto) -> list[str]:
    return [str(offence) for offence in check_graph(graph, "tx2")]


def one_node(node: onnx.NodeProto, shape: list[int], **weights: np.ndarray) -> onnx.ModelProto:
    """A model of one node from `x` to `y`, in the format that the TX2 reads."""
    graph = helper.make_graph(
        [node],
        "one",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    return helper.make_model(graph, ir_version=7, opset_imports=[helper.make_opsetid("", 13)])


@pytest.mark.parametrize("which", ["tiny", "coarse", "colon", "camvid"])
def test_our_graphs_for_the_board_fit(which: str, request: pytest.FixtureRequest) -> None:
    assert faults(export_graph(request.getfixturevalue(which), BOARD)) == []


def test_an_operator_that_is_not_imported_is_named(tiny: LoadedModel) -> None:
    graph = export_graph(tiny, BOARD)
    node = next(n for n in graph.graph.node if n.op_type == "Add")
    node.op_type = "Mod"
    assert f"node {node.name}: operator Mod, which TensorRT 8.2 does not import" in faults(graph)


def test_open_shapes_are_named(tiny: LoadedModel) -> None:
    found = faults(export_graph(tiny, GraphSpec(opset=13, outputs=("labels",), labels="int32")))
    assert found == [
        "input image: no fixed shape; export with --size",
        "output labels: no fixed shape; export with --size",
    ]


def test_newer_operators_and_formats_are_named(tiny: LoadedModel) -> None:
    found = faults(export_graph(tiny, GraphSpec(opset=17, outputs=("labels",), labels="int32", size=(64, 96))))
    assert found == [
        "file: opset 17, and TensorRT 8.2 reads up to 13; export with --opset 13",
        "file: IR version 8, and TensorRT 8.2 reads up to 7",
    ]


def test_eight_bit_images_and_labels_are_named(tiny: LoadedModel) -> None:
    graph = export_graph(tiny, GraphSpec(opset=13, outputs=("labels",), input="uint8", size=(64, 96)))
    cast = next(n for n in graph.graph.node if n.op_type == "Cast" and n.output[0] == "labels")
    assert faults(graph) == [
        "input image: type UINT8, which TensorRT 8.2 does not take at an input; take float32",
        "output labels: type UINT8, which TensorRT 8.2 does not take at an output; cast it to int32",
        f"node {cast.name}: Cast to UINT8, which TensorRT 8.2 lacks",
    ]


def test_sides_must_be_multiples_of_eight() -> None:
    relu = helper.make_node("Relu", ["x"], ["y"], name="r")
    assert faults(one_node(relu, [1, 3, 64, 100])) == ["input x: 100x64 px, and sides must be multiples of 8"]
    assert faults(one_node(relu, [1, 3, 64, 96])) == []


@pytest.mark.parametrize(
    ("node", "weights", "words"),
    [
        (helper.make_node("PRelu", ["x", "s"], ["y"], name="n"), {"s": np.ones(3, "f4")}, "slopes of shape [3]"),
        (
            helper.make_node("AveragePool", ["x"], ["y"], name="n", kernel_shape=[3, 3], pads=[0, 0, 2, 2]),
            {},
            "pooling with pads [0, 0, 2, 2]",
        ),
        (
            helper.make_node("ConvTranspose", ["x", "w"], ["y"], name="n", kernel_shape=[1, 1], output_padding=[0, 0]),
            {},
            "ConvTranspose with weights that are computed",
        ),
        (
            helper.make_node("Resize", ["x", "", "f"], ["y"], name="n", mode="cubic"),
            {"f": np.ones(4, "f4")},
            "Resize by cubic, where TensorRT 8.2 knows linear and nearest",
        ),
    ],
)
def test_limits_of_single_operators_are_named(node: onnx.NodeProto, weights: dict[str, np.ndarray], words: str) -> None:
    found = [fault for fault in faults(one_node(node, [1, 3, 64, 64], **weights)) if fault.startswith("node n: ")]
    assert len(found) == 1
    assert words in found[0]


def test_foreign_operators_are_named() -> None:
    model = one_node(helper.make_node("Fast", ["x"], ["y"], name="n", domain="my.own"), [1, 3, 8, 8])
    model.opset_import.append(helper.make_opsetid("my.own", 1))
    assert any("operators of the domain my.own" in fault for fault in faults(model))


def test_files_that_are_no_onnx_are_refused(tmp_path: Path) -> None:
    for name, content in {"text.onnx": b"no graph\n" * 9, "empty.onnx": b""}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ModelError, match="not an ONNX file, or is damaged"):
            check_file(tmp_path / name, "tx2")
    with pytest.raises(ModelError, match="cannot read"):
        check_file(tmp_path / "absent.onnx", "tx2")
    with pytest.raises(UsageError, match="--profile must be tx2"):
        check_file(tmp_path / "absent.onnx", "nano")


def test_the_operators_are_those_of_the_importer(shared: Path) -> None:
    listed = json.loads((shared / "data/onnx_tensorrt_8.2_operators.json").read_text())
    assert frozenset(listed["supported"]) == trt82.OPERATORS
    assert (listed["max_opset"], listed["ir_version_of_onnx_1.8"]) == (trt82.OPSET, trt82.IR)
