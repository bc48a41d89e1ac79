"""What the targets are asked, and what they answer: files as bytes, written by the job once all of them are right."""

from __future__ import annotations

from dataclasses import dataclass, field

import onnx

from wsi_espnet.exporting.graph import GraphSpec, export_graph
from wsi_espnet.exporting.half import to_half
from wsi_espnet.exporting.metadata import embed
from wsi_espnet.exporting.parity import TEST_PX, Parity, answers, as_input, compare, ensure_parity, probe_picture
from wsi_espnet.exporting.parity import reference as torch_answers
from wsi_espnet.models.weights import LoadedModel


@dataclass(frozen=True, slots=True)
class Request:
    """What is to be exported.

    Parameters
    ----------
    model
        Network with its card.
    precisions
        ``fp32``, ``fp16``, or both; targets that know one kind of file take what they know.
    size
        (height, width) for targets of one size; None takes the target's own.
    opset, outputs, input
        As in `wsi_espnet.exporting.graph.GraphSpec`; None takes the target's own.
    """

    model: LoadedModel
    precisions: tuple[str, ...] = ("fp32", "fp16")
    size: tuple[int, int] | None = None
    opset: int | None = None
    outputs: tuple[str, ...] | None = None
    input: str | None = None


@dataclass(slots=True)
class Bundle:
    """Files of a target.

    Parameters
    ----------
    files
        Contents by path, relative to the target's folder.
    executable
        Paths among them that can be run.
    parities
        How the graphs among them compare with torch, by path.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    executable: set[str] = field(default_factory=set)
    parities: dict[str, Parity] = field(default_factory=dict)


def checked_graph(model: LoadedModel, spec: GraphSpec, precision: str) -> tuple[onnx.ModelProto, Parity]:
    """A graph with its properties, after onnxruntime has shown that it says what torch says.

    Raises
    ------
    ModelError
        It does not.
    """
    graph = export_graph(model, spec)
    if precision == "fp16":
        graph = to_half(graph)
    embed(graph, model, spec, precision)
    image = as_input(probe_picture(*(spec.size or TEST_PX)), spec)
    parity = compare(answers(graph, image), torch_answers(model, image))
    ensure_parity(parity, precision, model.card)
    return graph, parity
