"""Which cells of a coarse picture of a slide show tissue, by colour: not glass, not pen, not a black frame.

Bright field. Optical density ``od = log10(glass / colour)`` per channel, against the slide's own glass. A
cell is tissue by its colourfulness, the largest difference between the densities of two channels, because
dust, shadows and uneven light are grey while stains are not; by plain density only where it is high. The
threshold lies just above the scatter of the glass, not halfway between glass and tissue: Otsu's threshold
loses fat beside dark tissue, and splits the tissue of a slide that shows nearly no glass.

Dark field (fluorescence), known by a background that is black and by the absence of glass: tissue is what is
brighter than that background.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage as ndi

from wsi_espnet.threads import on_threads

Bools = NDArray[np.bool_]
Cell = TypeVar("Cell", bound=np.generic)
Um = tuple[float, float]

MARGIN_UM = 100.0
"""Rim around what was found that is segmented too: pale edges are missed by less than that."""
LINK_UM = 50.0
"""Cells nearer than twice this are one piece, so that strands of fat are not dropped as specks."""
SPECK_UM2 = 2_000.0
"""A piece with less stained area than this, 50 um in diameter, is dropped."""
HOLE_UM2 = 250_000.0
"""A hole smaller than this, 560 um in diameter, is filled: lumens of glands belong to the tissue."""

GLASS_LEAST = 170
GLASS_TINT = 24
"""Glass is at least so bright in each channel (0..255), and its channels differ by no more than the tint."""
GLASS_SHARE = 0.005
"""Share of cells near one brightness that it takes to believe that this is the glass."""
SCATTER = 6.0
"""The threshold is so many times the scatter of the glass, its 68th percentile, within `OD_RANGE`."""
OD_RANGE = (0.015, 0.05)
"""Limits of the threshold, in od: JPEG leaves 0.005 on bare glass, fat has 0.02 even at 30 um per cell."""
GREY_WEIGHT = 0.4
"""How much a density without colour counts: a grey cell must be 1 / 0.4 times as dense as a coloured one."""

BLACK = 64
"""A cell whose brightest channel is below this is black: pen, border, or the background of dark field."""
INK_UM2 = 20_000.0
"""Ink-coloured pieces smaller than this are left alone: pigment, crystals, dyed margins."""
INK_FRINGE_UM = 24.0
"""Around ink its soft edge is not trusted."""
INK_REACH_UM = 500.0
"""Ink between tissue on both sides no farther than this lies on the tissue, and stays."""
INK_BESIDE_UM = 200.0
"""Coloured ink no farther than this from tissue on one side stays too: a stroke along an edge hides some."""

STRIP = 512
"""Rows of cells that one thread looks at together."""

_SCALE = 1000.0  # density 0..0.255 in uint8 steps of 0.001, so that the largest map takes 64 MB


def find_tissue_cells(rgb: NDArray[np.uint8], um: Um, unread: Bools) -> tuple[Bools, Bools]:
    """Cells of a coarse picture that are tissue, holes filled and specks dropped; and these with a margin around them.

    Parameters
    ----------
    rgb
        uint8 (h, w, 3), glass or black around the tissue, transparent parts white.
    um
        (y, x) um per cell.
    unread
        bool (h, w), cells that could not be read; they count as tissue, because what they hold is unknown
        and must not be skipped in silence.

    Returns
    -------
    tuple
        Both bool (h, w).
    """
    found = _in_dark_field(rgb, unread) if is_dark_field(rgb, unread) else _in_bright_field(rgb, um, unread)
    found = _fill_holes(_drop_specks(found, um) | unread, um)
    return found, within(found, MARGIN_UM, um)


def is_dark_field(rgb: NDArray[np.uint8], unread: Bools) -> bool:
    """Whether the background is black: as a third of the picture and most of its rim are, and none is glass.

    A bright-field slide in a black frame has glass, or tissue that covers most of it, inside the frame.
    """
    black = _by_strips(rgb, lambda part: _most(part) < BLACK) & ~unread
    glass = _by_strips(rgb, _looks_like_glass) & ~unread
    read = max(1, int((~unread).sum()))
    rim = np.ones_like(black)
    depth = max(1, min(black.shape) // 20)
    rim[depth:-depth, depth:-depth] = False
    return bool(
        black.sum() > 0.3 * read
        and glass.sum() < 0.02 * read
        and black[rim & ~unread].sum() * 2 > (rim & ~unread).sum()
    )


def within(cells: Bools, reach_um: float, um: Um) -> Bools:
    """Cells whose centre is no farther than `reach_um` from the centre of a True one."""
    reach = int(reach_um / um[0])

    def near(top: int) -> Bools:
        first = max(0, top - reach)
        part = cells[first : top + STRIP + reach]
        if part.any():  # distances take 24 bytes per cell
            part = ndi.distance_transform_edt(~part, sampling=um) <= reach_um
        return part[top - first :][:STRIP]

    return np.concatenate(on_threads(near, range(0, len(cells), STRIP)))


def _in_bright_field(rgb: NDArray[np.uint8], um: Um, unread: Bools) -> Bools:
    glass = _glass_colour(rgb, unread)
    strength = _by_strips(rgb, lambda part: _strength(_density(part, glass)))
    sure = _threshold(rgb, glass, strength)
    found = _grow(strength > sure, strength > sure / 2) & ~unread
    black, *colours = [_ink(rgb, glass, kind, um) & found for kind in (_is_black, _is_cold, _is_red)]
    return _without_ink(found, black, colours, um)


def _in_dark_field(rgb: NDArray[np.uint8], unread: Bools) -> Bools:
    level = _most(rgb)
    dark = level[~unread & (level < BLACK)]
    background = int(np.bincount(dark, minlength=BLACK).argmax())
    below = dark[dark <= background].astype(np.int64)
    scatter = float(np.sqrt(np.mean((below - background) ** 2)))  # the half that holds no tissue
    bright = level > background + min(max(6 * scatter, 8.0), 32.0)
    cells: Bools = bright & ~unread
    return cells


def _looks_like_glass(part: NDArray[np.uint8]) -> Bools:
    least, most = _least(part), _most(part)
    cells: Bools = (least >= GLASS_LEAST) & (most - least <= GLASS_TINT)
    return cells


def _glass_colour(rgb: NDArray[np.uint8], unread: Bools) -> NDArray[np.float64]:
    """(3,) colour of the glass: the brightest frequent one; white where there is none.

    Pure white is left out: it is what fills parts of a slide that were not scanned.
    """
    candidates = rgb[_by_strips(rgb, lambda part: _looks_like_glass(part) & (_least(part) < 254)) & ~unread]
    brightness = candidates.mean(axis=1).round().astype(np.int64)
    smooth = np.convolve(np.bincount(brightness, minlength=256), np.ones(7), mode="same")
    frequent = np.flatnonzero(smooth >= GLASS_SHARE * unread.size)
    if frequent.size == 0:
        return np.full(3, 255.0)
    peak = int(frequent[-1])
    while peak > GLASS_LEAST and smooth[peak - 1] >= smooth[peak]:
        peak -= 1
    colour: NDArray[np.float64] = np.median(candidates[np.abs(brightness - peak) <= 3], axis=0)
    return colour


def _density(part: NDArray[np.uint8], glass: NDArray[np.float64]) -> NDArray[np.float32]:
    """Optical density (h, w, 3) >= 0; brighter than glass is 0."""
    values = np.arange(256, dtype=np.float32)[:, None]
    of_value = np.maximum(np.log10((glass.astype(np.float32) + 1) / (values + 1)), 0)  # (256, 3)
    density = np.empty(part.shape, np.float32)
    for channel in range(3):
        density[..., channel] = of_value[:, channel][part[..., channel]]
    return density


def _strength(od: NDArray[np.float32]) -> NDArray[np.uint8]:
    colour = _most(od) - _least(od)
    strength = np.maximum(colour, GREY_WEIGHT * _mean(od))
    scaled: NDArray[np.uint8] = np.clip(strength * _SCALE, 0, 255).astype(np.uint8)
    return scaled


def _threshold(rgb: NDArray[np.uint8], glass: NDArray[np.float64], strength: NDArray[np.uint8]) -> float:
    near = _by_strips(rgb, lambda part: np.abs(_mean(part) - glass.mean()) <= 4)
    scatter = float(np.quantile(strength[near], 0.68)) if near.any() else 0.0
    low, high = OD_RANGE
    return _SCALE * min(max(SCATTER * scatter / _SCALE, low), high)


def _grow(sure: Bools, maybe: Bools) -> Bools:
    """Pieces of `maybe` that hold a cell of `sure`."""
    pieces, n = ndi.label(maybe, structure=np.ones((3, 3)))
    keep = np.zeros(n + 1, dtype=np.bool_)
    keep[pieces[sure]] = True
    keep[0] = False
    cells: Bools = keep[pieces]
    return cells


def _drop_specks(found: Bools, um: Um) -> Bools:
    return found & _large(within(found, LINK_UM, um), found, SPECK_UM2, um)


def _large(pieces_of: Bools, counted: Bools, least_um2: float, um: Um) -> Bools:
    """Pieces of a mask that hold at least so much of `counted`."""
    pieces, n = ndi.label(pieces_of, structure=np.ones((3, 3)))
    area = np.bincount(pieces[counted], minlength=n + 1) * (um[0] * um[1])
    keep = area >= least_um2
    keep[0] = False
    cells: Bools = keep[pieces]
    return cells


def _fill_holes(found: Bools, um: Um) -> Bools:
    holes = ndi.binary_fill_holes(found) & ~found
    pieces, n = ndi.label(holes)
    small = np.bincount(pieces.ravel(), minlength=n + 1) * (um[0] * um[1]) < HOLE_UM2
    small[0] = False
    cells: Bools = found | small[pieces]
    return cells


def _is_black(part: NDArray[np.uint8], od: NDArray[np.float32]) -> tuple[Bools, Bools]:
    """Black pen and the scanner's border; thin ink and soft edges are grey, without any tint."""
    most, least = _most(part), _least(part)
    return (most < BLACK) | (most < 150) & (most - least <= 12), (most < 150) & (most - least < 30)


