"""`wsi-espnet predict`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from wsi_espnet.cli import say
from wsi_espnet.cli.segment import Backend, Precision
from wsi_espnet.cli.values import factors, size_hw


class LabelIds(StrEnum):
    """Whose ids are written."""

    CITYSCAPES = "cityscapes"


def predict(
    model: Annotated[str, typer.Argument(help="Bundled name, .safetensors or .onnx file.")],
    source: Annotated[Path, typer.Argument(metavar="IMAGE|FOLDER|VIDEO", help="Picture, folder of them, or video.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for masks and overlays.")] = Path("out"),
    overlay: Annotated[bool, typer.Option("--overlay", help="Write pictures tinted by class too.")] = False,
    label_ids: Annotated[LabelIds | None, typer.Option(help="Write the ids that its server takes too.")] = None,
    voc: Annotated[bool, typer.Option("--voc", help="Write masks in VOC's palette too.")] = False,
    size: Annotated[str | None, typer.Option(help="WxH that pictures are resized to for the network.")] = None,
    scales: Annotated[str, typer.Option(help="Factors on that size, averaged, such as 0.75,1,1.25.")] = "1",
    flip: Annotated[bool, typer.Option("--flip", help="Average with the mirrored picture.")] = False,
    mpp: Annotated[float | None, typer.Option(help="um per px of the pictures, for models of tissue.")] = None,
    backend: Annotated[Backend | None, typer.Option(help="What runs it [onnx for an .onnx file, else torch].")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    precision: Annotated[Precision, typer.Option(help="fp32 gives the same masks on every machine.")] = Precision.FP32,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files that are there.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Label photographs, other pictures and videos: palette masks, overlays, ids for servers."""
    from wsi_espnet.predict import predict as job

    with say.progress_bar("pictures") as update:
        found = job(
            model,
            source,
            out,
            overlay=overlay,
            label_ids=None if label_ids is None else label_ids.value,  # type: ignore[arg-type]  # StrEnum of one
            voc=voc,
            size=None if size is None else size_hw(size),
            scales=factors(scales),
            flip=flip,
            mpp=mpp,
            backend=None if backend is None else backend.value,
            device=device,
            precision=precision.value,
            overwrite=overwrite,
            progress=lambda done, total: update(done, total, ""),
        )
    if as_json:
        failed = [{"picture": str(f.picture), "cause": f.cause} for f in found.failures]
        video = None if found.video is None else str(found.video)
        folders = list(map(str, found.folders))
        say.print_json({"folders": folders, "masks": found.masks, "video": video, "failed": failed})
    else:
        for folder in found.folders:
            say.out.print(f"{found.masks} PNG in {folder}", markup=False)
        if found.video is not None:
            say.out.print(f"overlays: {found.video}", markup=False)
    if found.failures:
        from wsi_espnet.cli.main import fail

        first = found.failures[0]
        fail(f"error: {len(found.failures)} pictures could not be done; the first: {first.cause}", 1)
