"""Settings of a training run from a TOML file, changed by `key=value`; what is wrong is said by its key."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from wsi_espnet.errors import UsageError
from wsi_espnet.training.config import TrainConfig


def read_config(
    path: str | Path, *, data: str | Path | None = None, changes: Mapping[str, Any] | None = None
) -> TrainConfig:
    """The settings of a TOML file.

    Parameters
    ----------
    path
        The file.
    data
        Takes the place of `data.root`.
    changes
        Values by dotted key, such as ``run.epochs``, which take the place of the file's.

    Raises
    ------
    UsageError
        The file is missing or not TOML, or a key is unknown, missing or of a wrong value; the message names it.
    """
    path = Path(path)
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as exc:
        raise UsageError(f"cannot read the settings {path}: {exc.strerror}") from exc
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise UsageError(f"{path} is not TOML: {exc}") from exc
    for key, value in (changes or {}).items():
        _set(values, key, value)
    if data is not None:
        _set(values, "data.root", str(data))
    return parse_config(values, str(path))


def parse_config(values: dict[str, Any], source: str) -> TrainConfig:
    """Settings from nested mappings.

    Raises
    ------
    UsageError
        A key is unknown, missing or of a wrong value; the message names it, after `source`.
    """
    try:
        return TrainConfig.model_validate(values)
    except ValidationError as exc:
        raise UsageError(f"{source}: {'; '.join(_say(error) for error in exc.errors()[:3])}") from exc


def _set(values: dict[str, Any], key: str, value: Any) -> None:
    *tables, last = key.split(".")
    for place, name in enumerate(tables):
        values = values.setdefault(name, {})
        if not isinstance(values, dict):
            raise UsageError(f"{key} cannot be set: {'.'.join(tables[: place + 1])} is a value, not a table")
    values[last] = value


def _say(error: Any) -> str:
    key = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        return f"there is no setting {key}"
    if error["type"] == "missing":
        return f"the setting {key} is missing"
    message = error["msg"].removeprefix("Value error, ")
    return (
        f"{key}: {message}, got {error['input']!r}" if error["type"] != "value_error" else f"{key or 'run'}: {message}"
    )
