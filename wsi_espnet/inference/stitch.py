"""How windows become one image: who contributes where, with which weight. Pure, no task or file is known here.

Two neighbours, side by side; `r` are the px where both have something to say, `blend_px` on each side of the border:

    window a   |hhhh|ccccccccccrr|rrhh|
    window b             |hhrr|rrcccccccccc|hhhh|

In `r` their probabilities are averaged with weights that go from 1 to 0 as a squared cosine across the strip, so
that the weights of both add up to 1. Everywhere else a window stands alone and its labels are final at once. Only
the strips travel between windows, as compressed uint8 probabilities.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numcodecs import Zstd
from numpy.typing import NDArray

from wsi_espnet.geometry import Region
from wsi_espnet.grid import Span, Window, intersect

Bytes = NDArray[np.uint8]

_CODEC = Zstd(level=1)


@dataclass(frozen=True, slots=True)
class Packed:
    """A uint8 array, compressed without loss: probabilities of tissue shrink to a tenth or less."""

    shape: tuple[int, ...]
    data: bytes

    @classmethod
    def of(cls, array: Bytes) -> Packed:
        """Compress an array of any shape."""
        return cls(array.shape, bytes(_CODEC.encode(np.ascontiguousarray(array))))

    def array(self) -> Bytes:
        """The array as it was."""
        return np.frombuffer(_CODEC.decode(self.data), np.uint8).reshape(self.shape)


@dataclass(frozen=True, slots=True)
class Piece:
    """Probabilities of one window over `region` (px of the image): (C, h, w), 0..255 for 0..1."""

    region: Region
    probabilities: Packed


@dataclass(frozen=True, slots=True)
class Strip:
    """What a neighbour says about px that another window owns."""

    window: Window
    piece: Piece


@dataclass(frozen=True, slots=True)
class Own:
    """What a window says about its own box.

    Parameters
    ----------
    labels
        (h, w) of the box: the class with the highest logit.
    shared
        Probabilities where a neighbour has something to say too.
    alone
        Probabilities of the rest of the box; empty unless they are wanted as a result.
    """

    labels: Packed
    shared: tuple[Piece, ...]
    alone: tuple[Piece, ...]


def split(
    window: Window,
    neighbours: Mapping[tuple[int, int], Window],
    labels: Bytes,
    probabilities: Bytes,
    *,
    blend_px: int,
    keep_all: bool,
) -> tuple[Own, dict[tuple[int, int], Piece]]:
    """Cut what the network said into what the window keeps and a strip for each neighbour.

    Parameters
    ----------
    window
        The window that was computed.
    neighbours
        Other computed windows, by their index.
    labels
        (h, w) over `window.read`.
    probabilities
        (C, h, w) over `window.read`, 0..255.
    blend_px
        Half the width of the strip in which neighbours are averaged.
    keep_all
        Whether probabilities are wanted for px that no neighbour reaches, too.

    Returns
    -------
    tuple
        What the window keeps; strips by the neighbour's index.
    """

    def piece(region: Region) -> Piece:
        rows, columns = _inside(window, region)
        return Piece(region, Packed.of(probabilities[:, rows, columns]))

    shared, alone = [], []
    for zone in zones(window.box, blend_px):
        if any(intersect(zone, n.reach) for n in neighbours.values()):
            shared.append(piece(zone))
        elif keep_all:
            alone.append(piece(zone))
    rows, columns = _inside(window, window.box)
    own = Own(Packed.of(labels[rows, columns]), tuple(shared), tuple(alone))
    common = {index: intersect(window.reach, n.box) for index, n in neighbours.items()}
    return own, {index: piece(region) for index, region in common.items() if region is not None}


def blend(
    window: Window, own: Own, strips: Sequence[Strip], *, blend_px: int, classes: int, keep_all: bool
) -> tuple[Bytes, Bytes | None]:
    """Average a window with its neighbours where they meet.

    Parameters
    ----------
    window
        The window whose box is finished here.
    own
        What it says itself.
    strips
        What its neighbours say, in the order of the grid (the sum depends on it in its last bit).
    blend_px
        Half the width of the strip in which neighbours are averaged.
    classes
        Number of classes C.
    keep_all
        Whether the probabilities are wanted as well; then `own.alone` must be there.

    Returns
    -------
    tuple
        Labels (h, w) of the box; probabilities (C, h, w), 0..255, or None.
    """
    labels = own.labels.array().copy()
    kept = np.zeros((classes, *window.box.shape), np.uint8) if keep_all else None
    for piece in own.shared:
        mean = _average(window, piece, strips, blend_px)
        rows, columns = _relative(piece.region, window.box)
        if any(intersect(piece.region, strip.piece.region) for strip in strips):
            labels[rows, columns] = mean.argmax(axis=0)
        if kept is not None:
            kept[:, rows, columns] = np.rint(mean)
    for piece in own.alone if kept is not None else ():
        rows, columns = _relative(piece.region, window.box)
        assert kept is not None
        kept[:, rows, columns] = piece.probabilities.array()
    return labels, kept


def zones(box: Region, blend_px: int) -> list[Region]:
    """The box in up to nine parts: corners and sides where neighbours may reach, and the rest.

    Examples
    --------
    >>> [zone.shape for zone in zones(Region(0, 0, 100, 8), 8)]
    [(8, 8), (84, 8), (8, 8)]
    """
    return [
        Region(y.start, x.start, y.length, x.length)
        for y in _thirds(Span(box.y, box.y + box.h), blend_px)
        for x in _thirds(Span(box.x, box.x + box.w), blend_px)
    ]


def weight(box: Region, region: Region, blend_px: int) -> NDArray[np.float32]:
    """Weight of a window on `box` at the px of `region`: 1 inside, a squared cosine over twice `blend_px` at each side.

    Returns
    -------
    numpy.ndarray
        (h, w) float32, in (0, 1] within the box and `blend_px` around it.
    """
    y = _ramp(Span(box.y, box.y + box.h), Span(region.y, region.y + region.h), blend_px)
    x = _ramp(Span(box.x, box.x + box.w), Span(region.x, region.x + region.w), blend_px)
    return y[:, None] * x[None, :]


def _average(window: Window, piece: Piece, strips: Sequence[Strip], blend_px: int) -> NDArray[np.float32]:
    """(C, h, w) float32 over the piece's region, 0..255."""
    mine = weight(window.box, piece.region, blend_px)
    total = piece.probabilities.array() * mine
    weights = mine.copy()
    for strip in strips:
        common = intersect(piece.region, strip.piece.region)
        if common is None:
            continue
        theirs = weight(strip.window.box, common, blend_px)
        rows, columns = _relative(common, piece.region)
        from_rows, from_columns = _relative(common, strip.piece.region)
        total[:, rows, columns] += strip.piece.probabilities.array()[:, from_rows, from_columns] * theirs
        weights[rows, columns] += theirs
    return total / weights


def _ramp(box: Span, at: Span, blend_px: int) -> NDArray[np.float32]:
    centres = np.arange(at.start, at.stop, dtype=np.float64) + 0.5
    if blend_px == 0:
        return ((centres > box.start) & (centres < box.stop)).astype(np.float32)
    depth = np.minimum(centres - (box.start - blend_px), (box.stop + blend_px) - centres) / (2 * blend_px)
    return np.square(np.sin(np.clip(depth, 0, 1) * (np.pi / 2))).astype(np.float32)


def _thirds(span: Span, blend_px: int) -> list[Span]:
    cuts = sorted({span.start, min(span.start + blend_px, span.stop), max(span.stop - blend_px, span.start), span.stop})
    return [Span(a, b) for a, b in pairwise(cuts)]


def _inside(window: Window, region: Region) -> tuple[slice, slice]:
    y, x = region.y - window.read[0].start, region.x - window.read[1].start
    return slice(y, y + region.h), slice(x, x + region.w)


def _relative(region: Region, frame: Region) -> tuple[slice, slice]:
    y, x = region.y - frame.y, region.x - frame.x
    return slice(y, y + region.h), slice(x, x + region.w)
