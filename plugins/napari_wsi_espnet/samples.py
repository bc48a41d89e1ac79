"""File > Open Sample: the demo slide, alone or with its mask."""

from __future__ import annotations

from pathlib import Path

import pooch
from napari.types import LayerDataTuple

from napari_wsi_espnet.reader import read_result, read_slide
from wsi_espnet.errors import ResumeError
from wsi_espnet.segment import segment
from wsi_espnet.slides.sample import make_sample

NAME = "colon"


def slide() -> list[LayerDataTuple]:
    """The demo slide; it is made the first time, without a network."""
    return read_slide(str(_slide()))


def slide_with_mask() -> list[LayerDataTuple]:
    """The demo slide with the mask of the bundled model; it is computed the first time."""
    path = _slide()
    out = path.parent / "result"
    try:
        result = segment(path, out)
    except ResumeError:  # an older version's, of other weights: nobody's work
        result = segment(path, out, overwrite=True)
    return read_result(str(result.path))


def _slide() -> Path:
    folder = Path(pooch.os_cache("wsi_espnet")) / "samples"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{NAME}.svs"
    return path if path.exists() else make_sample(NAME, folder)
