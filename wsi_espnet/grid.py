"""Windows: how an image is cut into pieces that a network can be given. Pure, no pixels are touched here.

One axis, two neighbouring windows of core `c` and halo `h`:

    |hhhh|cccccccccc|hhhh|
                |hhhh|cccccccccc|hhhh|

A window reads its core and the halo around it, and owns its core in the output. Windows sit on a fixed grid; those
without tissue are not computed, and of the others only the box that holds tissue is (`Grid.window`). Beyond the
image the halo is mirrored, so the network never sees the zero padding of its own convolutions near a core.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from wsi_espnet.errors import GeometryError
from wsi_espnet.geometry import Region

MULTIPLE = 8
"""Sides of a window are multiples of 8 px: ESPNet halves its input three times (paper, section 3.2)."""

ALIGNED = 64
"""Windows that follow the tissue start at multiples of 64 px.

A multiple of 8, so that all windows have the network's strides in one phase (windows that start anywhere changed 1.1 %
of the tissue px with the grid, these 0.49 %; two states of one training), and of the 64 px in which slides are
resampled.
"""


@dataclass(frozen=True, slots=True)
class Span:
    """A half-open interval start..stop of whole px."""

    start: int
    stop: int

    @property
    def length(self) -> int:
        """Px inside."""
        return self.stop - self.start


@dataclass(frozen=True, slots=True)
class Axis:
    """Cores along one axis.

    Parameters
    ----------
    extent
        Length of the image in px, > 0.
    core
        Px that a window owns, > 0, a multiple of 8.
    halo
        Px read on each side of the core, >= 0.
    blend
        Px beyond the core, 0 to `halo`, in which the window is averaged with its neighbour.

    Examples
    --------
    >>> axis = Axis(extent=100, core=48, halo=8, blend=8)
    >>> [axis.owned(i) for i in range(len(axis))]
    [Span(start=0, stop=48), Span(start=48, stop=96), Span(start=96, stop=100)]
    """

    extent: int
    core: int
    halo: int
    blend: int

    def __len__(self) -> int:
        return -(-self.extent // self.core)

    def owned(self, index: int) -> Span:
        """Px of the image that window `index` owns; the last core ends at the extent."""
        return Span(index * self.core, min((index + 1) * self.core, self.extent))

    def widened(self, index: int, used: Span) -> Span:
        """`used` (inside the core of `index`) on multiples of 64, and to each core side that is within a halo.

        So a window either ends at its core's side, where its neighbour goes on, or does not reach the neighbour;
        and every window meets the px with the same phase of the network's strides.
        """
        owned = self.owned(index)
        start = used.start // ALIGNED * ALIGNED
        stop = -(-used.stop // ALIGNED) * ALIGNED
        return Span(
            owned.start if start - owned.start < self.halo else start,
            owned.stop if owned.stop - stop < self.halo else stop,
        )

    def read(self, box: Span) -> Span:
        """What is read for a box: the halo around it, lengthened at its end to a multiple of 8; may leave the image."""
        start, stop = box.start - self.halo, box.stop + self.halo
        return Span(start, stop + -(stop - start) % MULTIPLE)

    def reach(self, box: Span) -> Span:
        """Px of the image that a window on `box` has something to say about: the box and `blend` px around it."""
        return Span(max(0, box.start - self.blend), min(self.extent, box.stop + self.blend))


@dataclass(frozen=True, slots=True)
class Window:
    """One piece of work for the network; all regions are in px of the image.

    Parameters
    ----------
    index
        (row, column) on the grid.
    core
        What the window owns in the output.
    box
        The part of the core that is computed; everything else in the core is glass.
    reach
        The box and the blended px around it, inside the image: where the window's probabilities count.
    read
        What the network is given; sides are multiples of 8, may leave the image (there it is mirrored).
    """

    index: tuple[int, int]
    core: Region
    box: Region
    reach: Region
    read: tuple[Span, Span]

    @property
    def work_px(self) -> int:
        """Px that the network computes."""
        return self.read[0].length * self.read[1].length


@dataclass(frozen=True, slots=True)
class Grid:
    """The windows over an image of `shape` (height, width) px.

    Parameters
    ----------
    shape
        Of the image, in px.
    core_px
        Side of a core, a multiple of 8.
    halo_px
        Px read around the core, per side, a multiple of 8; at most half a core, so that only direct neighbours meet.
    blend_px
        Px on each side of a core's border in which neighbours are averaged; 0 takes each core as it is.

    Raises
    ------
    GeometryError
        Core or halo cannot work.
    """

    shape: tuple[int, int]
    core_px: int
    halo_px: int
    blend_px: int

    def __post_init__(self) -> None:
        if self.halo_px < 0 or self.halo_px % MULTIPLE:
            raise GeometryError(f"the halo must be a multiple of {MULTIPLE} px and not negative, got {self.halo_px}")
        if not 0 <= self.blend_px <= self.halo_px:
            raise GeometryError(f"windows can be averaged over 0 to {self.halo_px} px, their halo, got {self.blend_px}")
        if self.core_px <= 0 or self.core_px % MULTIPLE:
            raise GeometryError(f"the core must be a positive multiple of {MULTIPLE} px, got {self.core_px}")
        if 2 * self.halo_px > self.core_px:
            raise GeometryError(
                f"a halo of {self.halo_px} px is too wide for a core of {self.core_px} px (window minus two halos): "
                f"it may be half the core at most; use a larger --window or "
                f"--halo {self.core_px // 2 // MULTIPLE * MULTIPLE}"
            )

    @property
    def axes(self) -> tuple[Axis, Axis]:
        """(rows, columns)."""
        return (
            Axis(self.shape[0], self.core_px, self.halo_px, self.blend_px),
            Axis(self.shape[1], self.core_px, self.halo_px, self.blend_px),
        )

    @property
    def counts(self) -> tuple[int, int]:
        """(rows, columns) of cores."""
        rows, columns = self.axes
        return len(rows), len(columns)

    def core(self, index: tuple[int, int]) -> Region:
        """Region that the window at `index` owns."""
        return _region(self.axes[0].owned(index[0]), self.axes[1].owned(index[1]))

    def window(self, index: tuple[int, int], used: Region) -> Window:
        """The window at `index` for the tissue box `used`, which lies inside its core."""
        rows, columns = self.axes
        y = rows.widened(index[0], Span(used.y, used.y + used.h))
        x = columns.widened(index[1], Span(used.x, used.x + used.w))
        return Window(
            index=index,
            core=self.core(index),
            box=_region(y, x),
            reach=_region(rows.reach(y), columns.reach(x)),
            read=(rows.read(y), columns.read(x)),
        )

    def windows(self, used: Callable[[Region], Region | None]) -> Iterator[Window]:
        """Windows that have work, row by row; `used(core)` gives the tissue box inside a core, or None for glass."""
        rows, columns = self.counts
        for row in range(rows):
            for column in range(columns):
                box = used(self.core((row, column)))
                if box is not None:
                    yield self.window((row, column), box)


def core_of_window(window_px: int, halo_px: int) -> int:
    """Side of the core of a window of `window_px` with `halo_px` on each side.

    Raises
    ------
    GeometryError
        The window is not a positive multiple of 8, or the halos leave no core.

    Examples
    --------
    >>> core_of_window(2432, 192)
    2048
    """
    if window_px <= 0 or window_px % MULTIPLE:
        below = max(MULTIPLE, window_px // MULTIPLE * MULTIPLE)
        raise GeometryError(
            f"--window must be a positive multiple of {MULTIPLE} px, got {window_px}; use {below} or {below + MULTIPLE}"
        )
    if halo_px < 0 or halo_px % MULTIPLE:
        raise GeometryError(f"--halo must be a multiple of {MULTIPLE} px and not negative, got {halo_px}")
    core = window_px - 2 * halo_px
    if core <= 0:
        raise GeometryError(
            f"a halo of {halo_px} px on both sides leaves nothing of a window of {window_px} px; "
            f"use a halo of at most {window_px // 4 // MULTIPLE * MULTIPLE} px"
        )
    return core


def within(read: tuple[Span, Span], shape: tuple[int, int]) -> tuple[Region, tuple[tuple[int, int], tuple[int, int]]]:
    """The part of what a window reads that an image of `shape` has, and px before and behind it on both axes.

    Examples
    --------
    >>> within((Span(-8, 40), Span(0, 48)), (100, 44))
    (Region(y=0, x=0, h=40, w=44), ((8, 0), (0, 4)))
    """
    y, x = (Span(max(0, span.start), min(px, span.stop)) for span, px in zip(read, shape, strict=True))
    rows, columns = read
    beyond = (y.start - rows.start, rows.stop - y.stop), (x.start - columns.start, columns.stop - x.stop)
    return _region(y, x), beyond


def intersect(a: Region, b: Region) -> Region | None:
    """Px common to both, None where there are none."""
    y0, y1 = max(a.y, b.y), min(a.y + a.h, b.y + b.h)
    x0, x1 = max(a.x, b.x), min(a.x + a.w, b.x + b.w)
    return Region(y0, x0, y1 - y0, x1 - x0) if y0 < y1 and x0 < x1 else None


def _region(y: Span, x: Span) -> Region:
    return Region(y.start, x.start, y.length, x.length)
