"""The Classes panel: areas as the command counts them, colours that stay, and the way to a class."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from napari import Viewer
from napari_wsi_espnet.classes_widget import COLOR, MM2, NAME, SHARE, SHOWN, ClassesWidget
from numpy.typing import NDArray
from qtpy.QtCore import Qt
from scipy import ndimage
from told import notifications

from wsi_espnet.errors import UsageError
from wsi_espnet.geometry import Region
from wsi_espnet.segment import SegmentResult

PLUGIN = "wsi-espnet"

Shot = Callable[[], NDArray[np.uint8]]


@pytest.fixture
def panel(viewer: Viewer, result: SegmentResult) -> ClassesWidget:
    """Beside the result."""
    viewer.open(str(result.path.parent), plugin=PLUGIN)
    _, made = viewer.window.add_plugin_dock_widget(PLUGIN, "Classes")
    assert isinstance(made, ClassesWidget)
    return made


def text(panel: ClassesWidget, row: int, column: int) -> str:
    item = panel.table.item(row, column)
    assert item is not None
    return item.text()


def test_areas_are_those_of_the_command(panel: ClassesWidget, result: SegmentResult, tmp_path: Path) -> None:
    assert panel.areas == result.areas
    for row, area in enumerate(result.areas.classes):
        got = [text(panel, row, column) for column in (NAME, MM2, SHARE)]
        assert got == [area.name, f"{area.mm2:.3f}", f"{area.share_of_tissue:.1%}"]
    assert panel.total.value == f"{result.areas.tissue_mm2:.3f} mm2 of tissue"
    panel.export_csv(tmp_path / "areas.csv")
    assert (tmp_path / "areas.csv").read_text() == result.areas_csv.read_text()


def test_areas_in_a_shape_are_counted_px_by_px(viewer: Viewer, panel: ClassesWidget, tmp_path: Path) -> None:
    panel.within.value = "drawn shapes"
    # 0.5 um per px: px whose centres lie in rows 100..299 and columns 200..699, by an outline through no centre.
    ring = np.array([[49.9, 99.9], [49.9, 349.9], [149.9, 349.9], [149.9, 99.9]])
    panel.shapes.value.add(ring, shape_type="rectangle")
    panel.refresh()
    assert panel.result is not None
    rows, columns = slice(100, 300), slice(200, 700)
    ids = np.asarray(panel.result.labels[0])[rows, columns]
    tissue = panel.result.tissue.counted(Region(100, 200, 200, 500), ids, glass=0)
    wanted = np.bincount(ids[tissue], minlength=3)
    assert panel.areas is not None
    assert [area.px for area in panel.areas.classes] == wanted.tolist()
    assert panel.areas.tissue_px == tissue.sum() > 0
    panel.export_csv(tmp_path / "in-shape.csv")
    with (tmp_path / "in-shape.csv").open(newline="") as file:
        assert [int(row["px"]) for row in csv.DictReader(file)] == [*wanted.tolist(), 0]


def test_a_chosen_colour_is_shown_and_stays(
    viewer: Viewer, panel: ClassesWidget, result: SegmentResult, picture: Shot
) -> None:
    panel.mask.value.opacity = 1
    assert not (picture() == (1, 254, 2)).all(axis=-1).any()
    panel.set_color("gland", (1, 254, 2))
    assert (picture() == (1, 254, 2)).all(axis=-1).any()
    button = panel.table.cellWidget(2, COLOR)
    assert button is not None
    assert "#01fe02" in button.styleSheet()
    viewer.layers.clear()
    viewer.open(str(result.path.parent), plugin=PLUGIN)  # as the next day
    panel.mask.value.opacity = 1
    assert (picture() == (1, 254, 2)).all(axis=-1).any()


def test_a_class_is_hidden_and_shown(panel: ClassesWidget, picture: Shot) -> None:
    panel.mask.value.opacity = 1
    gland = (70, 40, 150)
    assert (picture() == gland).all(axis=-1).any()
    item = panel.table.item(2, SHOWN)
    assert item is not None
    item.setCheckState(Qt.CheckState.Unchecked)
    assert not (picture() == gland).all(axis=-1).any()
    item.setCheckState(Qt.CheckState.Checked)
    assert (picture() == gland).all(axis=-1).any()


def test_go_to_moves_to_the_largest_region(viewer: Viewer, panel: ClassesWidget) -> None:
    assert panel.result is not None
    coarse = np.asarray(panel.result.labels[-1])
    regions, count = ndimage.label(coarse == 2)
    sizes = np.bincount(regions.ravel())[1:]
    assert count > 1
    assert np.sum(sizes == sizes.max()) == 1
    rows, columns = np.nonzero(regions == int(np.argmax(sizes)) + 1)
    panel.go_to_largest(2)
    factor = np.divide(panel.result.plan.shape, coarse.shape) * 0.5
    y, x = viewer.scene.camera.center[-2:]
    assert rows.min() * factor[0] - 1 <= y <= (rows.max() + 1) * factor[0] + 1
    assert columns.min() * factor[1] - 1 <= x <= (columns.max() + 1) * factor[1] + 1
    with notifications() as told:
        panel.go_to_largest(77)
    assert told == ["there is no px of this class in the mask"]


def test_without_a_mask_it_says_so(viewer: Viewer, tmp_path: Path) -> None:
    _, panel = viewer.window.add_plugin_dock_widget(PLUGIN, "Classes")
    assert panel.total.value == "no mask is open"
    assert panel.table.rowCount() == 0
    with pytest.raises(UsageError, match="nothing is measured"):
        panel.export_csv(tmp_path / "areas.csv")
