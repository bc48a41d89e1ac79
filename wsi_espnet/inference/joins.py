"""ESPNet between its stages: maps joined, normalised and leaked, and what is asked of them, row by row."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import cast

import numpy as np
from torch import nn

from wsi_espnet.inference.kernels import SOURCES, Array, Vector, kernel, last_three, leak, narrowed, put, widened
from wsi_espnet.inference.layers import Activation, by_corner
from wsi_espnet.inference.maps import Map, Workspace
from wsi_espnet.inference.vectors import Pair, Sizes, Weights, multiply
from wsi_espnet.models.espnet import EspNet, NormAct


class QuarterJoin:
    """At stride 4: the side classes, normalised as what is joined with them, and the reduced map of the third stage."""

    def __init__(self, network: EspNet) -> None:
        encoder = network.encoder
        self._activation = Activation.of(encoder.b2.bn, encoder.b2.act)
        self._classify = Weights.of_convolution(network.level3_C.conv.weight)
        self._reduce = Weights.of_convolution(encoder.level3_0.c1.conv.weight)
        norm = cast("NormAct", network.combine_l2_l3[0])
        self._side = Activation.of(norm.bn, norm.act).split(self._classify.outputs)[0]

    def __call__(self, maps: tuple[Map, Map, Map], joined: Map, reduced: Map, workspace: Workspace) -> None:
        """From three maps to the first channels of `joined` and to `reduced`, which has half their size."""
        channels = tuple(each.channels for each in maps)
        run = _quarter_joining(
            channels, self._classify.sizes, self._classify.outputs, self._reduce.sizes, self._reduce.outputs
        )
        constants = self._activation.vectors, self._classify.values, self._side.vectors, self._reduce.values
        for band in workspace.bands(reduced.rows, reduced.width, 4 * sum(channels)):
            twice = band.times(2)
            first, second, third = (each.take(twice.start - 1, twice.stop) for each in maps)
            places = joined.fill(twice, np.s_[: joined.channels // 2]), reduced.fill(band), reduced.left
            run(first, second, third, band.start == 0, twice.begin, twice.end, *constants, *places)


class EighthJoin:
    """At stride 8: the classes, at twice the size, normalised as what is joined with them."""

    def __init__(self, network: EspNet) -> None:
        encoder = network.encoder
        self._activation = Activation.of(encoder.b3.bn, encoder.b3.act)
        self._classify = Weights.of_convolution(encoder.classifier.conv.weight)
        self._rescale = Activation.of(network.br)
        self._double = by_corner(cast("nn.ConvTranspose2d", network.up_l3[0]))
        norm = cast("NormAct", network.combine_l2_l3[0])
        self._doubled = Activation.of(norm.bn, norm.act).split(self._classify.outputs)[1]

    def __call__(self, maps: tuple[Map, Map], joined: Map, workspace: Workspace) -> None:
        """From two maps to the last channels of `joined`, which has twice their size."""
        channels = tuple(each.channels for each in maps)
        run = _eighth_joining(channels, self._classify.sizes, self._classify.outputs)
        constants = self._activation.vectors, self._classify.values, self._rescale.vectors
        doubling = self._double, self._doubled.vectors
        for band in workspace.bands(maps[0].rows, maps[0].width, sum(channels)):
            first, second = (each.take(band.start, band.stop) for each in maps)
            place = joined.fill(band.times(2), np.s_[joined.channels // 2 :])
            run(first, second, band.begin, band.end, *constants, *doubling, place)


@kernel
def _activate_row(source: Array, vectors: tuple[Vector, ...], at: int, out: Vector, left: int) -> None:
    """Normalisation and PReLU of a row (W, channels), to those of `out` (W', C) from column `left` and channel `at` on.

    The vectors are those of all channels of `out`.
    """
    scale, shift, slope = vectors
    for column in range(source.shape[0]):
        for channel in range(source.shape[1]):
            value = widened(source[column, channel]) * scale[at + channel] + shift[at + channel]
            out[left + column, at + channel] = leak(value, slope[at + channel])


@functools.cache
def _quarter_joining(
    maps: tuple[int, int, int], classify: Sizes, classes: int, reduce: Sizes, reduced: int
) -> Callable[..., None]:
    """`run(first, second, third, top, begin, end, ..., joined, thinner, left)`: rows of three maps, behind one above.

    At the top there is none, whatever lies there. The columns from `begin` to `end` are computed.
    """
    sources, channels, stride = SOURCES, sum(maps), 2 * sum(maps)
    second_at, third_at = maps[0], maps[0] + maps[1]
    said_run, said_wide, said_rest = classify
    thin_run, thin_wide, thin_rest = reduce

    @kernel
    def run(
        first: Array,
        second: Array,
        third: Array,
        top: bool,
        begin: int,
        end: int,
        vectors: tuple[Vector, ...],
        classify_weights: Pair,
        side: tuple[Vector, ...],
        reduce_weights: Pair,
        joined: Array,
        thinner: Array,
        left: int,
    ) -> None:
        assert sources >= 0
        scale, shift, slope = side
        rows, width = first.shape[0], end - begin
        lines = np.zeros((3, width + 1, channels), np.float32)  # the last three rows, behind zeros
        length = (width + 1) * channels
        said = np.empty((width, said_wide + said_rest), np.float32)
        thin = np.empty((width // 2, thin_wide + thin_rest), np.float32)
        for row in range(rows):
            line = lines[row % 3]
            if row > 0 or not top:
                _activate_row(first[row, begin:end], vectors, 0, line, 1)
                _activate_row(second[row, begin:end], vectors, second_at, line, 1)
                _activate_row(third[row, begin:end], vectors, third_at, line, 1)
            if row == 0:
                continue
            multiply(line, (channels,), channels, classify_weights, said, said_run, said_wide, said_rest)
            for column in range(width):
                for channel in range(classes):
                    value = leak(said[column, channel] * scale[channel] + shift[channel], slope[channel])
                    joined[row - 1, begin + column, channel] = narrowed(value, joined)
            if row % 2 == 0:
                starts = last_three(row, length)
                multiply(lines, starts, stride, reduce_weights, thin, thin_run, thin_wide, thin_rest)
                put(thin, reduced, thinner[row // 2 - 1], left + begin // 2)

    return run


@functools.cache
def _eighth_joining(maps: tuple[int, int], classify: Sizes, classes: int) -> Callable[..., None]:
    """`run(first, second, begin, end, ..., joined)`: rows of two maps, in the columns between, to twice as many."""
    sources, channels, second_at = SOURCES, sum(maps), maps[0]
    said_run, said_wide, said_rest = classify

    @kernel
    def run(
        first: Array,
        second: Array,
        begin: int,
        end: int,
        vectors: tuple[Vector, ...],
        classify_weights: Pair,
        rescale: tuple[Vector, ...],
        double: Vector,
        doubled: tuple[Vector, ...],
        joined: Array,
    ) -> None:
        assert sources >= 0
        scale, shift, slope = doubled
        said_scale, said_shift, _ = rescale
        rows, width = first.shape[0], end - begin
        line = np.empty((width, channels), np.float32)
        said = np.empty((width, said_wide + said_rest), np.float32)
        for row in range(rows):
            _activate_row(first[row, begin:end], vectors, 0, line, 0)
            _activate_row(second[row, begin:end], vectors, second_at, line, 0)
            multiply(line, (0,), channels, classify_weights, said, said_run, said_wide, said_rest)
            for column in range(width):
                for channel in range(classes):
                    said[column, channel] = said[column, channel] * said_scale[channel] + said_shift[channel]
            for y in range(2):
                for column in range(2 * width):
                    corner, source = double[y, column % 2], said[column // 2]
                    for channel in range(classes):
                        total = np.float32(0)
                        for origin in range(classes):
                            total += corner[channel, origin] * source[origin]
                        value = leak(total * scale[channel] + shift[channel], slope[channel])
                        joined[2 * row + y, 2 * begin + column, classes + channel] = narrowed(value, joined)

    return run
