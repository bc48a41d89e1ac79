"""Passes over maps that take one value at a time, compiled by numba: what lies between two convolutions is one of them.

Torch makes a pass of each operation, so joined, normalised and leaked maps went through the cache up to nine times.
In bf16 that took two thirds of a window's time.

A map is (rows, W, C) in this memory order: float32, or bfloat16 as the uint16 of its bits; all are computed in float32.
`out` is written to, and so is what is said to change. Kernels do not hold Python's lock.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, TypeVar

import numba
import numpy as np
from numba import types
from numba.extending import overload
from numpy.typing import NDArray

Array = NDArray[Any]
"""A map or rows of one: float32, or bfloat16 as uint16."""
Vector = NDArray[np.float32]
Pixels = NDArray[np.uint8]

_Function = TypeVar("_Function", bound=Callable[..., Any])

_NAN = 0x7FC0
"""Bits of a bfloat16 that is not a number."""

_LARGEST = np.finfo(np.float32).max


def kernel(function: _Function) -> _Function:
    """Compiled when first called, which takes half a second, and kept beside this file or in the user's cache."""
    compiled: _Function
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": {"contract"}}
    try:
        compiled = numba.njit(cache=True, **options)(function)
    except RuntimeError:  # there is nowhere to keep it: a file system that may only be read, and no home
        compiled = numba.njit(**options)(function)
    return compiled


@kernel
def _leak(value: np.float32, slope: np.float32) -> np.float32:
    """PReLU."""
    leaked = value * slope  # before it is known whether it is needed: a choice, and no jump
    return value if value > 0 else leaked


@kernel
def _exp(value: np.float32) -> np.float32:
    """Exponential of a number <= 0, to 3e-6 of it.

    The C library's takes one value at a time, ten times as long. e^x = 2^n e^r, where |r| <= ln 2 / 2 leaves Taylor's
    series after r^5 an error of r^6 / 720.
    """
    x = max(value, np.float32(-87))  # about 2^-126, the smallest normal number
    n = np.floor(x * np.float32(1 / math.log(2)) + np.float32(0.5))
    r = x - n * np.float32(math.log(2))
    series = np.float32(1 / 24) + r * np.float32(1 / 120)
    series = np.float32(1 / 6) + r * series
    series = np.float32(1 / 2) + r * series
    series = np.float32(1) + r * (np.float32(1) + r * series)
    power = np.int32((np.int32(n) + 127) << 23)
    return np.float32(series * power.view(np.float32))


@kernel
def normalise(px: Pixels | Vector, scale: Vector, shift: Vector, out: Array) -> None:
    """Out (rows, W * 3) = px * scale + shift, of px (rows, W * 3) uint8 or float32; scale and shift (W * 3,)."""
    for row in range(px.shape[0]):
        for place in range(px.shape[1]):
            out[row, place] = _narrow(np.float32(px[row, place]) * scale[place] + shift[place], out)


@kernel
def average(source: Array, first: int, out: Array) -> None:
    """Out (rows, W / 2, 3): means of 3 x 3 px at stride 2 of three channels of a source, from `first` on.

    The source (2 * rows + 1, W, C) brings the row above, and has zeros on its left.
    """
    for row in range(out.shape[0]):
        for column in range(out.shape[1]):
            for channel in range(3):
                total = np.float32(0)
                for y in range(2 * row, 2 * row + 3):
                    for x in range(max(0, 2 * column - 1), 2 * column + 2):
                        total += _wide(source[y, x, first + channel])
                out[row, column, channel] = _narrow(total / np.float32(9), out)


@kernel
def copy(source: Array, out: Array, margin: int, channels: int) -> None:
    """The first channels of a source, to `out` behind `margin` columns."""
    for row in range(source.shape[0]):
        for column in range(source.shape[1]):
            for channel in range(channels):
                out[row, margin + column, channel] = source[row, column, channel]


