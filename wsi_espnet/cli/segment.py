"""`wsi-espnet segment`."""

from __future__ import annotations

import time
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wsi_espnet.cli import say
from wsi_espnet.cli.values import size_bytes

if TYPE_CHECKING:
    from wsi_espnet.segment import SegmentResult


class Stitch(StrEnum):
    """How windows become one image."""

    BLEND = "blend"
    CROP = "crop"


class Precision(StrEnum):
    """Type that convolutions are computed in."""

    AUTO = "auto"
    FP32 = "fp32"
    BF16 = "bf16"
    FP16 = "fp16"


class Backend(StrEnum):
    """Program that runs the network."""

    TORCH = "torch"
    ONNX = "onnx"
    OPENVINO = "openvino"


def segment(
    slide: Annotated[Path, typer.Argument(help="A slide that OpenSlide reads, or an OME-Zarr image.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for mask, areas and overview.")] = Path("out"),
    model: Annotated[
        str, typer.Option("--model", "-m", help="Bundled name, .safetensors or .onnx file.")
    ] = "glas-colon",
    tissue: Annotated[str, typer.Option(help="auto, none, or a mask image or GeoJSON file.")] = "auto",
    mpp: Annotated[float | None, typer.Option(help="um per px given to the network [the model's own].")] = None,
    slide_mpp: Annotated[float | None, typer.Option(help="um per px of the slide, where its file is silent.")] = None,
    allow_upsampling: Annotated[
        bool, typer.Option("--allow-upsampling", help="Enlarge a slide that is too coarse.")
    ] = False,
    stitch: Annotated[Stitch, typer.Option(help="Average windows where they meet, or cut them.")] = Stitch.BLEND,
    window: Annotated[int | None, typer.Option(help="Side of a window in px, halo included [the model's].")] = None,
    halo: Annotated[int | None, typer.Option(help="Px of context on each side of a window [the model's].")] = None,
    backend: Annotated[Backend | None, typer.Option(help="What runs it [onnx for an .onnx file, else torch].")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    precision: Annotated[Precision, typer.Option(help="auto takes bf16 where the machine has it.")] = Precision.AUTO,
    batch: Annotated[int, typer.Option(help="Windows per call of the network.")] = 1,
    workers: Annotated[int | None, typer.Option(help="Windows computed at once [one per core].")] = None,
    memory: Annotated[
        str | None, typer.Option(help="What the run may use, such as 3GiB [80 % of what is free].")
    ] = None,
    scheduler: Annotated[str | None, typer.Option(help="Address of a running Dask scheduler.")] = None,
    probabilities: Annotated[bool, typer.Option("--probabilities", help="Keep the probabilities too.")] = False,
    resume: Annotated[bool, typer.Option(help="Go on with a run that was cut short.")] = True,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a result that is there.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Segment a slide: mask as OME-Zarr, areas as CSV and JSON, an overview picture."""
    from wsi_espnet.segment import Progress
    from wsi_espnet.segment import segment as job

    started = time.monotonic()
    with say.progress_bar("windows") as update:

        def progress(p: Progress) -> None:
            rate = p.done_px / 1e6 / max(1e-9, time.monotonic() - started)
            update(p.done, p.total, f"{rate:.1f} Mpx/s")

        result = job(
            slide,
            out,
            model=model,
            slide_mpp=slide_mpp,
            mpp=mpp,
            allow_upsampling=allow_upsampling,
            tissue=tissue,
            window=window,
            halo=halo,
            stitch=stitch.value,
            backend=None if backend is None else backend.value,
            device=device,
            precision=precision.value,
            batch=batch,
            workers=workers,
            memory_bytes=None if memory is None else size_bytes(memory),
            probabilities=probabilities,
            overwrite=overwrite,
            resume=resume,
            scheduler=scheduler,
            progress=progress,
        )
    _print(result, as_json=as_json)
    if result.failures:
        from wsi_espnet.cli.main import fail

        first = result.failures[0]
        fail(
            f"error: {len(result.failures)} of {result.windows} windows could not be read and are unlabelled (255) in "
            f"the mask; the first: {first.cause}",
            1,
        )


def _print(result: SegmentResult, *, as_json: bool) -> None:
    areas = result.areas
    if as_json:
        say.print_json(
            {
                "mask": str(result.path),
                "overview": str(result.overview),
                "areas_csv": str(result.areas_csv),
                "areas_json": str(result.areas_json),
                "mpp": list(result.plan.mpp),
                "tissue_mm2": areas.tissue_mm2,
                "classes": {c.name: {"mm2": c.mm2, "share_of_tissue": c.share_of_tissue} for c in areas.classes},
                "unlabelled_mm2": areas.unlabelled.mm2,
                "windows": result.windows,
                "computed": result.computed,
                "failed": [{"index": list(f.index), "cause": f.cause} for f in result.failures],
                "seconds": round(result.seconds, 3),
            }
        )
        return
    rows = [(c.name, f"{c.mm2:.3f}", f"{c.share_of_tissue:.1%}") for c in areas.classes]
    if areas.unlabelled.px:
        rows.append(("(unlabelled)", f"{areas.unlabelled.mm2:.3f}", f"{areas.unlabelled.share_of_tissue:.1%}"))
    rows.append(("tissue", f"{areas.tissue_mm2:.3f}", ""))
    say.print_table(["class", "mm2 ", "of tissue "], rows)
    say.out.print(f"mask      {result.path}", markup=False)
    say.out.print(f"overview  {result.overview}", markup=False)
    say.out.print(f"areas     {result.areas_csv}", markup=False)
