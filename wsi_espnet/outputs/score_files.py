"""Scores as files: JSON, CSV, and the confusion matrix as a picture."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from wsi_espnet.atomic import write_bytes_atomic
from wsi_espnet.outputs.paint import FAINT, INK, RULE, font, legible
from wsi_espnet.scores import Scores

JSON_NAME, CSV_NAME, PICTURE_NAME = "scores.json", "scores.csv", "confusion.png"

CELL, TEXT, SMALL, MARGIN = 44, 17, 15, 24
"""Px: side of a cell, height of names, of figures, and white around all."""
DARK = np.array([12, 52, 110])
"""Colour (R, G, B) of a cell that holds its whole row; less goes to white in proportion."""


def write_scores(folder: Path, scores: Scores, *, title: str, about: Mapping[str, Any]) -> tuple[Path, Path, Path]:
    """Write `scores.json`, `scores.csv` and `confusion.png`; returns their places.

    Parameters
    ----------
    folder
        Made if need be.
    scores
        Of one set.
    title
        Line above the picture.
    about
        JSON-able: how the scores were obtained; written before them.

    Raises
    ------
    OutputError
        The disk is full or read-only.
    """
    files = {
        JSON_NAME: json.dumps({**about, **scores.facts}, indent=2, ensure_ascii=False).encode(),
        CSV_NAME: scores_csv(scores).encode(),
        PICTURE_NAME: confusion_png(scores, title=title),
    }
    for name, content in files.items():
        write_bytes_atomic(folder / name, content)
    return folder / JSON_NAME, folder / CSV_NAME, folder / PICTURE_NAME


def scores_csv(scores: Scores) -> str:
    """A line for each class, each category and each mean; empty where a figure is not defined."""
    text = io.StringIO()
    write = csv.writer(text, lineterminator="\n").writerow
    write(["kind", "name", "iou", "dice", "accuracy", "truth_px", "predicted_px"])
    columns = zip(scores.names, scores.iou, scores.dice, scores.accuracy, strict=True)
    for i, (name, *values) in enumerate(columns):
        px = (int(scores.counts[i].sum()), int(scores.counts[:-1, i].sum()))
        write(["class", name, *map(_figure, values), *px])
    for name, value in scores.category_iou.items():
        write(["category", name, _figure(value), "", "", "", ""])
    means = scores.means
    write(["mean", "classes", *(_figure(means[key]) for key in ("mIoU", "mean Dice", "class accuracy")), "", ""])
    if scores.category_iou:
        write(["mean", "categories", _figure(means["category mIoU"]), "", "", "", ""])
    write(["all", "pixels", "", "", _figure(means["pixel accuracy"]), "", ""])
    return text.getvalue()


def confusion_png(scores: Scores, *, title: str) -> bytes:
    """PNG of the matrix: rows are truth, columns what was said; figures are percent of the row."""
    counts = scores.counts
    rows = [*scores.names, "(void)"] if counts[-1].any() else [*scores.names]
    columns = [*scores.names, "(no class)"] if counts[:, -1].any() else [*scores.names]
    shown = counts[: len(rows), : len(columns)]
    share = shown / np.maximum(counts[: len(rows)].sum(axis=1, keepdims=True), 1)
    image = _draw(share, [legible(n) for n in rows], [legible(n) for n in columns], legible(title))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def _draw(share: NDArray[np.float64], rows: Sequence[str], columns: Sequence[str], title: str) -> Image.Image:
    face = font(TEXT)
    left = MARGIN + math.ceil(max(face.getlength(name) for name in rows)) + 10
    names = math.ceil(max(face.getlength(name) for name in columns)) + 10
    top = MARGIN + 62 + names
    wide = max(left + CELL * len(columns), MARGIN + math.ceil(font(20).getlength(title))) + MARGIN
    image = Image.new("RGB", (wide, top + CELL * len(rows) + MARGIN), "white")
    draw = ImageDraw.Draw(image)
    draw.text((MARGIN, MARGIN), title, font=font(20), fill=INK)
    told = "rows: truth, columns: prediction; percent of the row"
    draw.text((MARGIN, MARGIN + 28), told, font=face, fill=FAINT)
    for y, name in enumerate(rows):
        draw.text((left - 8, top + CELL * (y + 0.5)), name, font=face, fill=INK, anchor="rm")
    for x, name in enumerate(columns):
        _upwards(image, name, left + CELL * x, top - 8)
    for y, x in np.ndindex(share.shape):
        _cell(draw, (left + CELL * x, top + CELL * y), float(share[y, x]))
    edge = (left, top, left + CELL * len(columns), top + CELL * len(rows))
    draw.rectangle(edge, outline=RULE)
    return image


def _upwards(image: Image.Image, name: str, x: int, bottom: int) -> None:
    """A name written from below to above, in the middle of the column that starts at x."""
    face = font(TEXT)
    strip = Image.new("RGB", (math.ceil(face.getlength(name)) + 2, TEXT + 8), "white")
    ImageDraw.Draw(strip).text((1, strip.height / 2), name, font=face, fill=INK, anchor="lm")
    turned = strip.transpose(Image.Transpose.ROTATE_90)
    image.paste(turned, (x + (CELL - turned.width) // 2, bottom - turned.height))


def _cell(draw: ImageDraw.ImageDraw, corner: tuple[int, int], share: float) -> None:
    """One field; what is less than half a percent has no figure."""
    x, y = corner
    red, green, blue = (int(v) for v in np.rint(255 + share * (DARK - 255)))
    draw.rectangle((x, y, x + CELL - 1, y + CELL - 1), fill=(red, green, blue), outline=(240, 241, 243))
    if share >= 0.005:
        ink = (255, 255, 255) if share > 0.5 else INK
        draw.text((x + CELL / 2, y + CELL / 2), f"{100 * share:.0f}", font=font(SMALL), fill=ink, anchor="mm")


def _figure(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.6f}"