@kernel
def activate(source: Array, scale: Vector, shift: Vector, slope: Vector, out: Array, at: int) -> None:
    """Normalisation and PReLU of a source's first channels, as many as there are scales.

    They become those from `at` on of `out`, which may be the source. A slope of 1 is no PReLU.
    """
    for row in range(out.shape[0]):
        for column in range(out.shape[1]):
            for channel in range(scale.shape[0]):
                value = _wide(source[row, column, channel]) * scale[channel] + shift[channel]
                out[row, column, at + channel] = _narrow(_leak(value, slope[channel]), out)


@kernel
def activate_twice(
    source: Array,
    scale: Vector,
    shift: Vector,
    slope: Vector,
    next_scale: Vector,
    next_shift: Vector,
    next_slope: Vector,
    out: Array,
) -> None:
    """`activate`, and once more with what is next."""
    for row in range(out.shape[0]):
        for column in range(out.shape[1]):
            for channel in range(scale.shape[0]):
                value = _wide(source[row, column, channel]) * scale[channel] + shift[channel]
                value = _leak(value, slope[channel]) * next_scale[channel] + next_shift[channel]
                out[row, column, channel] = _narrow(_leak(value, next_slope[channel]), out)


@functools.cache
def fusing(first: int, other: int) -> Callable[..., None]:
    """`fuse(branches, columns, passed, scale, slope, next_scale, next_shift, out)`: the second half of a pyramid.

    `branches` are five maps, each from its own one of `columns` on; of the first the first `first` channels count, of
    the others the first `other`. They are joined as `models.espnet.Pyramid.fused` says, multiplied by scale, added to
    `passed`, and leaked: `out`. `passed` holds what this pyramid's normalisation makes of its input (without input: its
    shift), and becomes what the next one's makes of `out`.

    Both numbers are constants of the kernel: loops of 12 or 25 steps become vectors best so, in 0.6 to 0.8 of the time.
    """
    channels = first + 4 * other

    @kernel
    def fuse(
        branches: tuple[Array, ...],
        columns: tuple[int, ...],
        passed: Array,
        scale: Vector,
        slope: Vector,
        next_scale: Vector,
        next_shift: Vector,
        out: Array,
    ) -> None:
        one, two, four, eight, sixteen = branches
        fused = np.empty(channels, np.float32)
        for row in range(out.shape[0]):
            for column in range(out.shape[1]):
                for channel in range(first):
                    fused[channel] = _wide(one[row, columns[0] + column, channel])
                for channel in range(other):
                    total = _wide(two[row, columns[1] + column, channel])
                    fused[first + channel] = total
                    total += _wide(four[row, columns[2] + column, channel])
                    fused[first + other + channel] = total
                    total += _wide(eight[row, columns[3] + column, channel])
                    fused[first + 2 * other + channel] = total
                    total += _wide(sixteen[row, columns[4] + column, channel])
                    fused[first + 3 * other + channel] = total
                for channel in range(channels):
                    value = _leak(fused[channel] * scale[channel] + _wide(passed[row, column, channel]), slope[channel])
                    out[row, column, channel] = _narrow(value, out)
                    passed[row, column, channel] = _narrow(value * next_scale[channel] + next_shift[channel], out)

    return fuse


