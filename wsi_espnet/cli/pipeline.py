"""`wsi-espnet run`."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wsi_espnet.cli import say
from wsi_espnet.cli.values import pairs
from wsi_espnet.errors import UsageError

if TYPE_CHECKING:
    from wsi_espnet.pipeline import Step


def pipeline(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="A pipeline as TOML; pipelines/steps-*.toml are some to start from.")
    ],
    changes: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Change a value that the file gives.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the commands, and run none.")] = False,
) -> None:
    """Run the commands of a file in order; started again, it goes on with what is not made yet."""
    from wsi_espnet.cli.main import INTERRUPTED, fail
    from wsi_espnet.pipeline import read_pipeline, run_pipeline

    steps = read_pipeline(file, pairs(changes, "--set"))
    _ensure_commands(steps)
    if dry_run:
        for step in steps:
            say.out.out(f"# {step.makes} is there" if step.is_done else str(step))
        return
    reached = 0

    def told(number: int, step: Step, is_run: bool) -> None:
        nonlocal reached
        reached = number
        text = str(step) if is_run else f"{step.makes} is there"
        say.err.out(f"step {number} of {len(steps)}: {text}")

    status = run_pipeline(steps, told)
    if status:
        why = "was interrupted" if status == INTERRUPTED else f"left with status {status}, for the reason above"
        fail(f"step {reached} of {len(steps)} {why}; the same command goes on there", status)


def _ensure_commands(steps: Sequence[Step]) -> None:
    """Hold all commands against what they take, so that the last is not refused after hours of the first."""
    for number, step in enumerate(steps, start=1):
        place = f"step {number}, {step}"
        if step.words[:1] == ("run",):
            raise UsageError(f"{place}: a pipeline runs no other, nor itself; write its steps here")
        try:
            with contextlib.redirect_stdout(io.StringIO()):  # --help and --version are said at once
                _parse(list(step.words))
        except typer.TyperException as exc:
            raise UsageError(f"{place}: {exc.format_message().rstrip('.')}") from exc
        except typer.Exit as exc:
            raise UsageError(f"{place}, does nothing; leave it out") from exc


def _parse(words: list[str]) -> None:
    """Read the words of a command as Typer would, and run nothing."""
    from wsi_espnet.cli.main import app

    command: Any = typer.main.get_command(app)
    context = command.make_context("wsi-espnet", words)
    while hasattr(command, "resolve_command"):  # a group
        name, command, rest = command.resolve_command(context, [*context._protected_args, *context.args])
        context = command.make_context(name, rest, parent=context)
