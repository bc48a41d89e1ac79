"""Correct and teach: a part of the mask to paint in with napari's tools, kept as annotations that training reads."""

from __future__ import annotations

from typing import Any

import numpy as np
from magicgui.types import FileDialogMode
from magicgui.widgets import ComboBox, Container, FileEdit, Label, PushButton
from napari import Viewer
from napari.layers import Labels, Shapes
from napari.utils.notifications import show_error
from numpy.typing import NDArray

from napari_wsi_espnet.layers import KEY, OPACITY, chooser, colormap, result_of
from napari_wsi_espnet.outlines import add_shapes, in_plan, outlines
from wsi_espnet import ngff
from wsi_espnet.classes import UNLABELLED
from wsi_espnet.data.corrections import save_corrections
from wsi_espnet.errors import UsageError, WsiEspnetError
from wsi_espnet.geometry import Region
from wsi_espnet.outputs.opened import OpenedResult
from wsi_espnet.outputs.stored import read_labels

MAX_PX = 4096
"""Longest side of a part that is corrected at once, in px of the mask: it is held in memory."""

VIEW, DRAWN = "what is on the screen", "drawn rectangle"


class CorrectWidget(Container):  # type: ignore[type-arg]
    """Copies a part of a mask into a layer that can be painted, and keeps what was made of it."""

    def __init__(self, napari_viewer: Viewer) -> None:
        self._viewer = napari_viewer
        self.mask = chooser(Labels, "mask")
        self.part = ComboBox(label="part", choices=[VIEW, DRAWN])
        self.shapes = chooser(Shapes | None, "shapes")
        self.begin = PushButton(text="Start correcting")
        self.folder: Any = FileEdit(
            label="training folder", mode=FileDialogMode.EXISTING_DIRECTORY, nullable=True, value=None
        )
        self.save = PushButton(text="Save the part for training")
        self.status = Label(value="")
        super().__init__(widgets=[self.mask, self.part, self.shapes, self.begin, self.folder, self.save, self.status])
        self.begin.changed.connect(self.start)
        self.save.changed.connect(self.keep)
        self.part.changed.connect(self._show_shapes)
        self._show_shapes()

    def start(self) -> Labels | None:
        """Add a layer with the part of the mask, and turn to it; None where that cannot be done, which is told."""
        try:
            result, region = self._chosen()
            px = read_labels(result.labels[0], region)
        except WsiEspnetError as exc:
            show_error(str(exc))
            return None
        scale, origin = ngff.placement(result.plan)
        layer = Labels(
            px,
            name=f"{result.path.name.removesuffix('.ome.zarr')} corrections",
            scale=scale,
            translate=(origin[0] + region.y * scale[0], origin[1] + region.x * scale[1]),
            units=("micrometer", "micrometer"),
            axis_labels=("y", "x"),
            opacity=OPACITY,
            colormap=colormap(result.classes),
            metadata={KEY: {"corrects": result, "region": region}},
        )
        layer.brush_size = 30
        self._viewer.add_layer(layer)
        self._viewer.layers.selection.active = layer
        layer.mode = "paint"
        layer.selected_label = next(c.id for c in result.classes.classes if c.id != result.classes.glass)
        names = [f"{c.id}  {c.name}" for c in result.classes.classes]
        self.status.value = "\n".join(["paint with the label", *names, f"{UNLABELLED}  left out"])
        return layer

    def keep(self) -> None:
        """Add the part that the active layer shows to the training folder."""
        try:
            layer = self._viewer.layers.selection.active
            ours = {} if layer is None else layer.metadata.get(KEY, {})
            if not isinstance(layer, Labels) or "corrects" not in ours:
                raise UsageError("choose the layer of corrections in the list of layers; Start correcting makes one")
            if self.folder.value is None:
                raise UsageError(
                    "choose the folder that the corrections are kept in; a new one is made where it is empty"
                )
            result: OpenedResult = ours["corrects"]
            ids: NDArray[np.uint8] = np.asarray(layer.data, np.uint8)
            path = save_corrections(result, ours["region"], ids, self.folder.value)
        except WsiEspnetError as exc:
            show_error(str(exc))
            return
        left_out = float(np.mean(np.asarray(layer.data) == UNLABELLED))
        self.status.value = f"kept in {path} ({left_out:.0%} of it left out)"

    def _chosen(self) -> tuple[OpenedResult, Region]:
        result = None if self.mask.value is None else result_of(self.mask.value)
        if result is None:
            raise UsageError("choose the layer of a mask; open a result first, or make one with Segment")
        if self.part.value == DRAWN:
            if self.shapes.value is None:
                raise UsageError("choose the Shapes layer that the rectangle is drawn in")
            world = np.vstack(outlines(self.shapes.value))
        else:
            world = self._view_corners()
        corners = in_plan(world, result.plan)
        low = np.clip(np.floor(corners.min(axis=0)), 0, result.plan.shape).astype(int)
        high = np.clip(np.ceil(corners.max(axis=0)), 0, result.plan.shape).astype(int)
        if (low >= high).any():
            raise UsageError("this part lies beside the mask; move to it first")
        if max(high - low) > MAX_PX:
            raise UsageError(
                f"this part has {high[1] - low[1]} x {high[0] - low[0]} px, and at most {MAX_PX} a side are corrected "
                "at once; zoom in, or draw a smaller rectangle"
            )
        return result, Region(int(low[0]), int(low[1]), int(high[0] - low[0]), int(high[1] - low[1]))

    def _view_corners(self) -> NDArray[np.float64]:
        """World coordinates of two opposite corners of what the canvas shows."""
        camera = self._viewer.scene.camera
        height, width = self._viewer.canvas.size
        half = np.array([height, width]) / (2 * camera.zoom)
        centre = np.asarray(camera.center[-2:])
        return np.stack([centre - half, centre + half])

    def _show_shapes(self) -> None:
        self.shapes.visible = self.part.value == DRAWN
        if self.part.value == DRAWN and self.shapes.value is None:
            self.shapes.value = add_shapes(self._viewer)
