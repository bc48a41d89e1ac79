"""`wsi-espnet mask`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from wsi_espnet.cli import say


def mask(
    result: Annotated[Path, typer.Argument(help="What segment left behind: its folder, or the .ome.zarr in it.")],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="The file, .ome.tiff or .dcm [mask.ome.tiff beside the mask]."),
    ] = None,
    level: Annotated[int, typer.Option(help="Finest level that is written; each has half the px per side.")] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a file that is there.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print what was written as JSON.")] = False,
) -> None:
    """Write a mask as an OME-TIFF with all zoom levels, or as a DICOM segmentation if the slide is DICOM."""
    from dataclasses import asdict

    from wsi_espnet.mask import mask as write

    with say.progress_bar("parts") as update:
        done = write(
            result, out, level=level, overwrite=overwrite, progress=lambda done, total: update(done, total, "")
        )
    if json:
        say.print_json(asdict(done) | {"path": str(done.path)})
        return
    (height, width), (y, x) = done.shape, done.mpp
    scale = f"{x:g}" if x == y else f"{x:g} x {y:g}"
    say.out.print(f"{done.format}  {width} x {height} px of {scale} um", markup=False)
    say.out.print(str(done.path), markup=False)
