"""The Segment widget: a slide layer, a model, an area; Run and Cancel. The mask grows while it is computed."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from magicgui.types import FileDialogMode
from magicgui.widgets import ComboBox, Container, FileEdit, FloatSpinBox, Label, PushButton
from napari import Viewer
from napari.layers import Image, Labels, Shapes
from napari.utils import progress as activity
from napari.utils.notifications import show_error, show_info, show_warning
from qtpy.QtCore import QTimer

from napari_wsi_espnet.layers import as_layer, chooser, mask_layer, result_of, slide_of
from napari_wsi_espnet.outlines import add_shapes, outlines, write_outlines
from napari_wsi_espnet.run import Run
from wsi_espnet.atomic import output_errors
from wsi_espnet.errors import UsageError, WsiEspnetError
from wsi_espnet.models.catalog import bundled_models, read_card
from wsi_espnet.outputs.opened import open_result
from wsi_espnet.outputs.result import slide_name
from wsi_espnet.segment import Progress, SegmentResult
from wsi_espnet.slides.source import PixelSource

TISSUE, WHOLE, DRAWN = "tissue", "whole slide", "drawn shapes"

AREA_FILE = "area.geojson"
"""In the folder of a result: what was drawn. `wsi-espnet segment --tissue` goes on with it."""

LOOK_MS = 100
"""How often it is looked how far a run is."""

REFRESH_S = 1.0
"""How often, at most, the mask on the screen is read anew while it grows."""


class SegmentWidget(Container):  # type: ignore[type-arg]
    """Segments the slide of a layer with the CLI's own job: the result is the same, and either goes on with it."""

    def __init__(self, napari_viewer: Viewer) -> None:
        self._viewer = napari_viewer
        self._run: Run | None = None
        self._activity: Any = None
        self._refreshed = 0.0
        self._looking = False
        self._timer = QTimer()
        self._timer.timeout.connect(self._look)
        self.slide = chooser(Image, "slide")
        self.model = ComboBox(label="model", choices=_slide_models())
        self.model_file: Any = FileEdit(
            label="or a file",
            mode=FileDialogMode.EXISTING_FILE,
            filter="*.safetensors *.onnx",
            nullable=True,
            value=None,
        )
        self.area = ComboBox(label="area", choices=[TISSUE, WHOLE, DRAWN])
        self.shapes = chooser(Shapes | None, "shapes")
        self.precision = ComboBox(label="precision", choices=["auto", "fp32", "bf16", "fp16"])
        self.device = ComboBox(label="device", choices=["auto", "cpu", "cuda"])
        self.slide_mpp = FloatSpinBox(
            label="um per px", min=0, max=1000, step=0.01, value=0, tooltip="Of the slide; 0 takes what its file says."
        )
        self.out: Any = FileEdit(
            label="result folder",
            mode=FileDialogMode.EXISTING_DIRECTORY,
            nullable=True,
            value=None,
            tooltip="Empty: beside the slide.",
        )
        self.start = PushButton(text="Run")
        self.cancel = PushButton(text="Cancel", enabled=False)
        self.status = Label(value="")
        choices = [self.slide, self.model, self.model_file, self.area, self.shapes]
        settings = [self.precision, self.device, self.slide_mpp, self.out]
        super().__init__(widgets=[*choices, *settings, self.start, self.cancel, self.status])
        self.start.changed.connect(self.run)
        self.cancel.changed.connect(self._cancel)
        self.area.changed.connect(self._show_shapes)
        self.native.destroyed.connect(self._leave)
        self._show_shapes()

    def run(self) -> None:
        """Start a run with what is chosen; what cannot work is told in one sentence."""
        if self._run is not None:
            return
        try:
            slide, out, options = self._chosen()
        except WsiEspnetError as exc:
            show_error(str(exc))
            self.status.value = "not started"
            return
        self._run, self._out = Run(slide, out, **options), out / f"{slide_name(slide)}.ome.zarr"
        self.start.enabled, self.cancel.enabled = False, True
        self.status.value = "looking for tissue"
        self._run.start()
        self._timer.start(LOOK_MS)

    @property
    def running(self) -> bool:
        """Whether a run is in work."""
        return self._run is not None

    def _chosen(self) -> tuple[Path, Path, dict[str, Any]]:
        layer = self.slide.value
        source = None if layer is None else slide_of(layer)
        if source is None:
            raise UsageError("choose the layer of a slide; open one with File > Open, or File > Open Sample")
        out = self.out.value or source.path.resolve().parent / f"{slide_name(source.path)}-result"
        options: dict[str, Any] = {
            "model": self.model_file.value or self.model.value,
            "tissue": self._tissue(source, Path(out)),
            "precision": self.precision.value,
            "device": self.device.value,
            "slide_mpp": self.slide_mpp.value or None,
        }
        return source.path, Path(out), options

    def _tissue(self, source: PixelSource, out: Path) -> str | Path:
        if self.area.value != DRAWN:
            return "auto" if self.area.value == TISSUE else "none"
        if self.shapes.value is None:
            raise UsageError("choose the Shapes layer that the area is drawn in; add one with the polygon button")
        rings = outlines(self.shapes.value)
        with output_errors(out):
            out.mkdir(parents=True, exist_ok=True)
        write_outlines(out / AREA_FILE, rings, source)
        return out / AREA_FILE

    def _look(self) -> None:
        """Look how far the run is, and show it."""
        run = self._run
        if run is None or self._looking:  # a progress bar lets the timer in while it draws itself
            return
        self._looking = True
        try:
            ended, told = not run.is_alive(), run.progress
            if told is not None:
                self._advance(told)
            if ended:
                self._end(run)
        finally:
            self._looking = False

    def _advance(self, told: Progress) -> None:
        if self._activity is None:
            self._activity = activity(total=told.total, desc="windows")
        if told.done == self._activity.n and self._layer() is not None:
            return
        self._activity.update(told.done - self._activity.n)
        self.status.value = f"{told.done} of {told.total} windows"
        if self._layer() is None or time.monotonic() - self._refreshed >= REFRESH_S:
            self._show()

    def _end(self, run: Run) -> None:
        self._timer.stop()
        if self._activity is not None:
            self._activity.close()
        self._run = self._activity = None
        self.start.enabled, self.cancel.enabled = True, False
        if run.fault is not None:
            self.status.value = "failed"
            show_error(run.fault)
        elif run.result is None:
            if self._layer() is not None:
                self._show()
            self.status.value = "cancelled; Run goes on from here"
            show_info("cancelled; what is finished is kept, and Run goes on from there")
        else:
            self._show(reopen=True)
            self.status.value = f"done: {run.result.path.parent}"
            self._tell_failures(run.result)

    def _tell_failures(self, result: SegmentResult) -> None:
        if result.failures:
            show_warning(
                f"{len(result.failures)} of {result.windows} windows could not be read and are unlabelled; the first: "
                f"{result.failures[0].cause}"
            )

    def _show(self, *, reopen: bool = False) -> None:
        """Put the mask on the screen, or read it anew where it is there."""
        layer = self._layer()
        if layer is not None and reopen:
            self._viewer.layers.remove(layer)
            layer = None
        if layer is None:
            self._viewer.add_layer(as_layer(mask_layer(open_result(self._out))))
        else:
            layer.refresh()
        self._refreshed = time.monotonic()

    def _layer(self) -> Labels | None:
        for layer in self._viewer.layers:
            result = result_of(layer)
            if result is not None and result.path.resolve() == self._out.resolve():
                return layer
        return None

    def _cancel(self) -> None:
        if self._run is not None:
            self._run.cancel()
            self.cancel.enabled = False
            self.status.value = "cancelling: the windows in work are being finished"

    def _leave(self) -> None:
        """The window closes: the run must not outlive it."""
        if self._run is not None:
            self._run.cancel()
            self._run.join()

    def _show_shapes(self) -> None:
        self.shapes.visible = self.area.value == DRAWN
        if self.area.value == DRAWN and self.shapes.value is None:
            self.shapes.value = add_shapes(self._viewer)


def _slide_models() -> list[str]:
    """Bundled models that know a scale, which those for slides do."""
    return [path.stem for path in bundled_models() if read_card(path).mpp is not None]
