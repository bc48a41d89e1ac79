"""Slides with known truth: tissue of patients that the bundled model never saw, in islands on glass."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wsi_espnet.errors import UsageError

HELD_OUT = frozenset({"3", "6", "15"})
"""Patients whose images the training of `glas-colon` held out (the card's split)."""

TILE_PX = 256
"""Side of a JPEG tile: a slide is shifted by whole ones, so that its px stay what they are."""

SEED = 5
COVERAGE = 0.35


@dataclass(frozen=True, slots=True)
class ComposedSlide:
    """A slide, its truth (uint8: class ids, 255 glass), and how it was put together."""

    path: Path
    truth: Path
    placement: Path

    @property
    def info(self) -> dict[str, Any]:
        """Size, scale, px of tissue, and the place of every image."""
        found: dict[str, Any] = json.loads(self.placement.read_text(encoding="utf-8"))
        return found

    @property
    def tissue_px(self) -> int:
        """Px that are tissue by the truth."""
        return int(self.info["tissue_px"])


def compose(data: Path, folder: Path, *, height: int, width: int, shift_tiles: int = 0) -> ComposedSlide:
    """Make a slide of held-out GlaS images, or take the one that an earlier run made.

    Parameters
    ----------
    data
        Folder with ``tools/make_slide.py`` and ``data/glas``.
    folder
        Where slides are kept.
    height, width
        In px, before the shift.
    shift_tiles
        Tiles of glass to put left of and above the same px.

    Raises
    ------
    UsageError
        The folder does not hold what is needed, or the slide cannot be made.
    """
    base = folder / f"{width}x{height}-seed{SEED}-shift{shift_tiles}"
    slide = ComposedSlide(base.with_suffix(".svs"), base.with_suffix(".truth.tif"), base.with_suffix(".json"))
    if slide.placement.is_file():  # written last
        return slide
    tool, glas = data / "tools" / "make_slide.py", data / "data" / "glas"
    names = held_out_images(glas)
    if not tool.is_file():
        raise UsageError(
            f"{data} holds no tools/make_slide.py, which composes slides; point --data to a folder that does"
        )
    folder.mkdir(parents=True, exist_ok=True)
    sizes = ("--width", str(width), "--height", str(height), "--shift", str(shift_tiles))
    look = ("--seed", str(SEED), "--coverage", str(COVERAGE), "--images", ",".join(names), "--glas", str(glas))
    made = subprocess.run(
        [sys.executable, str(tool), "--out", str(slide.path), *sizes, *look], capture_output=True, text=True
    )
    if made.returncode:
        raise UsageError(f"{tool} could not compose {slide.path.name}: {made.stderr.strip()[-500:]}")
    return slide


def held_out_images(glas: Path) -> list[str]:
    """Names of the images of `HELD_OUT`.

    Raises
    ------
    UsageError
        The folder has no ``index.csv``.
    """
    index = glas / "index.csv"
    if not index.is_file():
        raise UsageError(
            f"{glas} is not a GlaS folder: it has no index.csv; point --data to the folder above data/glas"
        )
    with index.open(newline="", encoding="utf-8") as file:
        return [row["name"].strip() for row in csv.DictReader(file) if row["patient"].strip() in HELD_OUT]
