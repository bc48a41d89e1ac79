"""Speed: tissue that is segmented per second, beside the usual ways with the same weights on the same slide."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tifffile
import zarr
from numpy.typing import NDArray

from wsi_espnet.bench.baselines import ensure_monai
from wsi_espnet.bench.process import Measured, measure, way
from wsi_espnet.bench.report import Check, Report, gib
from wsi_espnet.bench.scores import confusion
from wsi_espnet.bench.settings import MODEL, Settings
from wsi_espnet.bench.slides import ComposedSlide
from wsi_espnet.scores import iou

log = logging.getLogger(__name__)

SIZE_PX = (16_000, 20_000)
QUICK_SIZE_PX = (8192, 8192)
CLASSES = 3

OVERLAP = 0.25
"""MONAI's own default of a window's overlap with its neighbour."""
PLAIN_HALO_PX = 64

OURS = "wsi_espnet, as it comes"
MONAI, PLAIN = "MONAI SlidingWindowInferer in RAM, fp32", "plain read_region loop, glass skipped, fp32"


@dataclass(frozen=True, slots=True)
class Timing:
    """One way to segment the slide, and what came of it."""

    name: str
    run: Measured
    tissue_px: int
    miou: float

    @property
    def seconds(self) -> float:
        """From the slide being opened to everything being written; imports are left out, here as for the others."""
        return float(self.run.result["seconds"])

    @property
    def mpx_per_second(self) -> float:
        """Mpx of tissue per second."""
        return self.tissue_px / 1e6 / self.seconds

    @property
    def facts(self) -> dict[str, Any]:
        """JSON-able."""
        return {"name": self.name, "tissue_mpx_per_second": self.mpx_per_second, "miou": self.miou, **self.run.facts}


def run(settings: Settings) -> Report:
    """Time this package and the baselines on one slide, one after the other."""
    ensure_monai()  # before minutes have passed
    slide = settings.slide(*(QUICK_SIZE_PX if settings.quick else SIZE_PX))
    truth: NDArray[np.uint8] = tifffile.imread(slide.truth)
    timings = [_timed(name, found, slide, truth) for name, found in _runs(settings, slide)]
    return _report(slide, timings)


def _runs(settings: Settings, slide: ComposedSlide) -> list[tuple[str, Measured]]:
    def ours(name: str, **options: Any) -> tuple[str, Measured]:
        log.info("speed: %s", name.strip())
        out = settings.result(slide, "speed" + "".join(f"-{key}" for key in options))
        given = {"slide": str(slide.path), "out": out, "model": MODEL, **options}
        return name, measure("segment", given)

    found: list[tuple[str, Measured]] = []
    # Before, between and after the baselines, which take minutes: the machine may be slower in some of them.
    before = ours(OURS)
    plain = baseline(settings, slide, PLAIN, "plain", halo=PLAIN_HALO_PX)
    between = ours(OURS)
    monai = baseline(settings, slide, MONAI, "monai", overlap=OVERLAP, sw_batch=1)
    after = ours(OURS)
    middle = sorted((before, between, after), key=lambda timed: float(timed[1].result["seconds"]))[1]
    found += [middle, plain, monai]
    if found[0][1].result["execution"]["precision"] != "fp32":
        found.append(ours("  fp32", precision="fp32"))
    return found


def baseline(settings: Settings, slide: ComposedSlide, name: str, task: str, **options: Any) -> tuple[str, Measured]:
    """Run one of `wsi_espnet.bench.baselines`."""
    log.info("speed: %s", name)
    out = settings.result(slide, f"{task}.npy")
    return name, measure(task, {"slide": str(slide.path), "model": MODEL, "out": out, **options})


def _timed(name: str, found: Measured, slide: ComposedSlide, truth: NDArray[np.uint8]) -> Timing:
    mask = found.result["mask"]
    labels = np.load(mask, mmap_mode="r") if mask.endswith(".npy") else zarr.open_array(mask, mode="r", zarr_format=3)
    return Timing(name, found, slide.tissue_px, float(iou(confusion(labels, truth, CLASSES)).mean()))


def _report(slide: ComposedSlide, timings: Sequence[Timing]) -> Report:
    by_name = {t.name: t for t in timings}
    ours = by_name[OURS]
    rows = [
        (
            t.name,
            f"{t.mpx_per_second:.2f}",
            f"{ours.mpx_per_second / t.mpx_per_second:.1f}",
            f"{t.seconds:.1f} s",
            gib(t.run.peak_bytes),
            f"{t.miou:.4f}",
            f"{t.run.load[0]:.1f}",
        )
        for t in timings
    ]
    ratios = {name: ours.mpx_per_second / by_name[name].mpx_per_second for name in (MONAI, PLAIN)}
    return Report(
        name="speed",
        title="tissue Mpx per second, from the slide being opened to the mask being there",
        columns=("way", "Mpx/s", "we are x times", "time", "peak memory", "mIoU", "load before"),
        rows=rows,
        checks=(
            Check("speed, relative to MONAI", ">= 5", f"{ratios[MONAI]:.1f}", ratios[MONAI] >= 5),
            Check("speed, relative to the plain loop", ">= 3", f"{ratios[PLAIN]:.1f}", ratios[PLAIN] >= 3),
        ),
        facts={
            "slide": {k: v for k, v in slide.info.items() if k not in ("cells", "images")},
            "ways": [t.facts for t in timings],
        },
        notes=(
            f"slide: {slide.path.name}, {slide.tissue_px / 1e6:.1f} Mpx of tissue.",
            f"as it comes: {way(ours.run)}; the middle one of three runs, before, between and after the baselines.",
            f"MONAI: roi 512, overlap {OVERLAP}, gaussian, batch 1. Plain loop: 512 px and {PLAIN_HALO_PX} px of halo.",
            "Baselines compute one window on all cores; ours end with pyramid, areas and overview written to disk.",
        ),
    )
