"""Target `qupath`: a bioimage.io model (format 0.5) with TorchScript, which QuPath runs, and ONNX.

One input, one output: probabilities with a channel for each class, normalisation inside. QuPath wants no more, and
bioimage.io has no argmax among its steps.
"""

from __future__ import annotations

import hashlib
import io
import re
import warnings
from typing import Any

import numpy as np
import torch
import yaml
from numpy.typing import NDArray

from wsi_espnet import __version__
from wsi_espnet.exporting.bundle import Bundle, Request, checked_graph
from wsi_espnet.exporting.graph import CURRENT_OPSET, IMAGE, PROBABILITIES, TRACED_PX, ExportedNetwork, GraphSpec
from wsi_espnet.exporting.metadata import class_lines, sidecar
from wsi_espnet.exporting.parity import Parity, as_input, compare, ensure_parity, probe_picture
from wsi_espnet.exporting.parity import reference as torch_answers
from wsi_espnet.models.card import ModelCard
from wsi_espnet.models.espnet import MULTIPLE
from wsi_espnet.models.weights import LoadedModel

FORMAT = "0.5.4"
"""Version of the description that is written."""

TORCHSCRIPT, ONNX, TERMS, READ_ME, COVER = "model.torchscript.pt", "model.onnx", "TERMS.txt", "README.md", "cover.png"

CITE = "Mehta et al., ESPNet: Efficient Spatial Pyramid of Dilated Convolutions for Semantic Segmentation, ECCV 2018"


def qupath(request: Request) -> Bundle:
    """`rdf.yaml` and what it names: weights, test tensors, terms, a page about the model, a picture."""
    model = request.model
    spec = GraphSpec(opset=request.opset or CURRENT_OPSET, outputs=(PROBABILITIES,))
    graph, parity = checked_graph(model, spec, "fp32")
    side = least_side(model.card) + 2 * MULTIPLE
    picture = probe_picture(side, side)
    image = as_input(picture, spec)
    answer = torch_answers(model, image)[PROBABILITIES]
    script, script_parity = _torchscript(model, image)
    bundle = Bundle(parities={ONNX: parity, TORCHSCRIPT: script_parity})
    bundle.files |= {
        TORCHSCRIPT: script,
        ONNX: graph.SerializeToString(),
        "test_input.npy": _npy(image),
        "test_output.npy": _npy(answer),
        TERMS: f"{model.card.terms}\n".encode(),
        READ_ME: _page(model.card).encode(),
        COVER: _cover(picture, answer, model.card),
        "labels.txt": class_lines(model.card),
    }
    description = describe(model, spec, {name: hashlib.sha256(data).hexdigest() for name, data in bundle.files.items()})
    bundle.files["rdf.yaml"] = yaml.safe_dump(description, sort_keys=False, allow_unicode=True).encode()
    bundle.files["model.json"] = sidecar(model, {ONNX: (graph, spec, "fp32", parity)})
    return bundle


def least_side(card: ModelCard) -> int:
    """Smallest side of an input in px: both halos, and a core that is worth it."""
    return 2 * card.halo_px + 8 * MULTIPLE


def describe(model: LoadedModel, spec: GraphSpec, digests: dict[str, str]) -> dict[str, Any]:
    """The content of `rdf.yaml`."""
    card = model.card

    def file(name: str) -> dict[str, str]:
        return {"source": name, "sha256": digests[name]}

    def side(axis: str, **more: Any) -> dict[str, Any]:
        scale = {} if card.mpp is None else {"unit": "micrometer", "scale": card.mpp}
        return {"type": "space", "id": axis} | scale | more

    halo = {"halo": card.halo_px} if card.halo_px else {}
    least = {"min": least_side(card), "step": MULTIPLE}
    return {
        "format_version": FORMAT,
        "type": "model",
        "name": re.sub(r"[^\w ()-]", "-", f"ESPNet {card.name}"),  # at least 5 letters are wanted
        "description": card.summary[:1024],
        "authors": [{"name": "The authors of wsi_espnet"}],
        "cite": [{"text": CITE, "doi": "10.1007/978-3-030-01249-6_34"}],
        "license": file(TERMS),
        "documentation": file(READ_ME),
        "covers": [COVER],
        "tags": ["semantic-segmentation", "2d", "espnet", "pathology" if card.mpp else "street"],
        "version": __version__,
        "inputs": [
            {
                "id": IMAGE,
                "description": "RGB, 0..255; it is normalised inside the network",
                "axes": [
                    {"type": "batch"},
                    {"type": "channel", "channel_names": ["red", "green", "blue"]},
                    side("y", size=least),
                    side("x", size=least),
                ],
                "data": {"type": "float32", "range": [0.0, 255.0]},
                "test_tensor": file("test_input.npy"),
            }
        ],
        "outputs": [
            {
                "id": PROBABILITIES,
                "description": "one channel for each class, together 1 in each px",
                "axes": [
                    {"type": "batch"},
                    {"type": "channel", "channel_names": [identifier(name) for name in card.classes.names]},
                    *(side(a, size={"tensor_id": IMAGE, "axis_id": a}, **halo) for a in ("y", "x")),
                ],
                "data": {"type": "float32", "range": [0.0, 1.0]},
                "test_tensor": file("test_output.npy"),
            }
        ],
        "weights": {
            "torchscript": file(TORCHSCRIPT) | {"pytorch_version": torch.__version__.partition("+")[0]},
            "onnx": file(ONNX) | {"opset_version": spec.opset, "parent": "torchscript"},
        },
    }


