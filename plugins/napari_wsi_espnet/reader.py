"""The reader: slides, results of `wsi-espnet segment`, and OME-Zarr images that can be segmented."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from napari.types import LayerDataTuple
from napari.utils.notifications import show_info

from napari_wsi_espnet.layers import mask_layer, overview_layer, slide_layer
from wsi_espnet.errors import SlideError
from wsi_espnet.outputs.opened import find_result, open_result
from wsi_espnet.slides.source import open_source

Read = Callable[[str | Sequence[str]], list[LayerDataTuple]]


def get_reader(path: str | Sequence[str]) -> Read | None:
    """What opens a path; None for what is not ours, and for stacks, so that other plugins have their turn."""
    if not isinstance(path, str):
        return None
    if find_result(path) is not None:
        return read_result
    try:
        open_source(path).close()
    except SlideError:
        return None
    return read_slide


def read_slide(path: str | Sequence[str]) -> list[LayerDataTuple]:
    """A slide as one image layer."""
    return [slide_layer(open_source(str(path)))]


def read_result(path: str | Sequence[str]) -> list[LayerDataTuple]:
    """A result as two layers, the slide and its mask over it.

    Where the slide is not found, the small picture of it in the result takes its place, and a note says so.
    """
    result = open_result(Path(str(path)))
    slide = result.open_slide()
    if slide is not None:
        return [slide_layer(slide), mask_layer(result)]
    name = result.source.get("name", "its slide")
    show_info(f"{name} is not beside {result.path.name}: put it there, or look at the overview that the result carries")
    # The picture of a result in work cannot be opened yet.
    return [overview_layer(result), mask_layer(result)] if result.done else [mask_layer(result)]
