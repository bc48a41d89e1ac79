"""The Classes panel: names, colours, areas and shares of a mask; show, hide, go to, measure within a shape, export."""

from __future__ import annotations

import csv
import io
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from magicgui.widgets import ComboBox, Container, Label, PushButton
from napari import Viewer
from napari.layers import Labels, Shapes
from napari.utils.notifications import show_error, show_info
from qtpy.QtCore import QSettings, Qt
from qtpy.QtGui import QColor
from qtpy.QtWidgets import QColorDialog, QFileDialog, QHeaderView, QPushButton, QTableWidget, QTableWidgetItem
from scipy import ndimage

from napari_wsi_espnet.layers import chooser, colormap, result_of
from napari_wsi_espnet.outlines import add_shapes, in_plan, outlines
from wsi_espnet.atomic import write_bytes_atomic
from wsi_espnet.classes import TissueClass
from wsi_espnet.errors import UsageError, WsiEspnetError
from wsi_espnet.outputs.areas import Areas, Outlined, measure_areas, read_areas
from wsi_espnet.outputs.opened import OpenedResult

TISSUE, DRAWN = "all of the tissue", "drawn shapes"

FILLS = 0.5
"""How much of the canvas a region fills when it is gone to."""

SHOWN, COLOR, NAME, MM2, SHARE, GO = range(6)
"""Columns of the table."""


class ClassesWidget(Container):  # type: ignore[type-arg]
    """What a mask says, class by class."""

    def __init__(self, napari_viewer: Viewer) -> None:
        self._viewer = napari_viewer
        self.areas: Areas | None = None
        self.mask = chooser(Labels, "mask")
        self.within: Any = ComboBox(label="measure in", choices=[TISSUE, DRAWN])
        self.shapes = chooser(Shapes | None, "shapes")
        self.again: Any = PushButton(text="Measure")
        self.export_button: Any = PushButton(text="Export areas as CSV")
        self.total = Label(value="")
        super().__init__(widgets=[self.mask, self.within, self.shapes, self.again])
        self.table = QTableWidget(0, 6)
        self.table.setHorizontalHeaderLabels(["", "", "class", "mm2", "share", ""])
        self.table.verticalHeader().hide()
        header = self.table.horizontalHeader()
        header.setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)
        header.setSectionResizeMode(NAME, QHeaderView.ResizeMode.Stretch)
        self.native.layout().addWidget(self.table)
        self.native.layout().addWidget(self.total.native)
        self.native.layout().addWidget(self.export_button.native)
        self.table.itemChanged.connect(self._on_shown)
        self.mask.changed.connect(self.refresh)
        self.again.changed.connect(self.refresh)
        self.export_button.changed.connect(self._ask_where)
        self.within.changed.connect(self._show_shapes)
        self._show_shapes()
        self.refresh()

    @property
    def result(self) -> OpenedResult | None:
        """The result that the chosen layer shows."""
        return None if self.mask.value is None else result_of(self.mask.value)

    def refresh(self) -> None:
        """Measure again and fill the table."""
        result = self.result
        self.areas = None
        if result is None:
            self._fill(None)
            self.total.value = "no mask is open"
            return
        try:
            self.areas = self._measure(result)
        except WsiEspnetError as exc:
            show_error(str(exc))
        self._fill(result)
        self._recolor()

    def set_color(self, name: str, rgb: tuple[int, int, int]) -> None:
        """Show a class in another colour, in this window and from now on."""
        settings().setValue(f"colors/{name}", QColor(*rgb).name())
        self._recolor()
        self._fill(self.result)

    def set_shown(self, id_: int, *, shown: bool) -> None:
        """Show or hide a class."""
        hidden = self._hidden()
        if shown:
            hidden.discard(id_)
        else:
            hidden.add(id_)
        self._recolor()

    def go_to_largest(self, id_: int) -> None:
        """Move the camera to the largest connected region of a class."""
        result = self.result
        box = None if result is None else _largest(result, id_)
        if result is None or box is None:
            show_info("there is no px of this class in the mask")
            return
        y, x, height, width = box
        self._viewer.scene.camera.center = (y, x)
        canvas = self._viewer.canvas.size
        self._viewer.scene.camera.zoom = FILLS * min(canvas[0] / height, canvas[1] / width)

    def export_csv(self, path: Path) -> None:
        """Write the table as CSV, in the columns of ``areas.csv``.

        Raises
        ------
        UsageError
            Nothing is measured.
        OutputError
            The file cannot be written.
        """
        if self.areas is None:
            raise UsageError("nothing is measured; choose a mask first")
        text = io.StringIO(newline="")
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["id", "name", "px", "mm2", "share_of_tissue"])
        for area in (*self.areas.classes, self.areas.unlabelled):
            writer.writerow([area.id, area.name, area.px, f"{area.mm2:.6f}", f"{area.share_of_tissue:.6f}"])
        write_bytes_atomic(path, text.getvalue().encode())

    def _measure(self, result: OpenedResult) -> Areas:
        counted = result.path.parent / "areas.json"
        if self.within.value == TISSUE and result.done and counted.is_file():
            return read_areas(counted)  # what a gigapixel mask holds takes seconds to count again
        where: Any = result.tissue
        if self.within.value == DRAWN:
            if self.shapes.value is None:
                raise UsageError("choose the Shapes layer that the area is drawn in; add one with the polygon button")
            rings = [in_plan(ring, result.plan) for ring in outlines(self.shapes.value)]
            where = Outlined(result.tissue, [[ring] for ring in rings])
        return measure_areas(result.labels[0], where, result.classes, result.plan.um2_per_px)

    def _fill(self, result: OpenedResult | None) -> None:
        self.table.blockSignals(True)
        classes = () if result is None else result.classes.classes
        self.table.setRowCount(len(classes))
        for row, entry in enumerate(classes):
            self._fill_row(row, entry)
        self.table.blockSignals(False)
        if self.areas is not None:
            what = "tissue" if self.within.value == TISSUE else "tissue in the shapes"
            unlabelled = self.areas.unlabelled
            rest = f", {unlabelled.share_of_tissue:.1%} of it unlabelled" if unlabelled.px else ""
            self.total.value = f"{self.areas.tissue_mm2:.3f} mm2 of {what}{rest}"

    def _fill_row(self, row: int, entry: TissueClass) -> None:
        shown = QTableWidgetItem()
        shown.setFlags(Qt.ItemFlag.ItemIsUserCheckable | Qt.ItemFlag.ItemIsEnabled)
        shown.setCheckState(Qt.CheckState.Unchecked if entry.id in self._hidden() else Qt.CheckState.Checked)
        shown.setData(Qt.ItemDataRole.UserRole, entry.id)
        self.table.setItem(row, SHOWN, shown)
        color = QPushButton()
        color.setFixedWidth(28)
        color.setStyleSheet(f"background-color: {QColor(*_color(entry)).name()}")
        color.setToolTip(f"colour of {entry.name}")
        color.clicked.connect(partial(self._ask_color, entry))
        self.table.setCellWidget(row, COLOR, color)
        area = None if self.areas is None else self.areas.classes[entry.id]
        texts = (
            entry.name,
            "" if area is None else f"{area.mm2:.3f}",
            "" if area is None else f"{area.share_of_tissue:.1%}",
        )
        for column, text in zip((NAME, MM2, SHARE), texts, strict=True):
            item = QTableWidgetItem(text)
            item.setFlags(Qt.ItemFlag.ItemIsEnabled)
            self.table.setItem(row, column, item)
        go = QPushButton("go to")
        go.setToolTip("the largest region of this class")
        go.clicked.connect(partial(self._go, entry.id))
        self.table.setCellWidget(row, GO, go)

    def _go(self, id_: int, _checked: bool = False) -> None:
        self.go_to_largest(id_)

    def _on_shown(self, item: QTableWidgetItem) -> None:
        if item.column() == SHOWN:
            self.set_shown(item.data(Qt.ItemDataRole.UserRole), shown=item.checkState() == Qt.CheckState.Checked)

    def _ask_color(self, entry: TissueClass, _checked: bool = False) -> None:
        chosen = QColorDialog.getColor(QColor(*_color(entry)), self.native, entry.name)
        if chosen.isValid():
            self.set_color(entry.name, (chosen.red(), chosen.green(), chosen.blue()))

    def _ask_where(self) -> None:
        path, _ = QFileDialog.getSaveFileName(self.native, "Areas", "areas.csv", "CSV (*.csv)")
        if path:
            try:
                self.export_csv(Path(path))
            except WsiEspnetError as exc:
                show_error(str(exc))

    def _recolor(self) -> None:
        result = self.result
        if result is not None:
            colors = {entry.name: _color(entry) for entry in result.classes.classes}
            self.mask.value.colormap = colormap(result.classes, colors=colors, hidden=self._hidden())

    def _hidden(self) -> set[int]:
        """Ids that the chosen layer does not show; kept with the layer."""
        if self.mask.value is None:
            return set()
        hidden: set[int] = self.mask.value.metadata.setdefault("wsi_espnet_hidden", set())
        return hidden

    def _show_shapes(self) -> None:
        self.shapes.visible = self.within.value == DRAWN
        if self.within.value == DRAWN and self.shapes.value is None:
            self.shapes.value = add_shapes(self._viewer)


