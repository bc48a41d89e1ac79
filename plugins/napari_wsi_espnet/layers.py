"""Slides and masks as napari layers.

World coordinates are um, those of `wsi_espnet.ngff`: the centre of the slide's level-0 px (0, 0) is the origin. napari
places the centre of a layer's px (0, 0) at its translation, so a placement is handed over as it is. Coarser levels lie
where napari puts them, by the ratio of their size to the largest level's: within one px of their own.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import dask.array as da
import numpy as np
import pandas as pd
from magicgui.widgets import create_widget
from napari.layers import Labels, Layer
from napari.types import LayerDataTuple
from napari.utils.colormaps import DirectLabelColormap
from napari.utils.notifications import show_warning

from wsi_espnet import ngff
from wsi_espnet.classes import UNLABELLED, ClassTable
from wsi_espnet.errors import SlideReadError
from wsi_espnet.outputs.opened import OpenedResult
from wsi_espnet.slides.slide import Slide
from wsi_espnet.slides.source import PixelSource
from wsi_espnet.slides.zarr_source import ZarrSource
from wsi_espnet.slides.zarr_view import zarr_view

KEY = "wsi_espnet"
"""Where layers of this plugin keep what they are, in their metadata."""

COARSE_PX = 4096
"""A slide whose coarsest level is longer than this is given coarser ones: napari reads the coarsest one whole."""

STRIDE = 4
"""By which these are coarser, each than the one before: every fourth px."""

OPACITY = 0.5


def slide_layer(source: PixelSource) -> LayerDataTuple:
    """A slide as one RGB image layer: multiscale, read when it is looked at.

    It covers the slide's bounds. Where the slide does not say how many um a px is, world coordinates are level-0 px.
    """
    assert isinstance(source, Slide | ZarrSource)
    group = zarr_view(source, on_unreadable=_Teller())
    levels = [da.moveaxis(da.from_zarr(group[str(level.index)]), 0, -1) for level in source.levels]
    while max(levels[-1].shape[:2]) > COARSE_PX:
        levels.append(levels[-1][::STRIDE, ::STRIDE])
    scale, translation = _first_placement(group.attrs["ome"])
    unit = "micrometer" if source.mpp is not None else "pixel"
    return (
        levels,
        {
            "name": source.path.name,
            "rgb": True,
            "multiscale": True,
            "scale": scale,
            "translate": translation,
            "units": (unit, unit),
            "axis_labels": ("y", "x"),
            "metadata": {KEY: {"slide": source}},
        },
        "image",
    )


def mask_layer(result: OpenedResult) -> LayerDataTuple:
    """The mask of a result as one labels layer over the slide: multiscale, read from disk when it is looked at."""
    scale, translation = ngff.placement(result.plan)
    return (
        list(result.labels),
        {
            "name": f"{result.path.name.removesuffix('.ome.zarr')} classes",
            "multiscale": True,
            "scale": scale,
            "translate": translation,
            "units": ("micrometer", "micrometer"),
            "axis_labels": ("y", "x"),
            "opacity": OPACITY,
            "features": features(result.classes),
            "colormap": colormap(result.classes),
            "metadata": {KEY: {"result": result}},
        },
        "labels",
    )


def overview_layer(result: OpenedResult) -> LayerDataTuple:
    """The small picture of the slide that a result carries, for where the slide is not at hand."""
    source = ZarrSource(result.path)
    data, properties, kind = slide_layer(source)
    assert isinstance(properties, dict)
    return data, properties | {"name": f"{source.path.name} (overview)", "metadata": {}}, kind


def features(classes: ClassTable) -> pd.DataFrame:
    """The table that lets napari show a class's name under the pointer."""
    ids = [*(c.id for c in classes.classes), UNLABELLED]
    return pd.DataFrame({"index": ids, "class": [*classes.names, "unlabelled"]})


def colormap(
    classes: ClassTable, *, colors: dict[str, tuple[int, int, int]] | None = None, hidden: Collection[int] = ()
) -> DirectLabelColormap:
    """Colours of the ids of a mask; glass and the ids in `hidden` are transparent.

    Parameters
    ----------
    classes
        With the colours that are shown unless `colors` has another for a class's name.
    colors
        (R, G, B), 0..255, by class name.
    hidden
        Ids that are not shown.
    """
    chosen = {c.id: (colors or {}).get(c.name, c.color) for c in classes.classes} | {UNLABELLED: ngff.UNLABELLED_COLOR}
    unseen = {classes.glass, *hidden}
    table: dict[int | None, Any] = {None: np.zeros(4, np.float32)}
    for id_, rgb in chosen.items():
        table[id_] = np.array([*rgb, 0 if id_ in unseen else 255], np.float32) / 255
    return DirectLabelColormap(color_dict=table)


def slide_of(layer: Layer) -> PixelSource | None:
    """The slide that a layer shows; None if it is not one of ours."""
    found = layer.metadata.get(KEY, {}).get("slide")
    return found if isinstance(found, Slide | ZarrSource) else None


def result_of(layer: Layer) -> OpenedResult | None:
    """The result that a labels layer shows; None if it is not one of ours."""
    found = layer.metadata.get(KEY, {}).get("result") if isinstance(layer, Labels) else None
    return found if isinstance(found, OpenedResult) else None


class _Teller:
    """Tells of the first place of a slide that cannot be read; all of them are magenta."""

    def __init__(self) -> None:
        self._told = False

    def __call__(self, error: SlideReadError) -> None:
        if not self._told:
            self._told = True
            show_warning(f"{error}. Such places are magenta.")


def _first_placement(attributes: Any) -> ngff.Placement:
    steps = attributes["multiscales"][0]["datasets"][0]["coordinateTransformations"]
    scale, translation = (step[step["type"]][-2:] for step in steps)
    return (scale[0], scale[1]), (translation[0], translation[1])


def chooser(kind: Any, label: str) -> Any:
    """A list of the open layers of one kind, such as `Labels` or ``Shapes | None``, to choose from."""
    return create_widget(annotation=kind, label=label)


def as_layer(data: LayerDataTuple) -> Layer:
    """The layer that a tuple describes."""
    return Layer.create(*data)
