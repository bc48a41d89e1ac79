"""Which models and class tables there are, and what their cards say, without loading torch."""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import ValidationError

from wsi_espnet.classes import ClassTable
from wsi_espnet.errors import ModelError
from wsi_espnet.models.card import ModelCard

SUFFIX = ".safetensors"
CARD_KEY = "card"
"""Key of the card, as JSON text, in the metadata of a file of weights."""

ZOO = Path(__file__).parent / "zoo"
TABLES = Path(__file__).parent / "class_tables"

_LENGTH_BYTES = 8
_HEADER_LIMIT = 100_000_000
"""A longer header is refused by the safetensors library too (github.com/huggingface/safetensors, README,
Format)."""


def bundled_models() -> list[Path]:
    """The model files that come with the package, sorted by name."""
    return sorted(ZOO.glob(f"*{SUFFIX}"))


def find_model(ref: str | Path) -> Path:
    """The file that a bundled name or a path stands for.

    Parameters
    ----------
    ref
        Name of a bundled model such as ``glas-colon``, or the path of a ``.safetensors`` file. An existing
        file goes before a bundled name.

    Raises
    ------
    ModelError
        Neither exists; the message lists the bundled names.
    """
    path = Path(ref)
    if path.is_file():
        return path
    bundled = {p.stem: p for p in bundled_models()}
    if str(ref) in bundled:
        return bundled[str(ref)]
    names = ", ".join(bundled) or "none"
    raise ModelError(f"no model {str(ref)!r}: it is neither a {SUFFIX} file nor a bundled model ({names})")


def read_card(path: str | Path) -> ModelCard:
    """The card inside a file of weights; the weights themselves are not read.

    Raises
    ------
    ModelError
        The file is missing, damaged, of another kind, or carries no valid card.
    """
    path = Path(path)
    metadata = _read_header(path).get("__metadata__", {})
    if not isinstance(metadata, dict) or CARD_KEY not in metadata:
        raise ModelError(
            f"{path} holds weights without a model card; save them with wsi_espnet.models.weights.save_model"
        )
    try:
        return ModelCard.model_validate_json(metadata[CARD_KEY])
    except ValidationError as exc:
        raise ModelError(f"the model card in {path} is not valid: {_first_line(exc)}") from exc


def class_table_names() -> list[str]:
    """The class tables that come with the package."""
    return sorted(p.stem for p in TABLES.glob("*.json"))


def class_table(name: str) -> ClassTable:
    """A class table by its name, such as ``glas-grade``.

    Raises
    ------
    ModelError
        There is no such table; the message lists those there are.

    Examples
    --------
    >>> class_table("glas-grade").names
    ('glass and stroma', 'benign gland', 'malignant gland')
    """
    if name not in class_table_names():
        raise ModelError(f"no class table {name!r}; there are {', '.join(class_table_names())}")
    return ClassTable.model_validate_json((TABLES / f"{name}.json").read_text(encoding="utf-8"))


def _read_header(path: Path) -> dict[str, object]:
    """JSON header of a safetensors file: its length in 8 bytes, the JSON, then the tensors."""
    try:
        with path.open("rb") as file:
            start = file.read(_LENGTH_BYTES)
            length = int.from_bytes(start, "little")
            _refuse_other_kinds(path, start, length)
            text = file.read(length)
    except OSError as exc:
        raise ModelError(f"cannot read the model file {path}: {exc.strerror}") from exc
    if len(text) < length:
        raise ModelError(f"{path} is damaged: its header ends after {len(text)} of {length} bytes; fetch it again")
    try:
        header = json.loads(text)
    except ValueError as exc:
        raise ModelError(f"{path} is damaged or not a {SUFFIX} file: its header is not JSON") from exc
    if not isinstance(header, dict):
        raise ModelError(f"{path} is damaged or not a {SUFFIX} file: its header is not a JSON object")
    _refuse_truncated(path, header, _LENGTH_BYTES + length)
    return header


def _refuse_other_kinds(path: Path, start: bytes, length: int) -> None:
    if path.suffix in {".pth", ".pt", ".ckpt"} or start[:2] == b"PK" or start[:2] == b"\x80\x02":
        raise ModelError(
            f"{path} is a PyTorch or zip file, not {SUFFIX}; "
            "the original authors' .pth files are converted with `wsi-espnet models import`"
        )
    if len(start) < _LENGTH_BYTES or not 2 <= length <= _HEADER_LIMIT:
        raise ModelError(f"{path} is not a {SUFFIX} file: it does not start with the length of a header")


def _refuse_truncated(path: Path, header: dict[str, object], data_start: int) -> None:
    tensors = [t for key, t in header.items() if key != "__metadata__"]
    ends = [t["data_offsets"][1] for t in tensors if isinstance(t, dict) and "data_offsets" in t]
    expected = data_start + max(ends, default=0)
    size = path.stat().st_size
    if size != expected:
        raise ModelError(f"{path} is damaged: it has {size} bytes, its header tells of {expected}; fetch it again")


def _first_line(exc: ValidationError) -> str:
    error = exc.errors()[0]
    place = ".".join(str(part) for part in error["loc"])
    return f"{place}: {error['msg']}" if place else error["msg"]
