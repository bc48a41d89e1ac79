"""`wsi-espnet outlines`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from wsi_espnet.cli import say


def outlines(
    result: Annotated[Path, typer.Argument(help="What segment left behind: its folder, or the .ome.zarr in it.")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="The .geojson file [outlines.geojson beside the mask].")
    ] = None,
    simplify: Annotated[float, typer.Option(help="um by which corners are cut; 0 follows every px.")] = 1.0,
    least_area: Annotated[float, typer.Option(help="um2 below which regions are left out and holes filled.")] = 100.0,
    uncropped: Annotated[
        bool, typer.Option("--uncropped", help="Count from the whole scan area, not from the slide's bounds.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a file that is there.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print regions and areas as JSON.")] = False,
) -> None:
    """Write the regions of a mask as GeoJSON, which QuPath opens as annotations: drag the file onto the slide."""
    from dataclasses import asdict

    from wsi_espnet.outlines import outlines as write

    with say.progress_bar("blocks") as update:
        done = write(
            result,
            out,
            simplify_um=simplify,
            least_um2=least_area,
            uncropped=uncropped,
            overwrite=overwrite,
            progress=lambda done, total: update(done, total, ""),
        )
    if json:
        say.print_json({"path": str(done.path), "classes": [asdict(row) for row in done.classes]})
        return
    say.print_table(
        ["class", "regions ", "mm2 "], [(row.name, str(row.regions), f"{row.mm2:.3f}") for row in done.classes]
    )
    say.out.print(str(done.path), markup=False)
