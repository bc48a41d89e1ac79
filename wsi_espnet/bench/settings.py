"""What all benchmarks are told."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from wsi_espnet.bench.slides import ComposedSlide, compose

log = logging.getLogger(__name__)

MODEL = "glas-colon"


@dataclass(frozen=True, slots=True)
class Settings:
    """Where things are, and how thorough to be.

    Parameters
    ----------
    data
        Folder with ``tools/make_slide.py`` and ``data/glas``.
    out
        For reports; slides and masks go below it.
    quick
        Smaller slides, for a look in a few minutes; what is wanted is then shown beside figures that it is not meant
        for.
    """

    data: Path
    out: Path
    quick: bool

    @property
    def glas(self) -> Path:
        """The folder of GlaS."""
        return self.data / "data" / "glas"

    def slide(self, height: int, width: int, *, shift_tiles: int = 0) -> ComposedSlide:
        """A composed slide, made at its first use."""
        log.info("slide of %d x %d px, shifted by %d tiles", width, height, shift_tiles)
        return compose(self.data, self.out / "slides", height=height, width=width, shift_tiles=shift_tiles)

    def result(self, slide: ComposedSlide, name: str) -> str:
        """Where a run or a baseline leaves its mask: each slide has folders of its own."""
        path = self.out / "results" / slide.path.stem / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return str(path)