def settings() -> QSettings:
    """Where chosen colours are kept, per user."""
    return QSettings(QSettings.Format.IniFormat, QSettings.Scope.UserScope, "wsi_espnet", "napari")


def _color(entry: TissueClass) -> tuple[int, int, int]:
    """The colour chosen for a class of this name, or the mask's own."""
    chosen = QColor(str(settings().value(f"colors/{entry.name}", "")))
    return (chosen.red(), chosen.green(), chosen.blue()) if chosen.isValid() else entry.color


def _largest(result: OpenedResult, id_: int) -> tuple[float, float, float, float] | None:
    """(y, x, height, width) in um of the centre and size of the largest region; None where there is none.

    It is looked for in the coarsest level, and in finer ones where the class is too small to be seen there.
    """
    for level in reversed(result.labels):
        regions, count = ndimage.label(np.asarray(level[...]) == id_)
        if not count:
            continue
        largest = int(np.argmax(np.bincount(regions.ravel())[1:])) + 1
        rows, columns = ndimage.find_objects(regions)[largest - 1]
        factor = np.divide(result.plan.shape, level.shape) * result.plan.mpp
        y, x = (((part.start + part.stop) / 2 - 0.5) * f for part, f in zip((rows, columns), factor, strict=True))
        size = [(part.stop - part.start) * f for part, f in zip((rows, columns), factor, strict=True)]
        return y + result.plan.origin_um[0], x + result.plan.origin_um[1], size[0], size[1]
    return None
