"""`wsi-espnet view`: napari with slides and masks open."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import napari

PLUGIN = "wsi-espnet"


def view(paths: Sequence[Path]) -> None:
    """Open napari with slides or results, and the panel of classes where there is a mask; returns when it is closed."""
    viewer = napari.Viewer(title="wsi-espnet")
    show(viewer, paths)
    napari.run()


def show(viewer: napari.Viewer, paths: Sequence[Path]) -> None:
    """Open paths in a window that is there."""
    for path in paths:
        viewer.open(str(path), plugin=PLUGIN)
    viewer.canvas.overlays.scale_bar.visible = True
    widget = "Classes" if any(layer._type_string == "labels" for layer in viewer.layers) else "Segment"
    viewer.window.add_plugin_dock_widget(PLUGIN, widget)
