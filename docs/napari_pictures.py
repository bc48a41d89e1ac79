"""Draw the pictures of docs/napari.md: real windows on the demo slide, run after a change of the plugin.

xvfb-run -a -s "-screen 0 1600x1000x24" python docs/napari_pictures.py
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import napari
import numpy as np
from napari_wsi_espnet.view import PLUGIN, show
from PIL import Image
from qtpy.QtWidgets import QApplication

from wsi_espnet.segment import segment
from wsi_espnet.slides.sample import make_sample

PICTURES = Path(__file__).parent / "pictures"
SIZE = 1500, 900
COLORS = 256
"""Of the palette that a picture is kept in."""

POLYGON = np.array([[300.0, 2050.0], [250.0, 3000.0], [900.0, 3500.0], [1700.0, 3300.0], [1650.0, 2300.0]])
"""Around one piece of the demo slide, in um."""


def main() -> None:
    """Draw all of them."""
    with tempfile.TemporaryDirectory() as folder:
        slide = make_sample("colon", Path(folder))
        result = segment(slide, Path(folder) / "out").path.parent
        draw("napari-classes", [result], _classes)
        draw("napari-segment", [slide], _segment)
        draw("napari-correct", [result], _correct)


def draw(name: str, paths: list[Path], act: Callable[[napari.Viewer], None]) -> None:
    """Open paths in a window, act in it, keep its picture."""
    viewer = napari.Viewer()
    viewer.window.resize(*SIZE)
    show(viewer, paths)
    wait(1)
    viewer.reset_view()
    act(viewer)
    wait(1)
    px = viewer.screenshot(canvas_only=False, flash=False)
    picture = Image.fromarray(px[..., :3]).quantize(COLORS, dither=Image.Dither.NONE)
    picture.save(PICTURES / f"{name}.png", optimize=True)
    viewer.close()
    wait(0.5)


def wait(seconds: float, until: Callable[[], bool] = lambda: False) -> None:
    """Let the window live for a time, or until something is so."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and not until():
        QApplication.processEvents()
        time.sleep(0.01)


def _classes(viewer: napari.Viewer) -> None:
    viewer.scene.camera.zoom *= 0.95


def _widget(viewer: napari.Viewer, name: str) -> Any:
    return viewer.window.add_plugin_dock_widget(PLUGIN, name)[1]


def _segment(viewer: napari.Viewer) -> None:
    widget = _widget(viewer, "Segment")
    widget.area.value = "drawn shapes"
    widget.shapes.value.add(POLYGON, shape_type="polygon", edge_color="black", edge_width=15)
    widget.shapes.value.mode = "pan_zoom"
    widget.run()
    wait(120, until=lambda: not widget.running)
    viewer.reset_view()


def _correct(viewer: napari.Viewer) -> None:
    viewer.scene.camera.center, viewer.scene.camera.zoom = (1500.0, 900.0), 1.2
    widget = _widget(viewer, "Correct and teach")
    wait(0.5)
    layer = widget.start()
    viewer.layers["colon classes"].visible = False
    layer.brush_size = 60
    for y in np.linspace(1380, 1620, 90):
        layer.paint(layer.world_to_data((float(y), 905.0)), 1)


if __name__ == "__main__":
    main()
