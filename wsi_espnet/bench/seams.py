"""Seams: how much of a mask depends on where the windows happen to lie, and what that costs."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tifffile
import zarr
from numpy.typing import NDArray
from scipy import ndimage

from wsi_espnet.bench.process import Measured, measure
from wsi_espnet.bench.report import Check, Report, gib
from wsi_espnet.bench.scores import GLASS, changed_px, confusion
from wsi_espnet.bench.settings import MODEL, Settings
from wsi_espnet.bench.slides import TILE_PX, ComposedSlide
from wsi_espnet.geometry import Region
from wsi_espnet.scores import iou
from wsi_espnet.slides.source import open_source
from wsi_espnet.slides.tissue_mask import TissueMask

log = logging.getLogger(__name__)

SIDE_PX = 8192
QUICK_SIDE_PX = 4096
CLASSES = 3

BRIGHT = 230
"""Glass of a composed slide is 243 give or take 13; images hold bare glass of their own, in lumina and tears."""

ALONE = {"each image alone, mirrored at its sides": "alone", "  the same, as the slide shows it": "apart"}
"""What the slide's mIoU is compared with; the first is what is wanted to be met."""


@dataclass(frozen=True, slots=True)
class Variant:
    """A way to cut and join windows: core and halo in px, averaged where they meet or cropped."""

    name: str
    core_px: int
    halo_px: int
    stitch: str

    @property
    def options(self) -> dict[str, Any]:
        """For `wsi_espnet.segment.segment`."""
        return {"window": self.core_px + 2 * self.halo_px, "halo": self.halo_px, "stitch": self.stitch}

    @property
    def shift_tiles(self) -> int:
        """Half a core in JPEG tiles."""
        return self.core_px // 2 // TILE_PX


