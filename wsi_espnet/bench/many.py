"""A batch of very many slides: whether memory stays as it is, and what ledger and pages cost."""

from __future__ import annotations

import logging
import os
import shutil
import time
from pathlib import Path

import numpy as np
import psutil
import tifffile
from PIL import Image

from wsi_espnet.batch import batch
from wsi_espnet.batch_notes import BatchProgress
from wsi_espnet.bench.report import Check, Report
from wsi_espnet.bench.settings import MODEL, Settings
from wsi_espnet.bench.slides import held_out_images
from wsi_espnet.cohort.folder import BatchFolder
from wsi_espnet.cohort.pages import write_pages
from wsi_espnet.cohort.settings import BatchConfig, ClusterOptions, SegmentOptions
from wsi_espnet.data.glas import GLAS_MPP

SLIDES, QUICK_SLIDES = 2000, 60
SIDE_PX = 256
PARTS = 10
"""Memory is told after each tenth of the slides."""

GROWTH_MIB, PAGES_S, AGAIN_S = 32, 10, 30

log = logging.getLogger(__name__)


def run(settings: Settings) -> Report:
    """Run a batch of tiny slides over two processes, then the same command again, and write the pages anew."""
    count = QUICK_SLIDES if settings.quick else SLIDES
    folder, out = settings.out / "many" / f"slides-{count}", settings.out / "many" / "out"
    _slides(settings, folder, count)
    shutil.rmtree(out, ignore_errors=True)
    config = BatchConfig(
        segment=SegmentOptions(model=MODEL, device="cpu", tissue="none", window=320, halo=32),
        cluster=ClusterOptions(workers=2),
    )
    resident: dict[int, float] = {}

    def note(progress: BatchProgress) -> None:
        part = progress.ended * PARTS // progress.total
        if progress.ended and part not in resident:
            resident[part] = psutil.Process().memory_info().rss / (1 << 20)
            log.info("many: %d slides, %.0f MiB", progress.ended, resident[part])

    done = batch([folder], out, config=config, progress=note)
    states = {state: sum(row.state == state for row in done.rows) for state in {row.state for row in done.rows}}
    started = time.monotonic()
    again = batch([folder], out, config=config)
    again_s = time.monotonic() - started
    started = time.monotonic()
    write_pages(BatchFolder(out.absolute()))
    pages_s = time.monotonic() - started
    # What is loaded once, and fills while the first slides pass, is no growth.
    growth = max(resident.values()) - resident[min(part for part in resident if part >= PARTS // 5)]
    return Report(
        name="many",
        title=f"{count} slides of {SIDE_PX} x {SIDE_PX} px over two processes",
        columns=("", ""),
        rows=[
            ("ended", ", ".join(f"{number} {state}" for state, number in states.items())),
            ("time", f"{done.seconds:.0f} s, {count / done.seconds:.2f} slides/s"),
            ("memory of this process", " ".join(f"{mib:.0f}" for _, mib in sorted(resident.items())) + " MiB"),
            ("the same command again", f"{again_s:.1f} s, {len(again.tried)} slides tried"),
            ("summary and contact sheet", f"{pages_s:.1f} s, {(out / 'index.html').stat().st_size / 1e6:.1f} MB"),
        ],
        checks=(
            Check("slides done", str(count), str(states.get("done", 0)), states.get("done") == count),
            Check("growth after a fifth of them", f"< {GROWTH_MIB} MiB", f"{growth:.0f} MiB", growth < GROWTH_MIB),
            Check(
                "the same command again", f"< {AGAIN_S} s", f"{again_s:.1f} s", again_s < AGAIN_S and not again.tried
            ),
            Check("pages", f"< {PAGES_S} s", f"{pages_s:.1f} s", pages_s < PAGES_S),
        ),
        facts={
            "slides": count,
            "states": states,
            "seconds": done.seconds,
            "resident_mib": resident,
            "again_s": again_s,
            "pages_s": pages_s,
            "load_after": os.getloadavg()[0],
        },
        notes=("memory: resident set of the process that holds ledger and graph, after each tenth of the slides.",),
    )


def _slides(settings: Settings, folder: Path, count: int) -> None:
    """Pieces of held-out GlaS images as tiled TIFFs that say their scale; made once."""
    folder.mkdir(parents=True, exist_ok=True)
    names = held_out_images(settings.glas)
    rng = np.random.default_rng(0)
    for number in range(count):
        path = folder / f"s{number:05d}.tif"
        if path.exists():
            continue
        with Image.open(settings.glas / "images" / f"{names[number % len(names)]}.jpg") as image:
            y, x = (int(rng.integers(0, side - SIDE_PX)) for side in (image.height, image.width))
            piece = np.asarray(image.convert("RGB").crop((x, y, x + SIDE_PX, y + SIDE_PX)))
        tifffile.imwrite(
            path,
            piece,
            tile=(SIDE_PX, SIDE_PX),
            photometric="rgb",
            compression="jpeg",
            resolution=(1e4 / GLAS_MPP, 1e4 / GLAS_MPP),
            resolutionunit="CENTIMETER",
            metadata=None,
        )
