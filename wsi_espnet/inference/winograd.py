"""Dilated convolutions of 3 x 3 in half the products, by Winograd's minimal filtering along rows.

Four neighbours in a row of a convolution with three weights need 6 products instead of 12: F(4, 3) of Lavin & Gray,
"Fast Algorithms for Convolutional Neural Networks" (CVPR 2016), section 4. Along columns the three weights stay as they
are. At a dilation of d neighbours are d px apart, so 4 * d px in a row make d such fours, one beside the other: what is
done to them before and after the products is done to runs of d * channels values.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba.extending import overload

from wsi_espnet.inference.kernels import Vector
from wsi_espnet.inference.vectors import SHORT, Pair, Weights, lanes, mapping, multiply

FEWEST = SHORT
"""Channels that a map must have."""

POINTS = 6
"""Products that give four values of a row."""

_FILTER = np.array(
    [
        [1 / 4, 0, 0],
        [-1 / 6, -1 / 6, -1 / 6],
        [-1 / 6, 1 / 6, -1 / 6],
        [1 / 24, 1 / 12, 1 / 6],
        [1 / 24, -1 / 12, 1 / 6],
        [0, 0, 1],
    ]
)
"""Lavin & Gray's G for F(4, 3): three weights of a row to six points."""


def filters(weight: Vector) -> Weights:
    """A convolution's weight (outputs, inputs, 3, 3), as `convolve` wants it: (6, 3, ...), ordered (point, row)."""
    return Weights.of(np.einsum("pc,oirc->prio", _FILTER, weight.astype(np.float64)).astype(np.float32))


def to_points(a: Any, b: Any, c: Any, d: Any, e: Any, f: Any) -> tuple[Any, ...]:
    """Six neighbours to six points: Lavin & Gray's B transposed."""
    return (
        4.0 * a - 5.0 * c + e,
        (e - 4.0 * c) + (d - 4.0 * b),
        (e - 4.0 * c) - (d - 4.0 * b),
        (e - c) + 2.0 * (d - b),
        (e - c) - 2.0 * (d - b),
        4.0 * b - 5.0 * d + f,
    )


def to_values(a: Any, b: Any, c: Any, d: Any, e: Any, f: Any) -> tuple[Any, ...]:
    """Products at six points to four neighbours: Lavin & Gray's A transposed."""
    return (
        a + (b + c) + (d + e),
        (b - c) + 2.0 * (d - e),
        (b + c) + 4.0 * (d + e),
        (b - c) + 8.0 * (d - e) + f,
    )


def room(width: int, dilation: int) -> int:
    """Columns that `convolve` reads from a map's first px on."""
    return -(-width // (4 * dilation)) * 4 * dilation + dilation


_spread, _collect = mapping(to_points), mapping(to_values)


def convolve(
    source: Vector,
    column: int,
    width: int,
    dilation: int,
    weights: Pair,
    inputs: int,
    wide: int,
    rest: int,
) -> Vector:
    """For kernels: a dilated convolution of a map with zeros around it.

    Source (rows + 2 * dilation, W, inputs) float32 holds the first px in `column`, and what lies around: `dilation`
    columns before, and `room(width, dilation)` from that one on. Weights are the values of `filters`, whose sizes are
    constants. Returns (rows, at least `width`, wide + rest) float32; what lies behind `width` is of no use.

    Raises
    ------
    ValueError
        Other sizes than these.
    """
    raise TypeError("this is for kernels alone")


@overload(convolve, prefer_literal=True)
def _of_convolve(source, column, width, dilation, weights, inputs, wide, rest):  # type: ignore[no-untyped-def]
    outputs = wide.literal_value + rest.literal_value
    in_run, out_run = SHORT, min(lanes(), outputs)

    def convolved(source, column, width, dilation, weights, inputs, wide, rest):  # type: ignore[no-untyped-def]
        wides, rests = weights
        rows = source.shape[0] - 2 * dilation
        blocks = (width + 4 * dilation - 1) // (4 * dilation)
        tiles = blocks * dilation
        if (
            source.shape[2] != inputs
            or wides.shape != (POINTS, 3, inputs, wide)
            or rests.shape != (POINTS, 3, rest, inputs)
            or column < dilation
            or column + 4 * tiles + dilation > source.shape[1]
        ):
            raise ValueError("a map or a filter of another size")
        points = np.empty((3, POINTS, tiles, inputs), np.float32)  # of the last three rows, `dilation` apart
        products = np.empty((POINTS, tiles, outputs), np.float32)
        out = np.empty((rows, 4 * tiles, outputs), np.float32)
        length, line = tiles * inputs, source.shape[1] * inputs
        for phase in range(min(dilation, rows)):
            for y in range(phase, rows + 2 * dilation, dilation):
                newest = y // dilation % 3
                run = dilation * inputs
                for block in range(blocks):
                    at = y * line + column * inputs + (4 * block - 1) * run
                    _spread(source, at, run, points, newest * POINTS * length + block * run, length, run, in_run)
                if y < 2 * dilation:
                    continue
                for point in range(POINTS):
                    above = ((newest + 1) % 3 * POINTS + point) * length
                    here = ((newest + 2) % 3 * POINTS + point) * length
                    below = (newest * POINTS + point) * length
                    starts, weights_here = (above, here, below), (wides[point], rests[point])
                    multiply(points, starts, inputs, weights_here, products[point], inputs, wide, rest)
                run = dilation * outputs
                for block in range(blocks):
                    to = (y - 2 * dilation) * 4 * tiles * outputs + 4 * block * run
                    _collect(products, block * run, tiles * outputs, out, to, run, run, out_run)
        return out

    return convolved
