"""`wsi-espnet sample`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from wsi_espnet.cli import say


def sample(
    name: Annotated[str | None, typer.Argument(help="Which sample; without it they are listed.")] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to put it into.")] = Path(),
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a file that is there.")] = False,
) -> None:
    """List the sample slides, or make or download one."""
    from wsi_espnet.slides.sample import SAMPLES, make_sample

    if name is None:
        say.print_table(["sample", "what it is"], [(key, entry.summary) for key, entry in SAMPLES.items()])
    else:
        say.out.print(str(make_sample(name, out, overwrite=overwrite)), markup=False)
