"""Reading: px of windows per second and core, beside OpenSlide's `read_region`."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import openslide
from numpy.typing import NDArray

from wsi_espnet.bench.report import Check, Report
from wsi_espnet.bench.settings import Settings
from wsi_espnet.geometry import Region
from wsi_espnet.models.catalog import find_model, read_card
from wsi_espnet.slides.slide import Slide

SIDE_PX = 8192
QUICK_SIDE_PX = 4096
ROUNDS = 3

OURS, REGION = "Slide.read", "OpenSlide's read_region, as RGB"

Read = Callable[[Region], NDArray[np.uint8]]

log = logging.getLogger(__name__)


def run(settings: Settings) -> Report:
    """Read a whole slide in windows of the bundled model, on one thread, in both ways."""
    side = QUICK_SIDE_PX if settings.quick else SIDE_PX
    path = settings.slide(side, side).path
    card = read_card(find_model("glas-colon"))
    windows = list(Region(0, 0, side, side).squares(card.core_px + 2 * card.halo_px))
    with Slide(path) as slide, openslide.OpenSlide(path) as handle:
        plan = slide.plan(None)
        ways: dict[str, Read] = {
            OURS: lambda window: slide.read(plan, window),
            REGION: lambda window: _region(handle, window),
        }
        equal = all(np.array_equal(ways[OURS](window), ways[REGION](window)) for window in windows)
        rates = {name: _rate(name, read, windows) for name, read in ways.items()}
    return _report(path, rates, equal=equal)


def _region(handle: openslide.OpenSlide, window: Region) -> NDArray[np.uint8]:
    return np.asarray(handle.read_region((window.x, window.y), 0, (window.w, window.h)).convert("RGB"))


def _rate(name: str, read: Read, windows: list[Region]) -> float:
    """Mpx per second of processor time, of the fastest round."""
    log.info("reading: %s", name)
    rates = []
    for _ in range(ROUNDS):
        started = time.process_time()
        for window in windows:
            read(window)
        rates.append(sum(window.area for window in windows) / 1e6 / (time.process_time() - started))
    return max(rates)


def _report(path: Path, rates: dict[str, float], *, equal: bool) -> Report:
    times = rates[OURS] / rates[REGION]
    return Report(
        name="reading",
        title=f"windows of {path.name} read on one core",
        columns=("way", "Mpx/s"),
        rows=[(name, f"{rate:.0f}") for name, rate in rates.items()],
        checks=(
            Check("the same px", "all", "all" if equal else "not all", equal),
            Check("as fast as read_region", ">= 2 times", f"{times:.1f} times", times >= 2),
        ),
        facts={"mpx_per_second": rates, "equal": equal},
        notes=("Aperio with JPEG tiles of 256 px; other formats are read through OpenSlide.",),
    )
