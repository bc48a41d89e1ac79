"""`wsi-espnet tile`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from wsi_espnet.cli import say


def tile(
    slide: Annotated[Path, typer.Argument(help="A slide that OpenSlide reads, or an OME-Zarr image.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The OME-Zarr folder to write, such as X.ome.zarr.")],
    mpp: Annotated[float | None, typer.Option(help="um per px of the largest level [the slide's own].")] = None,
    slide_mpp: Annotated[float | None, typer.Option(help="um per px of the slide, where its file is silent.")] = None,
    allow_upsampling: Annotated[
        bool, typer.Option("--allow-upsampling", help="Enlarge a slide that is too coarse.")
    ] = False,
    tissue_only: Annotated[bool, typer.Option("--tissue-only", help="Store only chunks that touch tissue.")] = False,
    tissue: Annotated[str, typer.Option(help="auto, or a mask image or GeoJSON file; kept for segment.")] = "auto",
    workers: Annotated[int | None, typer.Option(help="Threads [one per core].")] = None,
    resume: Annotated[bool, typer.Option(help="Go on with a run that was cut short.")] = True,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a Zarr that is there.")] = False,
) -> None:
    """Write a slide as an OME-Zarr image (NGFF 0.5) at a chosen scale; `segment` reads it like the slide."""
    from wsi_espnet.errors import TissueError
    from wsi_espnet.machine import cores
    from wsi_espnet.slides.source import open_source
    from wsi_espnet.slides.tile import tile as write
    from wsi_espnet.slides.tissue import find_tissue, load_tissue

    with open_source(slide, mpp=slide_mpp) as source, say.progress_bar("shards") as update:
        plan = source.plan(mpp, allow_upsampling=allow_upsampling)
        try:
            mask = find_tissue(source, plan) if tissue == "auto" else load_tissue(tissue, source, plan)
        except TissueError:
            if tissue_only or tissue != "auto":
                raise
            mask = None  # a slide of glass alone is written all the same, without a mask
        written = write(
            source,
            out,
            mpp=mpp,
            allow_upsampling=allow_upsampling,
            tissue=mask,
            whole=not tissue_only,
            overwrite=overwrite,
            resume=resume,
            workers=cores() if workers is None else workers,
            progress=lambda done, total: update(done, total, ""),
        )
    say.out.print(str(written), markup=False)
