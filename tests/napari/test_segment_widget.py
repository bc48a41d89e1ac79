"""The Segment widget: the CLI's result, growing on the screen; cancelled, it can be gone on with by either."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from napari import Viewer
from napari.layers import Labels
from napari_wsi_espnet.segment_widget import SegmentWidget
from small import blobs, small_slide, tiny_model
from told import notifications

from wsi_espnet.segment import segment

PLUGIN = "wsi-espnet"


@pytest.fixture
def bench(tmp_path: Path) -> Path:
    """A slide of 1500 x 1700 px in 30 to 40 windows, and a network."""
    small_slide(tmp_path / "slide.svs", blobs(1500, 1700, share=0.9))
    tiny_model(tmp_path / "tiny.safetensors")
    return tmp_path


@pytest.fixture
def widget(viewer: Viewer, bench: Path) -> SegmentWidget:
    """With the slide open and the network chosen."""
    viewer.open(str(bench / "slide.svs"), plugin=PLUGIN)
    _, made = viewer.window.add_plugin_dock_widget(PLUGIN, "Segment")
    assert isinstance(made, SegmentWidget)
    made.model_file.value = bench / "tiny.safetensors"
    made.precision.value = "fp32"
    made.out.value = bench / "window"
    return made


def labels_of(folder: Path) -> np.ndarray[Any, Any]:
    return np.asarray(zarr.open_array(folder / "slide.ome.zarr/labels/classes/0", mode="r")[...])


def run_command(bench: Path, out: str, *options: str) -> None:
    words = ["segment", "slide.svs", "--out", out, "--model", "tiny.safetensors", "--precision", "fp32", *options]
    command = str(Path(sys.executable).with_name("wsi-espnet"))
    subprocess.run([command, *words], cwd=bench, check=True, capture_output=True, timeout=120)


def test_a_drawn_rectangle_gives_the_mask_of_the_command(
    viewer: Viewer, widget: SegmentWidget, bench: Path, qtbot: Any
) -> None:
    um = np.array([[100.0, 200.0], [100.0, 600.0], [420.0, 600.0], [420.0, 200.0]])
    widget.area.value = "drawn shapes"
    widget.shapes.value.add(um, shape_type="rectangle")
    widget.start.native.click()
    qtbot.waitUntil(lambda: not widget.running, timeout=60_000)
    assert widget.status.value == f"done: {bench / 'window'}"
    run_command(bench, "command", "--tissue", "window/area.geojson")
    ours = labels_of(bench / "window")
    assert np.array_equal(ours, labels_of(bench / "command"))
    # 0.5 um per px, and a px's corner is half a px from its centre: rows 200.5..840.5; cells reach a little further.
    outside = ours.copy()
    outside[200 - 40 : 841 + 40, 400 - 40 : 1201 + 40] = 0
    assert ours.any()
    assert not outside.any()
    document = json.loads((bench / "window/area.geojson").read_text())
    (ring,) = document["features"][0]["geometry"]["coordinates"]
    assert ring == [[400.5, 200.5], [1200.5, 200.5], [1200.5, 840.5], [400.5, 840.5], [400.5, 200.5]]


def test_the_mask_grows_on_the_screen_and_the_window_lives(
    viewer: Viewer, widget: SegmentWidget, bench: Path, qtbot: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("napari_wsi_espnet.segment_widget.REFRESH_S", 0.0)
    slow_windows(monkeypatch, 0.1)
    shares = []
    widget.run()
    while widget.running:
        qtbot.wait(20)
        masks = [layer for layer in viewer.layers if isinstance(layer, Labels)]
        if masks:
            shares.append(float(np.mean(masks[0]._slice.image.raw > 0)))
    # The window's loop turned while the mask grew: it did not wait for the run.
    assert len({round(share, 3) for share in shares}) > 4
    assert shares == sorted(shares)
    whole = segment(bench / "slide.svs", bench / "quiet", model=bench / "tiny.safetensors", precision="fp32")
    assert np.array_equal(labels_of(bench / "window"), labels_of(whole.path.parent))


def test_a_cancelled_run_goes_on_by_button_or_command(
    viewer: Viewer, widget: SegmentWidget, bench: Path, qtbot: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow_windows(monkeypatch, 0.1)
    widget.run()
    qtbot.waitUntil(lambda: bool(re.match(r"([3-9]|\d\d) of", widget.status.value)), timeout=60_000)
    assert not widget.start.enabled
    widget.cancel.native.click()
    qtbot.waitUntil(lambda: not widget.running, timeout=60_000)
    assert widget.status.value.startswith("cancelled")
    assert (widget.start.enabled, widget.cancel.enabled) == (True, False)
    finished = len(list((bench / "window/slide.ome.zarr/labels/classes/0/c").rglob("[0-9]")))
    monkeypatch.undo()
    told: list[int] = []
    result = segment(
        bench / "slide.svs",
        bench / "window",
        model=bench / "tiny.safetensors",
        precision="fp32",
        progress=lambda p: told.append(p.total),
    )
    assert 3 <= finished < result.windows
    assert result.computed < result.windows
    widget.run()  # finished by the command: there is nothing left to do, and the mask opens
    qtbot.waitUntil(lambda: not widget.running, timeout=60_000)
    assert widget.status.value.startswith("done")
    (mask,) = (layer for layer in viewer.layers if isinstance(layer, Labels))
    assert np.array_equal(np.asarray(mask.data[0]), labels_of(bench / "window"))


def test_what_cannot_work_is_one_sentence(viewer: Viewer, widget: SegmentWidget, qtbot: Any) -> None:
    widget.area.value = "drawn shapes"
    area = widget.shapes.value
    assert (area.name, area.mode, str(area.units[0])) == ("area", "add_rectangle", "micrometer")
    with notifications() as told:
        widget.run()
    assert "nothing is drawn in area" in told[0]
    area.add([[0.0, 0.0], [50.0, 50.0]], shape_type="line")
    with notifications() as told:
        widget.run()
    assert "holds a line, which has no area" in told[0]
    assert not widget.running
    widget.area.value = "tissue"
    widget.model_file.value = Path(__file__)
    with notifications() as told:
        widget.run()
        qtbot.waitUntil(lambda: not widget.running, timeout=60_000)
    assert "safetensors" in told[0]
    assert widget.status.value == "failed"


def test_a_place_that_cannot_be_written_is_said_before_the_run(widget: SegmentWidget, bench: Path) -> None:
    widget.area.value = "drawn shapes"
    widget.shapes.value.add([[100.0, 200.0], [420.0, 600.0]], shape_type="rectangle")
    widget.out.value = bench / "slide.svs" / "result"
    with notifications() as told:
        widget.run()
    assert "slide.svs/result cannot be written: Not a directory" in told[0]
    assert (widget.running, widget.status.value) == (False, "not started")


def slow_windows(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Every window takes longer, as one of a large slide does."""
    from wsi_espnet.slides.slide import Slide

    read = Slide.read

    def slowly(self: Slide, *arguments: Any) -> Any:
        time.sleep(seconds)
        return read(self, *arguments)

    monkeypatch.setattr(Slide, "read", slowly)
