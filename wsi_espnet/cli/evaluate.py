"""`wsi-espnet evaluate`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wsi_espnet.cli import say
from wsi_espnet.cli.segment import Backend, Precision
from wsi_espnet.cli.values import factors, options_of, pairs, size_hw

if TYPE_CHECKING:
    from wsi_espnet.evaluate import Evaluation


def evaluate(
    model: Annotated[str, typer.Argument(help="Bundled name, .safetensors or .onnx file.")],
    dataset: Annotated[str, typer.Argument(help="Adapter by name, such as camvid.")],
    data: Annotated[Path, typer.Option(help="Root folder of the data set.")],
    split: Annotated[str, typer.Option(help="Which split.")] = "val",
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Option of the data set.")
    ] = None,
    size: Annotated[str | None, typer.Option(help="WxH that pictures are resized to for the network.")] = None,
    scales: Annotated[str, typer.Option(help="Factors on that size, averaged, such as 0.75,1,1.25.")] = "1",
    flip: Annotated[bool, typer.Option("--flip", help="Average with the mirrored picture.")] = False,
    void_as_error: Annotated[
        bool, typer.Option("--void-as-error", help="Void px count against the class they are called.")
    ] = False,
    class_map: Annotated[
        list[str] | None, typer.Option("--map", help='MODEL_CLASS=CLASS or =void; "*=void" for all others.')
    ] = None,
    backend: Annotated[Backend | None, typer.Option(help="What runs it [onnx for an .onnx file, else torch].")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    precision: Annotated[Precision, typer.Option(help="fp32 gives the same scores on every machine.")] = Precision.FP32,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder for scores and confusion matrix.")] = None,
    save_masks: Annotated[
        bool, typer.Option("--save-masks", help="Write the masks too, Cityscapes' as its script takes them.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files that are there.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the scores as JSON.")] = False,
) -> None:
    """Score a model on a data set: IoU, Dice and accuracy from one confusion matrix."""
    from wsi_espnet.errors import UsageError
    from wsi_espnet.evaluate import evaluate as job

    if save_masks and out is None:
        raise UsageError("--save-masks needs a folder to write to; give --out")
    with say.progress_bar("images") as update:
        found = job(
            model,
            dataset,
            data=data,
            split=split,
            options=options_of(settings or []),
            size=None if size is None else size_hw(size),
            scales=factors(scales),
            flip=flip,
            void_as_error=void_as_error,
            class_map=pairs(class_map, "--map"),
            backend=None if backend is None else backend.value,
            device=device,
            precision=precision.value,
            out=out,
            save_masks=save_masks,
            overwrite=overwrite,
            progress=lambda done, total: update(done, total, ""),
        )
    if as_json:
        say.print_json({**found.about, **found.scores.facts})
    else:
        _print(found)


def _print(found: Evaluation) -> None:
    scores, about = found.scores, found.about
    truth = scores.counts[:-1].sum()
    rows = [
        (name, _percent(iou), _percent(dice), _percent(accuracy), _percent(px / truth if truth else math.nan))
        for name, iou, dice, accuracy, px in zip(
            scores.names, scores.iou, scores.dice, scores.accuracy, scores.counts[:-1].sum(axis=1), strict=True
        )
    ]
    say.print_table(["class", "IoU ", "Dice ", "accuracy ", "of truth "], rows)
    if scores.category_iou:
        say.out.print()
        say.print_table(["category", "IoU "], [(name, _percent(v)) for name, v in scores.category_iou.items()])
    say.out.print()
    say.print_table(["", ""], [(name, _percent(value)) for name, value in scores.means.items()])
    options = "".join(f", {key} {value}" for key, value in about["options"].items())
    void = "counts as an error" if scores.void_as_error else "is ignored"
    say.out.print(
        f"{about['model']} on {about['images']} images of {about['data set']} {about['split']}{options} "
        f"({about['class table']}); void {void}",
        markup=False,
    )
    if scores.absent:
        say.out.print(f"left out of the means, being nowhere: {', '.join(scores.absent)}", markup=False)
    for path in found.files[:3]:
        say.out.print(f"written  {path}", markup=False)
    if masks := found.files[3:]:
        say.out.print(f"written  {len(masks)} masks in {masks[0].parent}", markup=False)


def _percent(value: float) -> str:
    return "-" if math.isnan(value) else f"{100 * value:.2f}"
