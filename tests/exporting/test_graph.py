"""Graphs beside torch: what they take, what they say, which operators they are written in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image

from wsi_espnet.errors import ModelError, UsageError
from wsi_espnet.exporting import graph as module
from wsi_espnet.exporting.graph import OUTPUTS, GraphSpec, export_graph, written_opset
from wsi_espnet.exporting.half import to_half
from wsi_espnet.exporting.parity import answers, compare, reference
from wsi_espnet.models.weights import LoadedModel


def batch(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape).astype(np.float32)


@pytest.mark.parametrize("opset", [11, 13, 17, 20])
def test_the_opset_that_is_written_is_the_one_asked_for(tiny: LoadedModel, opset: int) -> None:
    graph = export_graph(tiny, GraphSpec(opset=opset))
    assert written_opset(onnx.load_model_from_string(graph.SerializeToString())) == opset
    assert [entry.domain for entry in graph.opset_import] == [""]


def test_another_opset_than_asked_for_is_refused(tiny: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    write = torch.onnx.export
    monkeypatch.setattr(module.torch.onnx, "export", lambda *a, **how: write(*a, **{**how, "opset_version": 18}))
    with pytest.raises(ModelError, match="opset 13 was asked for and the exporter wrote 18"):
        export_graph(tiny, GraphSpec(opset=13))


@pytest.mark.parametrize("shape", [(1, 3, 8, 8), (1, 3, 64, 96), (3, 3, 104, 40)])
@pytest.mark.parametrize("which", ["tiny", "coarse", "colon", "camvid"])
def test_a_graph_says_what_torch_says_at_any_size(
    which: str, shape: tuple[int, ...], request: pytest.FixtureRequest
) -> None:
    model = request.getfixturevalue(which)
    image = batch(*shape)
    parity = compare(answers(export_graph(model, GraphSpec()), image), reference(model, image))
    assert parity.logits is not None
    assert parity.logits <= 1e-4
    assert parity.labels >= 0.9999


@pytest.mark.parametrize("which", ["colon", "camvid"])
def test_normalisation_is_that_of_the_card(which: str, request: pytest.FixtureRequest) -> None:
    model = request.getfixturevalue(which)
    rgb = batch(64, 96, 3).astype(np.uint8)
    with torch.inference_mode():
        wanted = model.module(torch.from_numpy(model.card.normalisation.apply(rgb))[None]).numpy()
    said = answers(export_graph(model, GraphSpec()), rgb.transpose(2, 0, 1)[None].astype(np.float32))
    np.testing.assert_allclose(said["logits"], wanted, atol=1e-4)
    np.testing.assert_allclose(said["probabilities"], torch.from_numpy(wanted).softmax(1).numpy(), atol=1e-5)
    np.testing.assert_array_equal(said["labels"], wanted.argmax(1))


def test_eight_bit_and_float_images_give_the_same(tiny: LoadedModel) -> None:
    image = batch(1, 3, 64, 96)
    wanted = answers(export_graph(tiny, GraphSpec()), image)
    said = answers(export_graph(tiny, GraphSpec(input="uint8")), image.astype(np.uint8))
    for name in OUTPUTS:
        np.testing.assert_array_equal(said[name], wanted[name])


def test_outputs_have_the_types_and_order_that_were_asked_for(tiny: LoadedModel) -> None:
    spec = GraphSpec(outputs=("labels", "probabilities"), labels="int32", size=(64, 96))
    session = onnxruntime.InferenceSession(export_graph(tiny, spec).SerializeToString())
    assert [(o.name, o.type, o.shape) for o in session.get_outputs()] == [
        ("probabilities", "tensor(float)", [1, 3, 64, 96]),
        ("labels", "tensor(int32)", [1, 64, 96]),
    ]
    assert [(i.name, i.type, i.shape) for i in session.get_inputs()] == [("image", "tensor(float)", [1, 3, 64, 96])]


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"opset": 10}, "--opset must be 11 to 20, got 10"),
        ({"opset": 21}, "got 21"),
        ({"outputs": ()}, "got none"),
        ({"outputs": ("labels", "heat")}, "got labels,heat"),
        ({"input": "int8"}, "--input must be float32 or uint8"),
        ({"labels": "int64"}, "labels must be"),
        ({"size": (500, 1024)}, "multiples of 8 px, got 1024x500; use 1024x496"),
        ({"size": (0, 8)}, "got 8x0; use 8x8"),
    ],
)
def test_what_cannot_be_written_is_refused(wrong: dict[str, object], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        GraphSpec(**wrong)


def test_tracing_leaves_the_network_as_it_was(tiny: LoadedModel) -> None:
    before = {key: value.clone() for key, value in tiny.module.state_dict().items()}
    export_graph(tiny, GraphSpec())
    assert not tiny.module.training
    assert all(torch.equal(before[key], value) for key, value in tiny.module.state_dict().items())


@pytest.mark.parametrize("which", ["coarse", "colon", "camvid"])
def test_half_of_a_graph_takes_and_gives_the_same_types(which: str, request: pytest.FixtureRequest) -> None:
    model = request.getfixturevalue(which)
    graph = export_graph(model, GraphSpec())
    half = to_half(graph)
    assert len(half.SerializeToString()) < 0.6 * len(graph.SerializeToString())
    types = {onnx.TensorProto.DataType.Name(w.data_type) for w in half.graph.initializer if np.prod(w.dims) > 3}
    assert types <= {"FLOAT16", "INT64"}
    assert [str(o) for o in half.graph.output] == [str(o) for o in graph.graph.output]


@pytest.mark.parametrize("outputs", [("labels",), ("probabilities",), ("logits", "labels")])
def test_half_works_whatever_is_asked_for(coarse: LoadedModel, colon: LoadedModel, outputs: tuple[str, ...]) -> None:
    for model in (coarse, colon):
        graph = export_graph(model, GraphSpec(outputs=outputs))
        image = batch(1, 3, 64, 96)
        said, wanted = answers(to_half(graph), image), answers(graph, image)
        for name in outputs:
            np.testing.assert_allclose(said[name], wanted[name], atol=0.1 if name != "labels" else 2)


@pytest.mark.slow
def test_labels_of_camvid_pictures_are_those_of_torch(camvid: LoadedModel, shared: Path) -> None:
    graph = export_graph(camvid, GraphSpec(outputs=("logits", "labels")))
    pictures = sorted((shared / "data/camvid/val").glob("*.jpg"))
    assert len(pictures) == 101
    same = {"fp32": [], "fp16": []}
    for path in pictures[::10]:
        image = np.asarray(Image.open(path)).transpose(2, 0, 1)[None].astype(np.float32)
        wanted = reference(camvid, image)
        for precision, file in (("fp32", graph), ("fp16", to_half(graph))):
            parity = compare(answers(file, image), wanted)
            same[precision].append(parity.labels)
            assert parity.logits is not None
            assert parity.logits <= {"fp32": 1e-4, "fp16": 0.2}[precision]
    assert np.mean(same["fp32"]) >= 0.9999
    assert np.mean(same["fp16"]) >= 0.995
