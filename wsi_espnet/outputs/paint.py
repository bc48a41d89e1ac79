"""What the overview is painted with: class tints over a thumbnail, hatches, a scale bar."""

from __future__ import annotations

import math
import unicodedata

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from wsi_espnet.classes import UNLABELLED, ClassTable

TINT = 0.55
"""How much of a class's colour covers the slide, grey under it: structure shows, and no stain changes it."""
LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)
"""Brightness of R, G and B: ITU-R BT.601."""
INK, FAINT, RULE = (28, 30, 34), (105, 110, 118), (176, 180, 186)
"""Colours (R, G, B) of text, of lesser text, and of lines."""
GREY, GREY_LINE = (226, 228, 231), (202, 205, 210)
"""Skipped glass: a light grey with thin lines, paler than any tissue."""
ALARM, ALARM_LINE = (255, 214, 0), (20, 20, 20)
"""Failed area: the yellow and black of warning tape, which no stain and no class table has."""

Rgb = NDArray[np.uint8]
Bools = NDArray[np.bool_]


def paint_classes(thumbnail: Rgb, labels: NDArray[np.uint8], tissue: Bools, classes: ClassTable) -> Image.Image:
    """RGB image: the thumbnail, tinted by class within the tissue, but not where it is glass or failed."""
    colors = np.zeros((UNLABELLED + 1, 3), dtype=np.float32)
    covers = np.zeros(UNLABELLED + 1, dtype=np.bool_)
    for c in classes.classes:
        colors[c.id] = c.color
        covers[c.id] = c.id != classes.glass
    painted = thumbnail.copy()
    for top in range(0, len(labels), 256):  # strips: floats of a whole thumbnail would be large
        part = slice(top, top + 256)
        here = covers[labels[part]] & tissue[part]
        grey = painted[part][here] @ LUMA
        painted[part][here] = tint(grey, colors[labels[part][here]])
    return Image.fromarray(painted)


def tint(grey: NDArray[np.float32], color: NDArray[np.float32]) -> Rgb:
    """uint8 (n, 3): colours (n, 3) over grey (n,), all 0..255."""
    mixed: Rgb = np.rint((1 - TINT) * grey[:, None] + TINT * color).astype(np.uint8)
    return mixed


def outline(labels: NDArray[np.uint8], tissue: Bools, classes: ClassTable) -> tuple[Bools, Rgb]:
    """Edge px of painted classes, bool (h, w), and their full colour, uint8 (h, w, 3)."""
    colors = np.zeros((UNLABELLED + 1, 3), dtype=np.uint8)
    for c in classes.classes:
        colors[c.id] = c.color
    painted = tissue & (labels != UNLABELLED) & (labels != (UNLABELLED if classes.glass is None else classes.glass))
    shown = np.where(painted, labels, UNLABELLED)
    edge = np.zeros_like(painted)
    down, right = shown[1:] != shown[:-1], shown[:, 1:] != shown[:, :-1]
    for side, differs in ((edge[1:], down), (edge[:-1], down), (edge[:, 1:], right), (edge[:, :-1], right)):
        side |= differs
    return edge & painted, colors[labels]


def hatch(
    size: tuple[int, int], fill: tuple[int, int, int], line: tuple[int, int, int], step: int, width: int
) -> Image.Image:
    """RGB image (w, h), crossed by diagonal lines `width` px wide every `step` px."""
    y, x = np.ogrid[: size[1], : size[0]]
    lines = ((x + y) % step) < width
    return Image.fromarray(np.where(lines[..., None], *(np.array(c, dtype=np.uint8) for c in (line, fill))))


def glass_hatch(size: tuple[int, int]) -> Image.Image:
    """RGB image (w, h) of what stands for skipped glass."""
    return hatch(size, GREY, GREY_LINE, step=14, width=2)


def alarm_hatch(size: tuple[int, int]) -> Image.Image:
    """RGB image (w, h) of what stands for area that failed."""
    return hatch(size, ALARM, ALARM_LINE, step=16, width=7)


def font(size_px: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own typeface; nothing needs to be installed."""
    return ImageFont.load_default(size=size_px)


def round_length_um(longest_um: float) -> float:
    """Largest of 1, 2 and 5 times a power of ten that is no longer than `longest_um`, > 0.

    Examples
    --------
    >>> [round_length_um(um) for um in (0.7, 4.9, 5.0, 1234.0)]
    [0.5, 2.0, 5.0, 1000.0]
    """
    power = 10.0 ** math.floor(math.log10(longest_um) + 1e-9)
    return max(digit * power for digit in (1, 2, 5) if digit * power <= longest_um * (1 + 1e-9))


def length_text(um: float) -> str:
    """A length with its unit: 50 um, 0.2 mm, 2 mm."""
    return f"{um / 1000:g} mm" if um >= 100 else f"{um:g} um"


def legible(text: str) -> str:
    """Text in the letters that the typeface has, which are those of ASCII: accents go, the rest is a "?".

    Examples
    --------
    >>> legible("Präparat 日.svs")
    'Praparat ?.svs'
    """
    plain = (c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    return "".join(c if c.isascii() and c.isprintable() else "?" for c in plain)


def draw_mm2(draw: ImageDraw.ImageDraw, right_middle: tuple[float, float], mm2: float, size_px: int) -> float:
    """Draw an area with its unit, ending at a place; returns how long it is, in px."""
    x, y = right_middle
    face, small, text = font(size_px), font(round(size_px * 0.62)), f"{mm2:.2f} mm"
    raised, length = draw.textlength("2", font=small), draw.textlength(text, font=face)
    draw.text((x, y - size_px * 0.28), "2", font=small, fill=FAINT, anchor="rm")
    draw.text((x - raised - 1, y), text, font=face, fill=FAINT, anchor="rm")
    return raised + 1 + length


def draw_scale_bar(image: Image.Image, um_per_px: float) -> None:
    """Draw a bar of a round length into the lower left corner, up to a third of the image long."""
    draw = ImageDraw.Draw(image, "RGBA")
    um = round_length_um(min(max(image.width * 0.3, 40), 420) * um_per_px)
    length, text, face = um / um_per_px, length_text(um), font(24)
    wide = max(length, draw.textlength(text, font=face))
    left, bottom = 18, image.height - 18
    draw.rounded_rectangle((left - 8, bottom - 54, left + wide + 24, bottom + 8), 8, fill=(255, 255, 255, 225))
    middle = left + 8 + wide / 2
    draw.rectangle((middle - length / 2, bottom - 12, middle + length / 2, bottom - 5), fill=INK)
    draw.text((middle, bottom - 18), text, font=face, fill=INK, anchor="ms")
