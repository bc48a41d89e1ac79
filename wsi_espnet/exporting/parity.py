"""An exported graph beside torch: the same picture through both, and how far they are apart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray

from wsi_espnet.errors import ModelError
from wsi_espnet.exporting.graph import IMAGE, LABELS, LOGITS, OUTPUTS, PROBABILITIES, ExportedNetwork, GraphSpec
from wsi_espnet.models.card import ModelCard
from wsi_espnet.models.weights import LoadedModel
from wsi_espnet.slides.colon import he_picture

TEST_PX = (256, 384)
"""Height and width of the picture that a graph of any size is compared on."""

LEAST_AGREEMENT = {"fp32": 0.9999, "fp16": 0.995}
"""Share of px whose label must be that of torch, by precision; below it nothing is written."""


@dataclass(frozen=True, slots=True)
class Parity:
    """How far a graph is from torch in float32.

    Parameters
    ----------
    px
        Px that were compared.
    labels
        Share of them with the same label, 0..1.
    logits
        Largest difference of two logits, or of two probabilities where the graph gives no logits; None where it gives
        labels alone.
    """

    px: int
    labels: float
    logits: float | None

    @property
    def facts(self) -> dict[str, Any]:
        """JSON-able."""
        return {"px": self.px, "same_labels": self.labels, "largest_difference": self.logits}


def probe_picture(height: int, width: int) -> NDArray[np.uint8]:
    """Tissue, mirrored until it fills (height, width): (height, width, 3) uint8, RGB, always the same."""
    picture = he_picture()
    rows, columns = (max(0, wanted - had) for wanted, had in zip((height, width), picture.shape, strict=False))
    return np.pad(picture, ((0, rows), (0, columns), (0, 0)), mode="symmetric")[:height, :width].astype(np.uint8)


def as_input(rgb: NDArray[np.uint8], spec: GraphSpec) -> NDArray[Any]:
    """(h, w, 3) uint8 -> (1, 3, h, w) of the type that a graph takes."""
    return np.ascontiguousarray(rgb.transpose(2, 0, 1)[None].astype(spec.input))


def answers(graph: onnx.ModelProto, image: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """What onnxruntime makes of a graph and a batch of images on the CPU, by the names of the outputs."""
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {IMAGE: image}), strict=True))


def reference(model: LoadedModel, image: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """What torch makes of the same images in float32: all `OUTPUTS`."""
    network = ExportedNetwork(model.module, model.card.normalisation, outputs=OUTPUTS, labels="uint8").eval()
    with torch.inference_mode():
        said = network(torch.from_numpy(image))
    return {name: value.numpy() for name, value in zip(OUTPUTS, said, strict=True)}


def compare(said: dict[str, NDArray[Any]], wanted: dict[str, NDArray[Any]]) -> Parity:
    """How far answers are from those of torch."""
    labels = said[LABELS] if LABELS in said else said[next(iter(said))].argmax(axis=1)
    same = labels == wanted[LABELS]
    numbers = next((name for name in (LOGITS, PROBABILITIES) if name in said), None)
    far = None if numbers is None else float(np.abs(said[numbers] - wanted[numbers]).max())
    return Parity(px=same.size, labels=float(same.mean()), logits=far)


def ensure_parity(parity: Parity, precision: str, card: ModelCard) -> None:
    """Refuse a graph that does not say what torch says.

    Raises
    ------
    ModelError
        Too few labels are the same.
    """
    wanted = LEAST_AGREEMENT[precision]
    if parity.labels < wanted:
        raise ModelError(
            f"the {precision} graph of {card.name} gives {parity.labels:.2%} of the labels that torch gives, wanted "
            f"{wanted:.2%}; nothing was written" + ("; take --precision fp32" if precision == "fp16" else "")
        )
