"""Samples of a data set on one picture: each image beside its classes, and a legend."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from wsi_espnet.classes import UNLABELLED, ClassTable
from wsi_espnet.data.adapter import Dataset, Labelled
from wsi_espnet.data.check import spread
from wsi_espnet.errors import DataError
from wsi_espnet.outputs.paint import FAINT, INK, RULE, font, hatch, legible, outline, paint_classes

CELL_PX = 300
"""Longest side of a sample on the sheet."""
COLUMNS = 3
"""Samples side by side; each takes two pictures."""
GAP, MARGIN, LINE = 12, 24, 26
"""Px between the two pictures of a sample and around a sample, at the sheet's edge, and per line of text."""
IGNORED, IGNORED_LINE = (60, 62, 66), (120, 122, 126)
"""Px without a class: dark grey with thin lines, which no class table has."""


class Item(NamedTuple):
    """A sample with its caption."""

    caption: str
    sample: Labelled


def pick(dataset: Dataset, splits: Sequence[str], count: int) -> list[Item]:
    """About `count` samples spread over the splits; those that cannot be read are left out."""
    items = []
    for split in splits:
        for sample in spread(dataset.listing(split).samples, -(-count // len(splits))):
            try:
                items.append(Item(f"{split}/{sample.name}", sample.read()))
            except DataError:  # a check has told about it
                continue
    return items


def draw_sheet(title: str, items: Sequence[Item], classes: ClassTable) -> Image.Image:
    """RGB picture of all samples, image and classes side by side, over a legend of the classes that occur.

    Parameters
    ----------
    title
        First line.
    items
        At least one.
    classes
        What the labels mean. Px of the class that is glass show the image; ignored px are dark and hatched.

    Raises
    ------
    DataError
        There are no samples.
    """
    if not items:
        raise DataError("a contact sheet needs a sample that can be read, and there is none; see the findings")
    pairs = [(item.caption, *_pictures(item.sample, classes)) for item in items]
    width, height = max(image.width for _, image, _ in pairs), max(image.height for _, image, _ in pairs)
    step_x, step_y = 2 * width + 3 * GAP, height + LINE + GAP
    columns = min(COLUMNS, len(pairs))
    sheet_width = max(2 * MARGIN + columns * step_x - 2 * GAP, 640)
    legend = _legend(items, classes, sheet_width - 2 * MARGIN)
    top = MARGIN + 2 * LINE
    rows = -(-len(pairs) // columns)
    sheet = Image.new("RGB", (sheet_width, top + rows * step_y + legend.height + MARGIN), (255, 255, 255))
    draw = ImageDraw.Draw(sheet)
    draw.text((MARGIN, MARGIN), legible(title), font=font(22), fill=INK)
    for index, (caption, image, painted) in enumerate(pairs):
        x, y = MARGIN + index % columns * step_x, top + index // columns * step_y
        sheet.paste(image, (x, y))
        sheet.paste(painted, (x + width + GAP // 2, y))
        draw.text((x, y + image.height + 3), _fitting(caption, draw, 2 * width), font=font(14), fill=FAINT)
    sheet.paste(legend, (MARGIN, top + rows * step_y))
    return sheet


def sheet_png(title: str, items: Sequence[Item], classes: ClassTable) -> bytes:
    """The same as the bytes of a PNG file."""
    buffer = io.BytesIO()
    draw_sheet(title, items, classes).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _pictures(sample: Labelled, classes: ClassTable) -> tuple[Image.Image, Image.Image]:
    """Image and painted classes at most `CELL_PX` wide and high; never enlarged but by whole factors."""
    h, w = sample.labels.shape
    scale = CELL_PX / max(h, w)
    scale = float(int(scale)) if scale >= 1 else scale
    size = max(1, round(w * scale)), max(1, round(h * scale))
    smooth = Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.BOX
    image = Image.fromarray(sample.rgb).resize(size, smooth)
    labels = np.asarray(Image.fromarray(sample.labels).resize(size, Image.Resampling.NEAREST))
    labelled = labels != UNLABELLED
    painted = np.asarray(paint_classes(np.asarray(image), labels, labelled, classes)).copy()
    edge, colors = outline(labels, labelled, classes)
    painted[edge] = colors[edge]
    painted[~labelled] = np.asarray(hatch(size, IGNORED, IGNORED_LINE, step=10, width=2))[~labelled]
    return image, Image.fromarray(painted)


def _legend(items: Iterable[Item], classes: ClassTable, width: int) -> Image.Image:
    """Colours and names of all classes with their share of the labelled px shown; then what is ignored."""
    counts = sum((np.bincount(item.sample.labels.ravel(), minlength=256) for item in items), np.zeros(256, np.int64))
    labelled = max(int(counts[: len(classes)].sum()), 1)
    glass = {classes.glass: " (not painted)"}
    entries = [(c.color, f"{c.id} {c.name}{glass.get(c.id, '')}", counts[c.id] / labelled) for c in classes.classes]
    if len(entries) > 40:  # of a long table, those that are seen
        entries = [entry for entry in entries if entry[2] > 0]
    columns = max(1, width // 300)
    rows = -(-(len(entries) + 1) // columns)
    legend = Image.new("RGB", (width, rows * LINE + LINE // 2), (255, 255, 255))
    draw = ImageDraw.Draw(legend)
    draw.line((0, 0, width, 0), fill=RULE)
    ignored = f"ignored  {counts[UNLABELLED] / max(int(counts.sum()), 1):.1%} of all px"
    texts = [f"{legible(name)}  {share:.1%}" for _, name, share in entries]
    for index, text in enumerate([*texts, ignored]):
        x, y = index // rows * (width // columns), LINE // 2 + index % rows * LINE
        swatch = (
            Image.new("RGB", (24, 16), entries[index][0])
            if index < len(entries)
            else hatch((24, 16), IGNORED, IGNORED_LINE, step=10, width=2)
        )
        legend.paste(swatch, (x, y))
        draw.rectangle((x, y, x + 23, y + 15), outline=RULE)
        draw.text((x + 32, y), text, font=font(14), fill=INK)
    return legend


def _fitting(text: str, draw: ImageDraw.ImageDraw, width: float) -> str:
    """Text cut at its start until it is no longer than `width` px."""
    text = legible(text)
    cut = text
    while draw.textlength(cut, font=font(14)) > width and len(cut) > 4:
        cut = "..." + cut[4:] if cut.startswith("...") else "..." + cut[3:]
    return cut
