"""`wsi-espnet info`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wsi_espnet.cli import say

if TYPE_CHECKING:
    from wsi_espnet.slides.describe import SlideInfo


def info(
    slide: Annotated[Path, typer.Argument(help="A slide that OpenSlide reads, or an OME-Zarr image.")],
    model: Annotated[str, typer.Option("--model", "-m", help="Model whose scale is looked at.")] = "glas-colon",
    slide_mpp: Annotated[float | None, typer.Option(help="um per px of the slide, where its file is silent.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """Say what a slide is: vendor, levels, scale, bounds, and which level a model would read."""
    from wsi_espnet.models.catalog import find_model, read_card
    from wsi_espnet.slides.describe import describe
    from wsi_espnet.slides.source import open_source

    card = read_card(find_model(model))
    with open_source(slide, mpp=slide_mpp) as source:
        facts = describe(source, model_mpp=card.mpp)
    if as_json:
        say.print_json(facts.model_dump(mode="json"))
    else:
        _print(facts, card.name)


def _print(facts: SlideInfo, model: str) -> None:
    b = facts.bounds
    rows = [
        ("slide", facts.path),
        ("vendor", facts.vendor),
        ("scale", "not stated" if facts.mpp is None else f"{_pair(facts.mpp)} um per px"),
        ("objective", "not stated" if facts.power is None else f"{facts.power:g}x"),
        ("bounds", f"{b.width} x {b.height} px at x {b.x}, y {b.y}"),
    ]
    rows += [("image", f"{name}, {w} x {h} px") for name, (h, w) in facts.associated_images.items()]
    reads = facts.reads
    if reads is None:
        rows.append((model, "has no scale of its own"))
    elif reads.refused is not None:
        rows.append((model, f"cannot read it: {reads.refused}"))
    else:
        assert reads.mpp is not None
        assert reads.factor is not None
        how = f"level {reads.level}, shrunk by {_pair(reads.factor)}, as {reads.width} x {reads.height} px"
        rows.append((model, f"reads {how} of {_pair(reads.mpp)} um"))
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        say.out.print(f"{name:<{width}}  {value}", markup=False)
    say.out.print()
    say.print_table(
        ["level ", "width ", "height ", "downsample ", "um per px "],
        [
            (
                str(lv.index),
                str(lv.width),
                str(lv.height),
                f"{lv.downsample:.6g}",
                "-" if lv.mpp is None else _pair(lv.mpp),
            )
            for lv in facts.levels
        ],
    )


def _pair(yx: tuple[float, float]) -> str:
    """One number where both axes agree to what is shown, else both."""
    y, x = (f"{value:.5g}" for value in yx)
    return y if y == x else f"{y} (y) {x} (x)"
