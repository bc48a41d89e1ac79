"""Overhead: how much of the bare network's speed is left once slides are read, stitched and written."""

from __future__ import annotations

import logging
from typing import Any

from wsi_espnet.bench.process import Measured, measure, way
from wsi_espnet.bench.report import Check, Report
from wsi_espnet.bench.settings import MODEL, Settings
from wsi_espnet.bench.slides import ComposedSlide

log = logging.getLogger(__name__)

SIZE_PX = (20_000, 30_000)
QUICK_SIZE_PX = (8192, 8192)


def run(settings: Settings) -> Report:
    """Time the bare network, a whole run, and the bare network again."""
    slide = settings.slide(*(QUICK_SIZE_PX if settings.quick else SIZE_PX))
    options: dict[str, Any] = {"slide": str(slide.path), "model": MODEL}
    log.info("overhead: bare network")
    before = measure("bare", options)
    log.info("overhead: whole run")
    whole = measure("segment", {**options, "out": settings.result(slide, "overhead"), "traced": True})
    log.info("overhead: bare network again")
    after = measure("bare", options)
    return _report(slide, whole, bare=(before, after))


def _report(slide: ComposedSlide, whole: Measured, *, bare: tuple[Measured, Measured]) -> Report:
    windows = whole.result["windows"]
    # The faster of both is what the machine can do: noise only ever takes speed away.
    bare_seconds = min(found.result["seconds"] for found in bare)
    seconds = whole.result["seconds"]
    share = bare_seconds / seconds
    phases: dict[str, float] = whole.result["trace"]["phases"]
    spent: dict[str, float] = whole.result["trace"]["seconds_over_threads"]
    rows = [
        ("bare network, windows in memory", f"{bare_seconds:.1f} s", f"{windows / bare_seconds:.2f}"),
        ("whole run", f"{seconds:.1f} s", f"{windows / seconds:.2f}"),
        *((f"  {name}", f"{s:.1f} s", "") for name, s in phases.items()),
        *((f"    {name}, summed over threads", f"{s:.1f} s", "") for name, s in spent.items()),
    ]
    return Report(
        name="overhead",
        title="windows per second of the whole run, relative to the bare network",
        columns=("", "time", "windows/s"),
        rows=rows,
        checks=(Check("whole run, relative to the bare network", ">= 80 %", f"{share:.0%}", share >= 0.8),),
        facts=_facts(slide, whole, bare, share),
        notes=(
            f"slide: {slide.path.name}, {windows} windows, {whole.result['work_px'] / 1e6:.0f} Mpx in the network.",
            f"{way(whole)}; whole run: from the slide being opened to areas and overview written.",
        ),
    )


def _facts(slide: ComposedSlide, whole: Measured, bare: tuple[Measured, Measured], share: float) -> dict[str, Any]:
    return {
        "slide": {k: v for k, v in slide.info.items() if k not in ("cells", "images")},
        "whole": whole.facts,
        "bare": [found.facts for found in bare],
        "share_of_bare": share,
    }