def _is_cold(part: NDArray[np.uint8], od: NDArray[np.float32]) -> tuple[Bools, Bools]:
    """Blue, cyan and green pen take away red most; eosin takes away green most, DAB blue.

    The purest haematoxylin has a red density of 0.65 / 0.70 = 0.93 times its green one (Ruifrok and Johnston,
    Anal Quant Cytol Histol 2001). Bluer ones reach 1.25, but not where a whole cell is as dense as ink.
    """
    red, green = od[..., 0], od[..., 1]
    sure = (red > 0.3) & (red > 1.35 * green) | (red > 0.4) & (red > 1.12 * green)
    return sure, (red > 0.08) & (red > 1.1 * green)


def _is_red(part: NDArray[np.uint8], od: NDArray[np.float32]) -> tuple[Bools, Bools]:
    """Red pen takes away green and blue alike, and no red; eosin leaves more blue, blood and DAB less red."""
    red, green, blue = od[..., 0], od[..., 1], od[..., 2]
    sure = (green > 0.4) & (blue > 0.78 * green) & (red < 0.12 * green)
    return sure, (green > 0.1) & (blue > 0.7 * green) & (red < 0.25 * green)


Kind = Callable[[NDArray[np.uint8], NDArray[np.float32]], tuple[Bools, Bools]]


