"""What goes with an exported file: properties inside it, and the same as JSON beside it."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from wsi_espnet import __version__
from wsi_espnet.classes import UNLABELLED
from wsi_espnet.exporting.graph import GraphSpec
from wsi_espnet.exporting.parity import Parity
from wsi_espnet.models.card import ModelCard
from wsi_espnet.models.catalog import CARD_KEY
from wsi_espnet.models.espnet import MULTIPLE
from wsi_espnet.models.weights import LoadedModel

PRECISION_KEY = "precision"
"""Key of the type that a file computes in, among its properties."""

WEIGHTS_KEY = "weights_sha256"
"""Key of the digest of the `.safetensors` file that a graph was made from."""


def facts(model: LoadedModel, spec: GraphSpec, precision: str) -> dict[str, Any]:
    """What a user of the file has to know, JSON-able; px are at the model's `mpp`, colours are RGB 0..255."""
    card = model.card
    normalisation = card.normalisation
    return {
        "name": card.name,
        "summary": card.summary,
        "producer": f"wsi-espnet {__version__}",
        "class_names": {str(c.id): c.name for c in card.classes.classes},
        "palette": {str(c.id): list(c.color) for c in card.classes.classes},
        "ignore_index": UNLABELLED,
        "input": {"channels": "RGB", "type": spec.input, "range": [0, 255], "layout": "NCHW"},
        "normalisation_inside": {
            "channel_order": normalisation.order,
            "mean": list(normalisation.mean),
            "std": list(normalisation.std),
            "divide": normalisation.divide,
        },
        "outputs": list(spec.outputs),
        "size": None if spec.size is None else list(spec.size),
        "size_multiple": MULTIPLE,
        "mpp": card.mpp,
        "window_px": card.core_px + 2 * card.halo_px,
        "halo_px": card.halo_px,
        "training_data": card.data,
        "licence": card.terms,
        "limits": card.limits,
        "opset": spec.opset,
        PRECISION_KEY: precision,
        WEIGHTS_KEY: model.sha256,
    }


def embed(graph: onnx.ModelProto, model: LoadedModel, spec: GraphSpec, precision: str) -> None:
    """Write facts and card into a graph's properties; values that are not texts as JSON."""
    graph.producer_name = "wsi-espnet"
    graph.producer_version = __version__
    graph.doc_string = model.card.summary
    properties = {CARD_KEY: model.card.model_dump_json()} | {
        key: value if isinstance(value, str) else json.dumps(value)
        for key, value in facts(model, spec, precision).items()
    }
    onnx.helper.set_model_props(graph, properties)


def sidecar(model: LoadedModel, files: dict[str, tuple[onnx.ModelProto, GraphSpec, str, Parity]]) -> bytes:
    """JSON that lies beside exported graphs: facts, operators, parameters and how they compare with torch.

    Parameters
    ----------
    model
        What was exported.
    files
        Graph, what it was to be, precision and comparison, by file name.
    """
    said = {
        name: facts(model, spec, precision)
        | {
            "operators": dict(sorted(Counter(node.op_type for node in graph.graph.node).items())),
            "parameters": parameters(graph),
            "against_torch": parity.facts,
        }
        for name, (graph, spec, precision, parity) in files.items()
    }
    content = {"card": model.card.model_dump(mode="json"), "files": said}
    return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()


def class_lines(card: ModelCard) -> bytes:
    """Class names, one a line, in the order of the ids."""
    return "".join(f"{name}\n" for name in card.classes.names).encode()


def parameters(graph: onnx.ModelProto) -> int:
    """Numbers that a graph's weights consist of."""
    return int(sum(np.prod(numpy_helper.to_array(weight).shape, dtype=np.int64) for weight in graph.graph.initializer))