@kernel
def unfold(fours: Array, first: int, scale: Vector, shift: Vector, slope: Vector, out: Array, at: int) -> None:
    """A map of twice the sides, normalised and leaked, to the channels from `at` on of `out`, one for each scale.

    `fours` (rows, W, 4 * channels) holds 2 x 2 px of channels each. `out` begins with row `first` of the doubled map.
    """
    channels = scale.shape[0]
    for row in range(out.shape[0]):
        y = first + row
        for column in range(out.shape[1]):
            corner = (2 * (y % 2) + column % 2) * channels
            for channel in range(channels):
                value = _wide(fours[y // 2, column // 2, corner + channel]) * scale[channel] + shift[channel]
                out[row, column, at + channel] = _narrow(_leak(value, slope[channel]), out)


@kernel
def classify(source: Array, scale: Vector, shift: Vector, slope: Vector, weight: Vector, out: Vector) -> None:
    """The last layers, to planes of logits.

    Out (C, 2 * rows, 2 * W) float32 is the transposed convolution of 2 x 2 at stride 2 of a normalised and leaked
    source; weight (2, 2, C, C) float32 is ordered (y, x, to, from).
    """
    rows, columns = source.shape[:2]
    channels = scale.shape[0]
    line = np.empty((channels, columns), np.float32)
    for row in range(rows):
        for column in range(columns):
            for channel in range(channels):
                value = _wide(source[row, column, channel]) * scale[channel] + shift[channel]
                line[channel, column] = _leak(value, slope[channel])
        for channel in range(channels):
            for y in range(2):
                target = out[channel, 2 * row + y]
                target[:] = 0
                for origin in range(channels):
                    left, right = weight[y, 0, channel, origin], weight[y, 1, channel, origin]
                    for column in range(columns):
                        target[2 * column] += left * line[origin, column]
                        target[2 * column + 1] += right * line[origin, column]


@kernel
def choose(logits: Vector, row: int, best: Vector, winner: NDArray[np.int32]) -> None:
    """The largest logit (W,) of each px of a row, and its class; of equal ones the first."""
    best[:] = logits[0, row]
    winner[:] = 0  # as wide as what decides it: all of a loop is then done in vectors
    for number in range(1, logits.shape[0]):
        for column in range(logits.shape[2]):
            value, highest, first_one = logits[number, row, column], best[column], winner[column]
            winner[column] = np.int32(number) if value > highest else first_one
            best[column] = value if value > highest else highest


@kernel
def label(logits: Vector, labels: Pixels) -> None:
    """Labels (H, W) uint8 of logits (C, H, W) float32."""
    rows, columns = labels.shape
    best, winner = np.empty(columns, np.float32), np.empty(columns, np.int32)
    for row in range(rows):
        choose(logits, row, best, winner)
        for column in range(columns):
            labels[row, column] = winner[column]


@kernel
def read_out(logits: Vector, labels: Pixels, probabilities: Pixels, first: int) -> bool:
    """Rows of labels and of probabilities, 255 being 1, from `first` on; returns whether all logits are finite.

    Logits (C, rows, W) float32, labels (H, W) and probabilities (C, H, W) uint8.
    """
    classes, rows, columns = logits.shape
    best, winner = np.empty(columns, np.float32), np.empty(columns, np.int32)
    total, powers = np.empty(columns, np.float32), np.empty((classes, columns), np.float32)
    strange = 0
    for row in range(rows):
        choose(logits, row, best, winner)
        total[:] = 0
        for number in range(classes):
            for column in range(columns):
                value = logits[number, row, column]
                strange |= not abs(value) <= _LARGEST
                powers[number, column] = _exp(value - best[column])
                total[column] += powers[number, column]
        for column in range(columns):
            labels[first + row, column] = winner[column]
        for number in range(classes):
            for column in range(columns):
                share = np.float32(255) * powers[number, column] / total[column]
                probabilities[number, first + row, column] = np.uint8(share + np.float32(0.5))
    return strange == 0


def _wide(value: Any) -> Any:
    """A value of a map as float32."""
    raise TypeError("this is for kernels alone; `_of_wide` says what numba compiles")


def _narrow(value: Any, out: Any) -> Any:
    """A float32 as `out` holds it, rounded to the nearest."""
    raise TypeError("this is for kernels alone; `_of_narrow` says what numba compiles")


@overload(_wide)
def _of_wide(value: Any) -> Any:
    def same(value: Any) -> Any:
        return value

    def widened(value: Any) -> Any:
        return np.uint32(np.uint32(value) << 16).view(np.float32)

    return widened if value == types.uint16 else same


@overload(_narrow)
def _of_narrow(value: Any, out: Any) -> Any:
    def same(value: Any, out: Any) -> Any:
        return value

    def rounded(value: Any, out: Any) -> Any:
        number = np.float32(value)
        bits = number.view(np.uint32)
        even = np.uint32(np.uint32(bits >> 16) & 1)  # of two that are equally near the even one is taken
        high = np.uint16(np.uint32(np.uint32(bits + 0x7FFF) + even) >> 16)
        return high if number == number else np.uint16(_NAN)

    return rounded if out.dtype == types.uint16 else same
