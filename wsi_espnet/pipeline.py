"""A pipeline: commands of this package, one after the other, from a TOML file. What is there already is not made again.

    [given]                          # changed by --set; what is empty must be
    slide = ""
    out = "out"

    [[steps]]
    run = "segment $slide -o $out"

    [[steps]]
    run = "outlines $out"
    makes = "$out/outlines.geojson"

`$here` is the folder of the file. `pipelines/steps-*.toml` are examples.
"""

from __future__ import annotations

import shlex
import signal
import string
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from wsi_espnet.errors import UsageError
from wsi_espnet.settings import Section, parse, read_toml

Told = Callable[[int, "Step", bool], None]
"""Told of each step, before it, its number from 1 and whether it will be run."""


@dataclass(frozen=True, slots=True)
class Step:
    """One command.

    Parameters
    ----------
    words
        Of `wsi-espnet`, without its name.
    makes
        File or folder that is there once the command is done, and for which it need not be run; None runs it always.
    """

    words: tuple[str, ...]
    makes: Path | None

    @property
    def is_done(self) -> bool:
        """Whether what it makes is there."""
        return self.makes is not None and self.makes.exists()

    def __str__(self) -> str:
        return shlex.join(["wsi-espnet", *self.words])


class _Step(Section):
    run: Annotated[str, Field(min_length=1)]
    makes: str | None = None


class _File(Section):
    given: dict[str, str | int | float] = Field(default_factory=dict)
    steps: Annotated[tuple[_Step, ...], Field(min_length=1)]


def read_pipeline(path: Path, changes: Mapping[str, str]) -> tuple[Step, ...]:
    """The steps of a file, with `changes` in place of what it gives.

    Raises
    ------
    UsageError
        The file is missing, not TOML or no pipeline, a value is missing or unknown, or a step is written wrongly.
    """
    file = _parse(path)
    unknown = sorted(changes.keys() - file.given.keys())
    if unknown:
        raise UsageError(f"{path} has no value {unknown[0]!r}; it has {', '.join(file.given) or 'none'}")
    values = {name: str(value) for name, value in {**file.given, **changes}.items()}
    empty = [name for name, value in values.items() if not value]
    if empty:
        raise UsageError(f"{path} needs {', '.join(empty)}; say --set {empty[0]}=...")
    values["here"] = str(path.parent)
    return tuple(_fill(step, values, f"{path}, step {number}") for number, step in enumerate(file.steps, start=1))


def run_pipeline(steps: Sequence[Step], told: Told) -> int:
    """Run them in order, each as a process of its own, until one fails; the exit status of the last.

    To be called from the main thread: SIGTERM is passed on to the step that runs.

    Raises
    ------
    UsageError
        A step ended well, and what it should make is not there.
    """
    for number, step in enumerate(steps, start=1):
        is_done = step.is_done
        told(number, step, not is_done)
        if is_done:
            continue
        status = _run(step)
        if status:
            return status
        if step.makes is not None and not step.makes.exists():
            raise UsageError(f"step {number} ended well, but {step.makes} is not there; mend its `makes`")
    return 0


def _run(step: Step) -> int:
    with subprocess.Popen([sys.executable, "-m", "wsi_espnet", *step.words]) as process:
        # Who ends this process means the step: left alone, it would go on unseen.
        before = signal.signal(signal.SIGTERM, lambda *_: process.terminate())
        try:
            while True:
                try:
                    status = process.wait()
                except KeyboardInterrupt:  # the terminal has told the process too, which puts away what it has
                    continue
                return status if status >= 0 else 128 - status  # killed by a signal: as shells have it
        finally:
            signal.signal(signal.SIGTERM, before)


def _parse(path: Path) -> _File:
    values = read_toml(path)
    if "steps" not in values:
        raise UsageError(f"{path} has no [[steps]]{_other_use(path, values)}")
    return parse(_File, values, str(path))


def _other_use(path: Path, values: Mapping[str, Any]) -> str:
    if "augment" in values:
        return f": it holds the settings of a training, wsi-espnet train {path}"
    if {"slides", "segment", "cluster"} & values.keys():
        return f": it holds the settings of a batch, wsi-espnet batch --config {path}"
    return ""


def _fill(step: _Step, values: Mapping[str, str], place: str) -> Step:
    try:
        # Split first: a value with blanks stays one word.
        words = tuple(string.Template(word).substitute(values) for word in shlex.split(step.run))
        makes = None if step.makes is None else Path(string.Template(step.makes).substitute(values))
    except KeyError as exc:
        raise UsageError(f"{place}: nothing gives ${exc.args[0]}; there are {', '.join(values)}") from exc
    except ValueError as exc:
        raise UsageError(f"{place} cannot be read: {exc}; a $ itself is written $$") from exc
    return Step(words, makes)
