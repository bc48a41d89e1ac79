"""Files of weights: tensors and card in one `.safetensors`, read strictly, written whole or not at all."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor, nn

from wsi_espnet.atomic import write_bytes_atomic
from wsi_espnet.errors import ModelError, OutputError
from wsi_espnet.models.card import ModelCard
from wsi_espnet.models.catalog import CARD_KEY, SUFFIX, find_model, read_card
from wsi_espnet.models.networks import Network, build


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A network with its card, ready to be asked.

    Parameters
    ----------
    card
        What it is and what it was trained on.
    module
        In evaluation mode, on the CPU, float32.
    sha256
        Hex digest of the file that it came from.
    """

    card: ModelCard
    module: Network
    sha256: str


def load_model(ref: str | Path) -> LoadedModel:
    """A network from a bundled name or a `.safetensors` file with a card.

    Raises
    ------
    ModelError
        There is no such model, the file is damaged or of another kind, or its tensors do not fit its card.
    """
    path = find_model(ref)
    card = read_card(path)
    content = path.read_bytes()
    try:
        tensors = safetensors.torch.load(content)
    except SafetensorError as exc:
        raise ModelError(f"{path} is damaged: {exc}; fetch it again") from exc
    module = build(card.network)
    ensure_same_tensors(tensors, module.state_dict(), f"the tensors of {path} do not fit its card")
    module.load_state_dict(tensors, strict=True)
    return LoadedModel(card=card, module=module.eval(), sha256=hashlib.sha256(content).hexdigest())


def save_model(path: str | Path, module: nn.Module, card: ModelCard, *, overwrite: bool = False) -> Path:
    """Write weights and card as one `.safetensors` file, which appears whole or not at all.

    Parameters
    ----------
    path
        Must end in ``.safetensors``; its folder is made if need be.
    module
        Built from ``card.network``.
    card
        Stored as JSON in the file's metadata.
    overwrite
        Whether a file at `path` may be replaced.

    Raises
    ------
    ModelError
        The module's tensors do not fit the card.
    OutputError
        The file exists and may not be replaced, has another suffix, or cannot be written.
    """
    path = Path(path)
    ensure_can_save(path, overwrite=overwrite)
    tensors = {key: t.detach().cpu().contiguous() for key, t in module.state_dict().items()}
    wanted = build(card.network).state_dict()
    ensure_same_tensors(tensors, wanted, f"the module for {path} does not fit its card")
    content = safetensors.torch.save(tensors, metadata={CARD_KEY: card.model_dump_json()})
    write_bytes_atomic(path, content)
    return path


def ensure_can_save(path: Path, *, overwrite: bool) -> None:
    """Refuse a name that `save_model` would refuse, before what is to be saved is computed.

    Raises
    ------
    OutputError
        The file exists and may not be replaced, or has another suffix.
    """
    if path.suffix != SUFFIX:
        raise OutputError(f"a model file must end in {SUFFIX}, got {path.name!r}")
    if path.exists() and not overwrite:
        raise OutputError(f"{path} exists and is not replaced; choose another name, or allow it with --overwrite")


def ensure_same_tensors(got: dict[str, Tensor], wanted: dict[str, Tensor], complaint: str) -> None:
    """Refuse tensors that differ from the wanted ones in name or shape.

    Raises
    ------
    ModelError
        `complaint`, followed by what is missing, not known, or of another shape.
    """
    missing = sorted(wanted.keys() - got.keys())
    extra = sorted(got.keys() - wanted.keys())
    if missing or extra:
        raise ModelError(
            f"{complaint}: {len(missing)} missing ({', '.join(missing[:3])}), "
            f"{len(extra)} not known ({', '.join(extra[:3])})"
        )
    for key, tensor in got.items():
        if tensor.shape != wanted[key].shape:
            raise ModelError(
                f"{complaint}: {key} has shape {tuple(tensor.shape)} instead of {tuple(wanted[key].shape)}"
            )
