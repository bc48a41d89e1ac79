"""Settings from TOML files: what their tables have in common, reading them, changing them by dotted key."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from wsi_espnet.errors import UsageError

Share = Annotated[float, Field(ge=0, le=1)]
BelowOne = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Whole = Annotated[int, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]

Settings = TypeVar("Settings", bound=BaseModel)

FAULTS = 3
"""How many faults of a file are told at once."""


class Section(BaseModel):
    """A table: frozen, and with no key but those listed."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def read_toml(path: Path) -> dict[str, Any]:
    """What a TOML file holds, as nested mappings.

    Raises
    ------
    UsageError
        It is missing, or no TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as exc:
        raise UsageError(f"cannot read the settings {path}: {exc.strerror}") from exc
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise UsageError(f"{path} is not TOML: {exc}") from exc


def change(values: dict[str, Any], changes: Mapping[str, Any]) -> None:
    """Put values in by dotted key, such as ``run.epochs``, in place of those that are there.

    Raises
    ------
    UsageError
        Something before a dot is no table.
    """
    for key, value in changes.items():
        table = values
        *tables, last = key.split(".")
        for place, name in enumerate(tables):
            table = table.setdefault(name, {})
            if not isinstance(table, dict):
                raise UsageError(f"{key} cannot be set: {'.'.join(tables[: place + 1])} is a value, not a table")
        table[last] = value


def parse(kind: type[Settings], values: Mapping[str, Any], source: str) -> Settings:
    """Settings of a kind from nested mappings.

    Raises
    ------
    UsageError
        A key is unknown, missing or of a wrong value; the message names it, after `source`.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as exc:
        raise UsageError(f"{source}: {'; '.join(_say(error) for error in exc.errors()[:FAULTS])}") from exc


def _say(error: Any) -> str:
    key = ".".join(str(part) for part in error["loc"])
    message = error["msg"].removeprefix("Value error, ")
    match error["type"]:
        case "extra_forbidden":
            return f"there is no setting {key}"
        case "missing":
            return f"the setting {key} is missing"
        case "value_error":
            return f"{key}: {message}" if key else message
        case _:
            return f"{key}: {message}, got {error['input']!r}"