def identifier(name: str) -> str:
    """A class name as bioimage.io wants it: letters, figures and underscores.

    Examples
    --------
    >>> identifier("benign gland"), identifier("2nd")
    ('benign_gland', 'class_2nd')
    """
    word = re.sub(r"\W+", "_", name).strip("_")
    return word if word.isidentifier() else f"class_{word}"


def _torchscript(model: LoadedModel, image: NDArray[Any]) -> tuple[bytes, Parity]:
    """The network as TorchScript of any size, and how it compares; it gives one tensor, not a tuple."""

    class Alone(ExportedNetwork):
        def forward(self, image: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
            return super().forward(image)[0]

    network = Alone(model.module, model.card.normalisation, outputs=(PROBABILITIES,), labels="uint8").eval()
    with warnings.catch_warnings(), torch.inference_mode(False), torch.no_grad():
        # The network asks whether sides are multiples of 8, which they are: nothing is to be padded.
        warnings.filterwarnings("ignore", "Converting a tensor to a Python boolean", Warning)
        warnings.filterwarnings("ignore", ".*torch.jit", DeprecationWarning)  # QuPath's engine reads nothing newer
        traced = torch.jit.trace(  # type: ignore[no-untyped-call]
            network, torch.zeros((1, 3, *TRACED_PX)), check_trace=False
        )
        written = io.BytesIO()
        torch.jit.save(traced, written)
        loaded = torch.jit.load(io.BytesIO(written.getvalue()))  # type: ignore[no-untyped-call]
        said = loaded(torch.from_numpy(image)).numpy()
    parity = compare({PROBABILITIES: said}, torch_answers(model, image))
    ensure_parity(parity, "fp32", model.card)
    return written.getvalue(), parity


def _page(card: ModelCard) -> str:
    scale = "photographs without a scale" if card.mpp is None else f"{card.mpp:g} um per px"
    classes = "\n".join(f"- {c.id} {c.name}" for c in card.classes.classes)
    return (
        f"# {card.name}\n\n{card.summary}\n\nFor {scale}. The input is RGB, 0..255; the output has a probability for "
        f"each class and px. Sides are multiples of {MULTIPLE}; the outer {card.halo_px} px of an answer lack context "
        f"and are to be cut off.\n\n## Classes\n\n{classes}\n\n## Data\n\n{card.data}\n\nTerms: {card.terms}\n\n"
        f"## Validation\n\n{card.split}. Scores: {card.scores or 'none measured'}.\n\n## Limits\n\n{card.limits}\n"
    )


def _cover(picture: NDArray[np.uint8], answer: NDArray[Any], card: ModelCard) -> bytes:
    """The test picture, tinted by class in its right half, as PNG."""
    from PIL import Image

    colors = np.array([c.color for c in card.classes.classes], np.uint8)
    tinted = picture // 2 + colors[answer[0].argmax(axis=0)] // 2
    middle = picture.shape[1] // 2
    shown = np.concatenate([picture[:, :middle], tinted[:, middle:]], axis=1)
    file = io.BytesIO()
    Image.fromarray(shown).save(file, "PNG")
    return file.getvalue()


def _npy(array: NDArray[Any]) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()
