"""Values that are written in their own way on the command line."""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Iterable
from typing import Any

from wsi_espnet.budget import size_bytes as size_bytes
from wsi_espnet.errors import UsageError


def options_of(settings: Iterable[str]) -> dict[str, Any]:
    """Options from ``key=value`` texts; a value is read as TOML where it is that, and is a text otherwise.

    Raises
    ------
    UsageError
        One of them has no key or no equals sign, or a dot of its key stands alone.

    Examples
    --------
    >>> options_of(["grade=false", 'held_out=["3", "6"]', "target=cs19_strict"])
    {'grade': False, 'held_out': ['3', '6'], 'target': 'cs19_strict'}
    """
    options: dict[str, Any] = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        key = key.strip()
        if not equals or not all(part.strip() for part in key.split(".")):
            raise UsageError(f"a setting is written key=value, such as run.epochs=20, got {setting!r}")
        try:
            options[key] = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            options[key] = value
    return options


def shard_of(text: str) -> tuple[int, int]:
    """Number and count of a shard.

    Raises
    ------
    UsageError
        It is not written i/n.

    Examples
    --------
    >>> shard_of("3/8")
    (3, 8)
    """
    found = re.fullmatch(r"\s*(\d{1,6})\s*/\s*(\d{1,6})\s*", text)
    if found is None:
        raise UsageError(f"--shard is written i/n, such as 3/8, got {text!r}")
    return int(found[1]), int(found[2])


def size_hw(text: str) -> tuple[int, int]:
    """Height and width of a size that is written width first.

    Raises
    ------
    UsageError
        It is not a size.

    Examples
    --------
    >>> size_hw("1024x512")
    (512, 1024)
    """
    found = re.fullmatch(r"\s*(\d{1,6})\s*x\s*(\d{1,6})\s*", text.lower())
    if found is None:
        raise UsageError(f"--size looks like 1024x512 (width x height in px), got {text!r}")
    return int(found[2]), int(found[1])


def factors(text: str) -> tuple[float, ...]:
    """Numbers between commas.

    Raises
    ------
    UsageError
        One is not a number.

    Examples
    --------
    >>> factors("0.75,1,1.25")
    (0.75, 1.0, 1.25)
    """
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as exc:
        raise UsageError(f"--scales looks like 0.75,1,1.25, got {text!r}") from exc


def triple(text: str, option: str) -> tuple[float, float, float]:
    """Three numbers between commas, one for each channel.

    Raises
    ------
    UsageError
        They are not three, or one is not a number.

    Examples
    --------
    >>> triple("72.4,82.9,73.2", "--mean")
    (72.4, 82.9, 73.2)
    """
    try:
        first, second, third = (float(part) for part in text.split(","))
    except ValueError:
        first = second = third = math.nan
    if not math.isfinite(first + second + third):
        raise UsageError(f"{option} looks like 72.4,82.9,73.2 (one number for each channel), got {text!r}")
    return first, second, third


def pairs(texts: Iterable[str] | None, option: str) -> dict[str, str]:
    """What NAME=VALUE says, given several times.

    Raises
    ------
    UsageError
        One has no equals sign or no name, or a name comes twice.

    Examples
    --------
    >>> pairs(["traffic sign=sign", "*=void"], "--map")
    {'traffic sign': 'sign', '*': 'void'}
    """
    found: dict[str, str] = {}
    for text in texts or ():
        name, equals, value = (part.strip() for part in text.partition("="))
        if not (name and equals and value):
            raise UsageError(f"{option} looks like NAME=VALUE, got {text!r}")
        if name in found:
            raise UsageError(f"{option} says {name!r} twice; say it once")
        found[name] = value
    return found
