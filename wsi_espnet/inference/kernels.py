"""Passes over maps, compiled by numba: what kernels of the network's stages share, and those of its results.

Torch makes a pass of each operation, so joined, normalised and leaked maps went through the cache up to nine times.
In bf16 that took two thirds of a window's time.

A map is (rows, W, C) in this memory order: float32, or bfloat16 as the uint16 of its bits; all are computed in float32.
`out` is written to, and so is what is said to change. Kernels do not hold Python's lock.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable
from pathlib import Path
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

SOURCES = zlib.crc32(b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py"))))
"""Of this folder. It is among the constants of kernels that call what lies in other modules: numba looks for changes of
their own file alone, and would go on with what it kept of older ones."""


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
def leak(value: np.float32, slope: np.float32) -> np.float32:
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
def copy(source: Array, out: Array, margin: int, channels: int) -> None:
    """The first channels of a source, to `out` behind `margin` columns."""
    for row in range(source.shape[0]):
        for column in range(source.shape[1]):
            for channel in range(channels):
                out[row, margin + column, channel] = source[row, column, channel]


@kernel
def put(line: Vector, channels: int, out: Array, left: int) -> None:
    """The first channels of a row (W, C') to those of `out` (W', C) from column `left` on; behind them zeros."""
    for column in range(line.shape[0]):
        for channel in range(out.shape[1]):
            value = line[column, channel] if channel < channels else np.float32(0)
            out[left + column, channel] = narrowed(value, out)


@kernel
def last_three(row: int, length: int) -> tuple[int, int, int]:
    """Where a row and the two above it begin in three lines of `length` values that rows fill in turn."""
    return (row - 2) % 3 * length, (row - 1) % 3 * length, row % 3 * length


@kernel
def activate(source: Array, scale: Vector, shift: Vector, slope: Vector, out: Array) -> None:
    """Normalisation and PReLU of a source's first channels, as many as there are scales, to `out`.

    A slope of 1 is no PReLU.
    """
    for row in range(out.shape[0]):
        for column in range(out.shape[1]):
            for channel in range(scale.shape[0]):
                value = widened(source[row, column, channel]) * scale[channel] + shift[channel]
                out[row, column, channel] = narrowed(leak(value, slope[channel]), out)


def fuse(
    branches: tuple[Array, ...],
    row: int,
    columns: tuple[int, ...],
    passed: Array,
    alone: bool,
    vectors: tuple[Vector, ...],
    out: Array,
    first: int,
    other: int,
) -> None:
    """For kernels: a row of a pyramid's second half.

    `branches` are five maps, each from its own one of `columns` on; of the first the first `first` channels count, of
    the others the first `other`. They are joined as `models.espnet.Pyramid.fused` says, multiplied by scale, added to
    `passed`, and leaked: `out`. `passed` holds what this pyramid's normalisation makes of its input, or anything if it
    is `alone`, without input; it becomes what the next one's makes of `out`. Both are the row alone, (W, C). `vectors`
    are scale, shift and slope, and scale and shift of the next one.

    Both numbers are constants: loops of 12 or 25 steps become vectors best so, in 0.6 to 0.8 of the time.
    """
    raise TypeError("this is for kernels alone")


@overload(fuse, prefer_literal=True)
def _of_fuse(branches, row, columns, passed, alone, vectors, out, first, other):  # type: ignore[no-untyped-def]
    of_first, of_other = first.literal_value, other.literal_value
    channels = of_first + 4 * of_other

    def fused(branches, row, columns, passed, alone, vectors, out, first, other):  # type: ignore[no-untyped-def]
        one, two, four, eight, sixteen = branches
        scale, shift, slope, next_scale, next_shift = vectors
        if alone:
            for column in range(out.shape[0]):
                for channel in range(channels):
                    passed[column, channel] = narrowed(shift[channel], passed)
        joined = np.empty(channels, np.float32)
        for column in range(out.shape[0]):
            for channel in range(of_first):
                joined[channel] = widened(one[row, columns[0] + column, channel])
            for channel in range(of_other):
                total = widened(two[row, columns[1] + column, channel])
                joined[of_first + channel] = total
                total += widened(four[row, columns[2] + column, channel])
                joined[of_first + of_other + channel] = total
                total += widened(eight[row, columns[3] + column, channel])
                joined[of_first + 2 * of_other + channel] = total
                total += widened(sixteen[row, columns[4] + column, channel])
                joined[of_first + 3 * of_other + channel] = total
            for channel in range(channels):
                value = leak(joined[channel] * scale[channel] + widened(passed[column, channel]), slope[channel])
                out[column, channel] = narrowed(value, out)
                passed[column, channel] = narrowed(value * next_scale[channel] + next_shift[channel], out)

    return fused


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
def read_out(logits: Vector, labels: Pixels, probabilities: Pixels, first: int, begin: int) -> bool:
    """Labels and probabilities, 255 being 1, from row `first` and column `begin` on; whether all logits are finite.

    Logits (C, rows, W') float32, labels (H, W) and probabilities (C, H, W) uint8.
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
            labels[first + row, begin + column] = winner[column]
        for number in range(classes):
            for column in range(columns):
                share = np.float32(255) * powers[number, column] / total[column]
                probabilities[number, first + row, begin + column] = np.uint8(share + np.float32(0.5))
    return strange == 0


def widened(value: Any) -> Any:
    """A value of a map as float32."""
    raise TypeError("this is for kernels alone; `_of_wide` says what numba compiles")


def narrowed(value: Any, out: Any) -> Any:
    """A float32 as `out` holds it, rounded to the nearest."""
    raise TypeError("this is for kernels alone; `_of_narrow` says what numba compiles")


@overload(widened)
def _of_wide(value: Any) -> Any:
    def same(value: Any) -> Any:
        return value

    def from_bits(value: Any) -> Any:
        return np.uint32(np.uint32(value) << 16).view(np.float32)

    return from_bits if value == types.uint16 else same


@overload(narrowed)
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
