"""One picture of a result: the slide, the classes over it, what they mean, how much there is of each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from wsi_espnet.classes import UNLABELLED, ClassTable
from wsi_espnet.errors import GeometryError
from wsi_espnet.outputs.areas import Areas, ClassArea
from wsi_espnet.outputs.paint import (
    FAINT,
    INK,
    RULE,
    alarm_hatch,
    draw_mm2,
    draw_scale_bar,
    font,
    glass_hatch,
    legible,
    outline,
    paint_classes,
    tint,
)

WIDTH = 2000
"""Width of the picture in px; half a page of a report at 300 px per inch, and a whole screen."""
TALLEST = 2000
"""Longest height of a panel in px; a taller slide is shown narrower, with the legend beside it."""
MARGIN, GAP, TOP, HEAD, CAPTION = 56, 40, 150, 66, 34
"""Px around all, between panels, above the panels, down to the title, of the line above a panel."""
ROW, SWATCH, SWATCH_GAP, LEGEND_TEXT = 46, 30, 16, 28  # px; rows of the legend
NUMBERS = 290  # px; what mm2 and a share take in a row of the legend

Bools = NDArray[np.bool_]


def draw_overview(
    thumbnail: NDArray[np.uint8],
    labels: NDArray[np.uint8],
    tissue: Bools,
    classes: ClassTable,
    *,
    title: str,
    um_per_px: float,
    areas: Areas | None,
) -> Image.Image:
    """Draw the slide and its classes side by side, or one above the other where the slide is wide.

    Parameters
    ----------
    thumbnail
        uint8 (h, w, 3), RGB, the whole image that was segmented.
    labels
        uint8 (h, w), class ids of the same view; 255 where the result failed.
    tissue
        bool (h, w), what was segmented; the rest is hatched in grey.
    classes
        Names and colours; the class that glass belongs to is left clear.
    title
        Such as the name of the slide; cut in the middle where it is too long.
    um_per_px
        um per px of the thumbnail.
    areas
        Shares and square millimetres for the legend; without them it has names alone.

    Returns
    -------
    PIL.Image.Image
        RGB, 2000 px wide, as high as it takes.

    Raises
    ------
    GeometryError
        The three arrays are of different sizes.
    """
    h, w = thumbnail.shape[:2]
    if labels.shape != (h, w) or tissue.shape != (h, w):
        raise GeometryError(
            f"an overview needs labels and tissue of the thumbnail's {(h, w)} px, got {labels.shape} and {tissue.shape}"
        )
    failed = (labels == UNLABELLED) & tissue
    entries = _entries(classes, areas, failed=bool(failed.any()))
    layout = _arrange(h, w, entries)
    slide = Image.fromarray(thumbnail).resize(layout.panel, Image.Resampling.LANCZOS)
    draw_scale_bar(slide, um_per_px * w / layout.panel[0])
    result = _result_panel(thumbnail, labels, tissue, failed, classes, layout.panel)
    page = Image.new("RGB", (WIDTH, layout.height), "white")
    _draw_head(page, title, areas)
    for image, place, caption in zip((slide, result), layout.places, ("Slide", "Classes"), strict=True):
        _draw_panel(page, image, place, caption)
    _draw_legend(page, layout, entries)
    return page


@dataclass(frozen=True, slots=True)
class _Layout:
    """Where things go on the page: sizes and places are (x, y), in px."""

    panel: tuple[int, int]
    places: tuple[tuple[int, int], tuple[int, int]]
    legend: tuple[int, int]
    columns: int
    column_px: int
    height: int


@dataclass(frozen=True, slots=True)
class _Entry:
    """One row of the legend."""

    swatch: Image.Image
    name: str
    area: ClassArea | None


def _arrange(h: int, w: int, entries: Sequence[_Entry]) -> _Layout:
    """Panels as large as the page allows, and the legend where they leave room."""
    inner = WIDTH - 2 * MARGIN
    half = (inner - GAP) // 2
    column_px = min(_row_px(entries), half)
    if half * h > TALLEST * w:
        return _arrange_tall(h, w, len(entries), column_px)
    if w > 1.8 * h:
        panel = (inner, max(1, round(inner * h / w)))
        places = ((MARGIN, TOP), (MARGIN, TOP + panel[1] + CAPTION + GAP))
    else:
        panel = (half, max(1, round(half * h / w)))
        places = ((MARGIN, TOP), (MARGIN + half + GAP, TOP))
    top = places[1][1] + panel[1] + GAP
    columns = (inner + GAP) // (column_px + GAP)
    rows = math.ceil(len(entries) / columns)
    column_px = (inner + GAP) // columns - GAP
    return _Layout(panel, places, (MARGIN, top), columns, column_px, top + rows * ROW + MARGIN)


def _row_px(entries: Sequence[_Entry]) -> int:
    """Width that the longest row of the legend takes."""
    face = font(LEGEND_TEXT)
    rows = (face.getlength(legible(e.name)) + (NUMBERS if e.area else 0) for e in entries)
    return SWATCH + 2 * SWATCH_GAP + math.ceil(max(rows))


def _arrange_tall(h: int, w: int, entries: int, column_px: int) -> _Layout:
    wide = min((WIDTH - 2 * MARGIN - 2 * GAP - column_px) // 2, max(1, round(TALLEST * w / h)))
    panel = (wide, min(TALLEST, round(wide * h / w)))
    places = ((MARGIN, TOP), (MARGIN + wide + GAP, TOP))
    height = TOP + max(panel[1], entries * ROW) + MARGIN
    return _Layout(panel, places, (places[1][0] + wide + GAP, TOP), 1, column_px, height)


def _result_panel(
    thumbnail: NDArray[np.uint8],
    labels: NDArray[np.uint8],
    tissue: Bools,
    failed: Bools,
    classes: ClassTable,
    size: tuple[int, int],
) -> Image.Image:
    tinted = paint_classes(thumbnail, labels, tissue, classes)
    shrinks = size[0] < tinted.width
    panel = tinted.resize(size, Image.Resampling.LANCZOS if shrinks else Image.Resampling.NEAREST)
    edge, color = outline(_nearest(labels, size), _nearest(tissue, size), classes)
    panel.paste(Image.fromarray(color), mask=Image.fromarray(edge.astype(np.uint8) * 255))
    panel.paste(glass_hatch(size), mask=_at(~tissue, size, least=0.5))
    panel.paste(alarm_hatch(size), mask=_at(failed, size, least=0.0))  # a single failed px must be seen
    return panel


def _nearest(array: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    rows, cols = ((np.arange(n) + 0.5) * have / n for n, have in zip(size[::-1], array.shape, strict=True))
    return array[np.ix_(rows.astype(np.int64), cols.astype(np.int64))]


def _at(where: Bools, size: tuple[int, int], *, least: float) -> Image.Image:
    """A mask (w, h), set where more than the share `least` of a px is."""
    share = Image.fromarray(where.astype(np.uint8) * 255).resize(size, Image.Resampling.BOX)
    return share.point([255 if value > least * 255 else 0 for value in range(256)])


def _entries(classes: ClassTable, areas: Areas | None, *, failed: bool) -> list[_Entry]:
    side = (SWATCH, SWATCH)
    of = {area.id: area for area in (*areas.classes, areas.unlabelled)} if areas else {}
    entries = [_Entry(_swatch(c.color, clear=c.id == classes.glass), c.name, of.get(c.id)) for c in classes.classes]
    if failed or (areas and areas.unlabelled.px):
        entries.append(_Entry(alarm_hatch(side), "failed: could not be read", of.get(UNLABELLED)))
    return [*entries, _Entry(glass_hatch(side), "skipped: glass", None)]


def _swatch(color: tuple[int, int, int], *, clear: bool) -> Image.Image:
    """The colour as it looks over tissue, in its full outline; nothing for the class that is left clear."""
    if clear:
        return Image.new("RGB", (SWATCH, SWATCH), "white")
    mixed = tint(np.full(1, 190, np.float32), np.array([color], dtype=np.float32))[0].tolist()
    swatch = Image.new("RGB", (SWATCH, SWATCH), tuple(mixed))
    ImageDraw.Draw(swatch).rectangle((0, 0, SWATCH - 1, SWATCH - 1), outline=color, width=3)
    return swatch


def _draw_head(page: Image.Image, title: str, areas: Areas | None) -> None:
    draw, face, right = ImageDraw.Draw(page), font(44), WIDTH - MARGIN
    if areas:
        right -= round(draw_mm2(draw, (right, HEAD), areas.tissue_mm2, 32))
        draw.text((right, HEAD), "tissue  ", font=font(32), fill=FAINT, anchor="rm")
        right -= round(draw.textlength("tissue  ", font=font(32))) + GAP
    title, kept = legible(title), len(title)
    while draw.textlength(_shortened(title, kept), font=face) > right - MARGIN and kept > 8:
        kept -= 1
    draw.text((MARGIN, HEAD), _shortened(title, kept), font=face, fill=INK, anchor="lm")


def _shortened(text: str, kept: int) -> str:
    return text if kept >= len(text) else f"{text[: kept // 2]}...{text[len(text) - kept // 2 :]}"


def _draw_panel(page: Image.Image, image: Image.Image, place: tuple[int, int], caption: str) -> None:
    x, y = place
    page.paste(image, place)
    draw = ImageDraw.Draw(page)
    draw.rectangle((x - 1, y - 1, x + image.width, y + image.height), outline=RULE, width=1)
    draw.text((x, y - 12), caption, font=font(26), fill=FAINT, anchor="ls")


def _draw_legend(page: Image.Image, layout: _Layout, entries: Sequence[_Entry]) -> None:
    draw, face = ImageDraw.Draw(page), font(LEGEND_TEXT)
    rows = math.ceil(len(entries) / layout.columns)
    for index, entry in enumerate(entries):
        x = layout.legend[0] + index // rows * (layout.column_px + GAP)
        y = layout.legend[1] + index % rows * ROW
        page.paste(entry.swatch, (x, y))
        draw.rectangle((x, y, x + SWATCH - 1, y + SWATCH - 1), outline=RULE)
        middle = y + SWATCH // 2
        draw.text((x + SWATCH + SWATCH_GAP, middle), legible(entry.name), font=face, fill=INK, anchor="lm")
        if entry.area:
            share = f"{entry.area.share_of_tissue:.1%}"
            draw.text((x + layout.column_px, middle), share, font=face, fill=INK, anchor="rm")
            draw_mm2(draw, (x + layout.column_px - 116, middle), entry.area.mm2, LEGEND_TEXT)
