"""`wsi-espnet train`."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wsi_espnet.cli import say
from wsi_espnet.cli.values import options_of

if TYPE_CHECKING:
    from wsi_espnet.training.callbacks import TrainProgress


def train(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="Settings as TOML; pipelines/ holds some to start from.")
    ],
    data: Annotated[Path | None, typer.Option(help="Folder of the data set [data.root of the file].")] = None,
    changes: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a setting, such as run.epochs=20.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder of the run [runs/NAME].")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a run that is there.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Train a network; started again, a run that was cut short goes on."""
    from wsi_espnet.budget import keep_freed_memory
    from wsi_espnet.training.config import read_config
    from wsi_espnet.training.extra import ensure_extra

    ensure_extra()
    config = read_config(file, data=data, changes=options_of(changes or []))
    from wsi_espnet.train import train as job

    keep_freed_memory()  # this process does nothing else, so here and not in the job, which may be one of many things
    with say.progress_bar("steps") as update:

        def progress(p: TrainProgress) -> None:
            scored = "" if p.miou is None else f", mIoU {p.miou:.3f}"
            update(p.step, p.steps, f"epoch {p.epoch}/{p.epochs}, loss {p.loss:.3f}{scored}")

        result = job(
            config,
            out or Path("runs") / config.name,
            command=shlex.join(["wsi-espnet", *sys.argv[1:]]),
            overwrite=overwrite,
            progress=progress,
        )
    if os.environ.get("LOCAL_RANK", "0") != "0":
        return  # one of several processes that train together; the first of them speaks
    if as_json:
        say.print_json(
            {"model": str(result.model), "folder": str(result.folder), "epoch": result.epoch, "mIoU": result.miou}
        )
        return
    say.out.print(f"mIoU    {result.miou:.4f} on {config.data.validation}, epoch {result.epoch}", markup=False)
    say.out.print(f"model   {result.model}", markup=False)
    say.out.print(f"curves  {result.folder / 'curves.png'}", markup=False)
