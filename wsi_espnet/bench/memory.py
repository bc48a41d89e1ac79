"""Memory: the peak of a run on a large slide and on one a sixteenth its size."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from wsi_espnet.bench.process import Measured, measure
from wsi_espnet.bench.report import Check, Report, gib
from wsi_espnet.bench.settings import MODEL, Settings
from wsi_espnet.bench.slides import ComposedSlide

log = logging.getLogger(__name__)

SIDES_PX = (10_000, 20_000, 40_000)
QUICK_SIDES_PX = (4096, 8192)

LIMIT_BYTES = 3 << 30

GROWTH_BYTES = 100 << 20
"""Peaks of the same run differ by this much from one time to the next."""


def run(settings: Settings) -> Report:
    """Segment slides of growing size at the defaults, and compare the peaks."""
    found = []
    for side in QUICK_SIDES_PX if settings.quick else SIDES_PX:
        slide = settings.slide(side, side)
        log.info("memory: %d x %d px", side, side)
        given = {"slide": str(slide.path), "out": settings.result(slide, "memory"), "model": MODEL}
        found.append((slide, measure("segment", given)))
    return _report(found)


def _report(found: Sequence[tuple[ComposedSlide, Measured]]) -> Report:
    rows = [
        (
            slide.path.name,
            f"{slide.tissue_px / 1e6:.0f}",
            gib(run.peak_bytes),
            gib(run.tree_bytes),
            f"{run.result['seconds']:.0f} s",
            f"{slide.tissue_px / 1e6 / run.result['seconds']:.2f}",
        )
        for slide, run in found
    ]
    peaks = [max(run.peak_bytes, run.tree_bytes) for _, run in found]
    growth = peaks[-1] - peaks[0]
    return Report(
        name="memory",
        title="peak memory of a whole run",
        columns=("slide", "tissue Mpx", "peak", "with children", "time", "Mpx/s"),
        rows=rows,
        checks=(
            Check("peak on the largest slide", "<= 3 GiB", gib(peaks[-1]), peaks[-1] <= LIMIT_BYTES),
            Check(
                "growth from the smallest",
                f"<= {GROWTH_BYTES >> 20} MiB",
                f"{growth >> 20} MiB",
                growth <= GROWTH_BYTES,
            ),
        ),
        facts={"runs": [{"slide": slide.path.name, **run.facts} for slide, run in found]},
        notes=("with children: resident sets of all processes added up, px that they share counted more than once.",),
    )
