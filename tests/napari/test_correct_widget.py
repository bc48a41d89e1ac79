"""Correct and teach: what is painted in a window is what training reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from napari import Viewer
from napari.layers import Labels
from napari_wsi_espnet.correct_widget import CorrectWidget
from told import notifications

from wsi_espnet.data.slides import Slides
from wsi_espnet.segment import SegmentResult

PLUGIN = "wsi-espnet"


@pytest.fixture
def widget(viewer: Viewer, result: SegmentResult, tmp_path: Path) -> CorrectWidget:
    """Beside the result, with a folder for what is kept."""
    viewer.open(str(result.path.parent), plugin=PLUGIN)
    _, made = viewer.window.add_plugin_dock_widget(PLUGIN, "Correct and teach")
    assert isinstance(made, CorrectWidget)
    made.folder.value = tmp_path / "teach"
    return made


def draw(widget: CorrectWidget, y: int, x: int, h: int, w: int) -> None:
    """A rectangle around px of the mask, 0.5 um each."""
    widget.part.value = "drawn rectangle"
    widget.shapes.value.data = []
    low, high = np.array([y, x]) * 0.5 - 0.2, np.array([y + h, x + w]) * 0.5 - 0.3
    ring = [low, [low[0], high[1]], high, [high[0], low[1]]]
    widget.shapes.value.add(np.array(ring), shape_type="rectangle")


def test_painted_px_are_what_training_reads(viewer: Viewer, widget: CorrectWidget, tmp_path: Path) -> None:
    draw(widget, 300, 420, 256, 300)
    layer = widget.start()
    assert isinstance(layer, Labels)
    before = layer.data.copy()
    assert before.shape == (256, 300)
    assert layer.mode == "paint"
    layer.brush_size = 21
    layer.selected_label = 2
    y, x = layer.data_to_world((100, 150))
    layer.paint(layer.world_to_data((y, x)), 2)
    assert (layer.data != before).any()
    layer.data[:40, :50] = 255
    widget.save.native.click()
    assert widget.status.value.startswith(f"kept in {tmp_path / 'teach' / 'slide.ome.zarr'}")

    dataset = Slides(tmp_path / "teach", size=64, windows=8)
    assert dataset.classes.names == ("glass", "stroma", "gland")
    (pair,) = dataset.pairs("train")
    _, plan, annotation = pair.open()
    from wsi_espnet.geometry import Region

    read = annotation.labels(plan, Region(0, 0, *plan.shape))
    wanted = np.full(plan.shape, 255, np.uint8)
    wanted[300:556, 420:720] = layer.data
    assert np.array_equal(read, wanted)
    samples = dataset.samples("train")
    assert samples
    assert all((sample.read().labels != 255).any() for sample in samples)


def test_further_parts_are_added_and_255_keeps_what_was_there(widget: CorrectWidget, tmp_path: Path) -> None:
    def keep(ids: int | None, *place: int) -> Any:
        draw(widget, *place)
        layer = widget.start()
        assert layer is not None
        layer.data = np.full_like(layer.data, ids)
        widget.keep()
        return np.asarray(zarr.open_array(tmp_path / "teach/slide.ome.zarr/labels/classes/0", mode="r")[...])

    first = keep(1, 100, 100, 50, 60)
    assert (first[100:150, 100:160] == 1).all()
    assert (first != 255).sum() == 50 * 60
    second = keep(2, 140, 100, 20, 60)
    assert (second[140:160, 100:160] == 2).all()
    assert (second[100:140, 100:160] == 1).all()
    assert np.array_equal(keep(255, 90, 90, 100, 100), second)
    assert len((tmp_path / "teach/manifest.csv").read_text().splitlines()) == 2
    coarse = np.asarray(zarr.open_array(tmp_path / "teach/slide.ome.zarr/labels/classes/1", mode="r")[...])
    assert (coarse[70:80, 50:80] == 2).all()


def test_what_is_on_the_screen_is_corrected(viewer: Viewer, widget: CorrectWidget) -> None:
    viewer.scene.camera.center, viewer.scene.camera.zoom = (200.0, 250.0), 8.0
    layer = widget.start()
    assert layer is not None
    height, width = viewer.canvas.size
    assert layer.data.shape == pytest.approx((height / 4, width / 4), abs=2)  # 8 px of the screen per um, 0.5 um per px
    centre = layer.extent.world.mean(axis=0)
    assert centre == pytest.approx((200, 250), abs=1)


def test_what_cannot_work_is_one_sentence(viewer: Viewer, widget: CorrectWidget, tmp_path: Path) -> None:
    def told() -> str:
        with notifications() as messages:
            widget.keep()
        (message,) = messages
        return message

    viewer.layers.selection.active = viewer.layers[0]
    assert "choose the layer of corrections" in told()
    draw(widget, 5000, 5000, 50, 50)
    with notifications() as messages:
        assert widget.start() is None
    assert "lies beside the mask" in messages[0]
    draw(widget, 0, 0, 64, 64)
    layer = widget.start()
    assert layer is not None
    layer.data[0, 0] = 9
    assert "hold the ids 0..2 or 255" in told()
    layer.data[0, 0] = 1
    (tmp_path / "teach").mkdir(exist_ok=True)
    (tmp_path / "teach/classes.toml").write_text(
        'mpp = 0.5\n[[classes]]\nname = "a"\ncolor = [0, 0, 0]\n[[classes]]\nname = "b"\ncolor = [9, 9, 9]\n'
    )
    assert "has the classes a, b, the mask glass, stroma, gland" in told()
    widget.folder.value = None
    assert "choose the folder" in told()