def _ink(rgb: NDArray[np.uint8], glass: NDArray[np.float64], kind: Kind, um: Um) -> Bools:
    """Large pieces in the colour of one kind of ink, from its full colour out to its fading edge."""
    sure = _by_strips(rgb, lambda part: kind(part, _density(part, glass))[0])
    if not sure.any():
        return sure
    maybe = _by_strips(rgb, lambda part: kind(part, _density(part, glass))[1])
    return _large(_grow(sure, maybe & within(sure, MARGIN_UM, um) | sure), sure, INK_UM2, um)


def _without_ink(found: Bools, black: Bools, colours: list[Bools], um: Um) -> Bools:
    """Take away ink on glass. What lies between tissue or inside it stays, and colour that lies beside it.

    A colour that has more tissue than glass around it is a stain, and stays altogether. Black has no such
    excuses, because the frame of a slide that is full of tissue has only tissue around it.
    """
    if not any(ink.any() for ink in [black, *colours]):
        return found
    black, *colours = [within(ink, INK_FRINGE_UM, um) for ink in [black, *colours]]
    core = _drop_specks(found & ~np.logical_or.reduce([black, *colours]), um)
    on_tissue = ndi.binary_fill_holes(_close(core, INK_REACH_UM, um))
    beside = on_tissue | within(core, INK_BESIDE_UM, um)
    out: Bools = core | (black & found & on_tissue)
    for area in colours:
        around = within(area, MARGIN_UM, um) & ~area
        is_stain = 2 * (core & around).sum() > around.sum()
        out |= area & found & (is_stain | beside)
    return out


def _close(cells: Bools, reach_um: float, um: Um) -> Bools:
    """Fill what lies between cells within twice the reach of each other, and nothing towards the border."""
    pad = [(int(reach_um / side) + 1,) * 2 for side in um]
    grown = np.pad(within(cells, reach_um, um), pad)
    shrunk = ~within(~grown, reach_um, um)
    return cells | shrunk[pad[0][0] : -pad[0][0], pad[1][0] : -pad[1][0]]


def _least(part: NDArray[Cell]) -> NDArray[Cell]:
    # NumPy's own reductions of so short an axis take five times as long, here and below.
    least: NDArray[Cell] = np.minimum(np.minimum(part[..., 0], part[..., 1]), part[..., 2])
    return least


def _most(part: NDArray[Cell]) -> NDArray[Cell]:
    most: NDArray[Cell] = np.maximum(np.maximum(part[..., 0], part[..., 1]), part[..., 2])
    return most


def _mean(part: NDArray[Any]) -> NDArray[Any]:
    wide = part.astype(np.promote_types(part.dtype, np.uint16), copy=False)
    mean: NDArray[Any] = (wide[..., 0] + wide[..., 1] + wide[..., 2]) / 3
    return mean


def _by_strips(rgb: NDArray[np.uint8], function: Callable[[NDArray[np.uint8]], NDArray[Cell]]) -> NDArray[Cell]:
    """Apply a function of single cells in strips, so that its floats never exist for the whole picture."""
    return np.concatenate(on_threads(lambda top: function(rgb[top : top + STRIP]), range(0, len(rgb), STRIP)))