VARIANTS = (
    Variant("core 2688, halo 128, blend (default)", 2688, 128, "blend"),
    Variant("core 2688, halo 128, crop", 2688, 128, "crop"),
    Variant("core 2560, halo 192, blend", 2560, 192, "blend"),
    Variant("core 2752, halo 96, blend", 2752, 96, "blend"),
    Variant("core 2688, no halo", 2688, 0, "crop"),
    Variant("core 2048, halo 128, blend", 2048, 128, "blend"),
    Variant("core 512, halo 64, blend", 512, 64, "blend"),
    Variant("core 512, halo 64, crop", 512, 64, "crop"),
)
"""The first is what the bundled model asks for."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """One variant, measured on a slide and on the same px moved by half a core.

    `changed` is the share of the tissue px whose class differs; `work` the px that the network computed, relative to
    windows without a halo that follow the tissue just so; `work_on_cores` the same relative to the whole cores that
    hold tissue; `ious` the classes' IoU against the truth.
    """

    variant: Variant
    runs: tuple[Measured, Measured]
    changed: float
    work: float
    work_on_cores: float
    ious: NDArray[np.float64]

    @property
    def peak_bytes(self) -> int:
        """The larger peak of both runs."""
        return max(run.peak_bytes for run in self.runs)

    @property
    def facts(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "variant": self.variant.name,
            "changed_share_of_tissue": self.changed,
            "work_relative_to_no_halo": self.work,
            "work_relative_to_whole_cores": self.work_on_cores,
            "window_area_over_core_area": (1 + 2 * self.variant.halo_px / self.variant.core_px) ** 2,
            "iou": self.ious.tolist(),
            "runs": [run.facts for run in self.runs],
        }


def run(settings: Settings) -> Report:
    """Segment a slide with each variant, and again half a core further, and count what changed."""
    side = QUICK_SIDE_PX if settings.quick else SIDE_PX
    slide = settings.slide(side, side)
    truth: NDArray[np.uint8] = tifffile.imread(slide.truth)
    outcomes = [_measure(settings, slide, truth, variant) for variant in VARIANTS]
    alone = {name: _alone(settings, slide, truth, task) for name, task in ALONE.items()}
    return _report(slide, outcomes, alone, _uncovered(slide, outcomes[0].runs[0], truth))


def _measure(settings: Settings, slide: ComposedSlide, truth: NDArray[np.uint8], variant: Variant) -> Outcome:
    log.info("seams: %s", variant.name)
    height, width = truth.shape
    moved = settings.slide(height, width, shift_tiles=variant.shift_tiles)
    first, second = (
        measure("segment", {**variant.options, **_given(s), "out": settings.result(s, "seams")}) for s in (slide, moved)
    )
    without = measure("plan", {**_given(slide), "window": variant.core_px, "halo": 0})
    labels = open_labels(first.result["mask"])
    changed = changed_px(labels, open_labels(second.result["mask"]), truth, shift_px=variant.shift_tiles * TILE_PX)
    return Outcome(
        variant=variant,
        runs=(first, second),
        changed=changed / slide.tissue_px,
        work=first.result["work_px"] / without.result["work_px"],
        work_on_cores=first.result["work_px"] / without.result["cores_px"],
        ious=iou(confusion(labels, truth, CLASSES)),
    )


def _alone(settings: Settings, slide: ComposedSlide, truth: NDArray[np.uint8], task: str) -> NDArray[np.float64]:
    """IoU of the images segmented one by one, over the same tissue px."""
    log.info("seams: %s", task)
    given = {"placement": str(slide.placement), "model": MODEL, "halo": VARIANTS[0].halo_px}
    where = {"glas": str(settings.glas)} if task == "alone" else {"slide": str(slide.path)}
    found = measure(task, {**given, **where, "out": settings.result(slide, f"{task}.npy")})
    return iou(confusion(np.load(found.result["mask"], mmap_mode="r"), truth, CLASSES))


def _uncovered(slide: ComposedSlide, run: Measured, truth: NDArray[np.uint8]) -> tuple[int, int]:
    """Tissue px by the truth that the run took for glass, and how many of them are not as bright as glass."""
    cells = np.asarray(open_labels(run.result["tissue_mask"])[...]) > 0
    covered = TissueMask(cells, (truth.shape[0], truth.shape[1]), "auto").sample(Region(0, 0, *truth.shape))
    left_out = (truth != GLASS) & ~covered
    stained = 0
    places, _ = ndimage.label(left_out)
    with open_source(slide.path) as source:
        plan = source.plan(None)
        for rows, columns in ndimage.find_objects(places):
            box = Region(rows.start, columns.start, rows.stop - rows.start, columns.stop - columns.start)
            dark = source.read(plan, box).min(axis=-1) < BRIGHT
            stained += int(np.count_nonzero(dark & left_out[rows, columns]))
    return int(np.count_nonzero(left_out)), stained


def _report(
    slide: ComposedSlide,
    outcomes: Sequence[Outcome],
    alone: dict[str, NDArray[np.float64]],
    uncovered: tuple[int, int],
) -> Report:
    best = outcomes[0]
    apart = float(best.ious.mean() - next(iter(alone.values())).mean())
    area = best.runs[0].result["tissue_px"] / slide.tissue_px - 1
    left_out, stained = uncovered
    rows = [
        (
            o.variant.name,
            f"{o.changed:.2%}",
            f"{o.work:.2f}",
            f"{o.work_on_cores:.2f}",
            gib(o.peak_bytes),
            f"{o.ious.mean():.4f}",
        )
        for o in outcomes
    ]
    rows += [(name, "", "", "", "", f"{ious.mean():.4f}") for name, ious in alone.items()]
    return Report(
        name="seams",
        title="tissue px whose class changes when the windows move by half a core",
        columns=("windows", "changed", "work", "on cores", "peak memory", "mIoU"),
        rows=rows,
        checks=(
            Check("changed at the defaults", "<= 0.70 %", f"{best.changed:.2%}", best.changed <= 0.007),
            Check("work, relative to no halo", "<= 1.45", f"{best.work:.2f}", best.work <= 1.45),
            Check("peak memory", "<= 3 GiB", gib(best.peak_bytes), best.peak_bytes <= 3 << 30),
            Check("mIoU, against images alone", "within 0.02", f"{apart:+.4f}", abs(apart) <= 0.02),
            Check("area of the tissue, against the truth", "within 5 %", f"{area:+.1%}", abs(area) <= 0.05),
            Check("tissue px left out", "0", f"{left_out}, stained {stained}", stained == 0),
        ),
        facts={
            "slide": {k: v for k, v in slide.info.items() if k not in ("cells", "images")},
            "variants": [o.facts for o in outcomes],
            "iou_alone": {name: ious.tolist() for name, ious in alone.items()},
            "uncovered_px": left_out,
            "uncovered_stained_px": stained,
        },
        notes=(
            "work: px that the network computes, relative to windows without a halo, cut to the tissue as these are;",
            "on cores: the same relative to the whole cores that hold tissue.",
            f"left out, stained: tissue by the truth outside the tissue mask, any channel of which is below {BRIGHT}.",
            f"slide: {slide.path.name}, {slide.tissue_px / 1e6:.1f} Mpx of tissue.",
        ),
    )


def _given(slide: ComposedSlide) -> dict[str, Any]:
    return {"slide": str(slide.path), "model": MODEL}


def open_labels(path: str) -> zarr.Array[Any]:
    """A label image that a run left behind, (h, w) uint8."""
    return zarr.open_array(path, mode="r", zarr_format=3)
