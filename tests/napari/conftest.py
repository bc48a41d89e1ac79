"""A window with slides and masks in it, without a screen."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from small import blobs, small_slide, tiny_model

pytest.importorskip("napari", reason="needs the extra napari")
if not shutil.which("Xvfb") and not os.environ.get("DISPLAY"):
    pytest.skip("needs a screen: install xvfb (CONTRIBUTING.md lists the packages)", allow_module_level=True)

import npe2
from napari import Viewer
from qtpy.QtCore import QSettings
from qtpy.QtWidgets import QApplication

from wsi_espnet.segment import SegmentResult, segment

SHARED = Path(__file__).resolve().parents[3] / "shared"


@pytest.fixture(scope="session")
def slides() -> Path:
    """Real whole-slide files."""
    if not SHARED.is_dir():
        pytest.skip("needs the data folder ../shared beside the checkout, which is absent")
    return SHARED / "data" / "slides"


@pytest.fixture(autouse=True)
def own_settings(tmp_path: Path) -> None:
    """Colours that a test chooses stay with the test."""
    QSettings.setPath(QSettings.Format.IniFormat, QSettings.Scope.UserScope, str(tmp_path / "settings"))


@pytest.fixture
def viewer(make_napari_viewer: Callable[..., Viewer]) -> Viewer:
    """A window on a screen, with the plugin as it is installed."""
    manager = npe2.PluginManager.instance()
    manager.discover()
    shown = make_napari_viewer(show=True)
    shown.window.resize(1300, 900)
    return shown


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A slide of 900 x 1100 px and a network of random weights."""
    made = tmp_path_factory.mktemp("inputs")
    small_slide(made / "slide.svs", blobs(900, 1100))
    tiny_model(made / "tiny.safetensors")
    return made


@pytest.fixture(scope="session")
def result(folder: Path) -> SegmentResult:
    """What `segment` makes of it."""
    return segment(folder / "slide.svs", folder / "out", model=folder / "tiny.safetensors")


@pytest.fixture
def picture(viewer: Viewer, qtbot: object) -> Callable[[], NDArray[np.uint8]]:
    """What the canvas shows, once everything is drawn: (h, w, 3) uint8."""

    def shot() -> NDArray[np.uint8]:
        for _ in range(5):
            QApplication.processEvents()
        viewer.canvas.overlays.scale_bar.visible = False
        return np.asarray(viewer.screenshot(canvas_only=True, flash=False))[..., :3]

    return shot
