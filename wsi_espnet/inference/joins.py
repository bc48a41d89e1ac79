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
from wsi_espnet.inference.vectors import Weights, multiply
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
        weights = self._classify.wides, self._classify.rests, self._reduce.wides, self._reduce.rests
        for start, stop in workspace.bands(reduced.rows, 2 * sum(channels) * joined.width):
            first, second, third = (each.take(2 * start - 1, 2 * stop) for each in maps)
            places = joined.take(2 * start, 2 * stop), reduced.take(start, stop), reduced.left
            run(first, second, third, start == 0, *self._activation.vectors, *weights, *self._side.vectors, *places)


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
        weights = self._classify.wides, self._classify.rests
        for start, stop in workspace.bands(maps[0].rows, sum(channels) * maps[0].width):
            first, second = (each.take(start, stop) for each in maps)
            vectors = *self._rescale.vectors[:2], self._double, *self._doubled.vectors
            run(first, second, *self._activation.vectors, *weights, *vectors, joined.take(2 * start, 2 * stop))


_Sizes = tuple[int, int, int]


@kernel
def _activate_row(source: Array, scale: Vector, shift: Vector, slope: Vector, at: int, out: Vector, left: int) -> None:
    """Normalisation and PReLU of a row (W, channels), to those of `out` (W', C) from column `left` and channel `at` on.

    The vectors are those of all channels of `out`.
    """
    for column in range(source.shape[0]):
        for channel in range(source.shape[1]):
            value = widened(source[column, channel]) * scale[at + channel] + shift[at + channel]
            out[left + column, at + channel] = leak(value, slope[at + channel])


@functools.cache
def _quarter_joining(
    maps: tuple[int, int, int], classify: _Sizes, classes: int, reduce: _Sizes, reduced: int
) -> Callable[..., None]:
    """`run(first, second, third, top, ..., joined, thinner, left)`: rows of three maps, behind the one above.

    At the top there is none, whatever lies there.
    """
    sources, channels = SOURCES, sum(maps)
    second_at, third_at = maps[0], maps[0] + maps[1]
    said_run, said_wide, said_rest = classify
    thin_run, thin_wide, thin_rest = reduce
    said_outputs, thin_outputs, stride = said_wide + said_rest, thin_wide + thin_rest, 2 * channels

    @kernel
    def run(
        first: Array,
        second: Array,
        third: Array,
        top: bool,
        scale: Vector,
        shift: Vector,
        slope: Vector,
        classify_wides: Vector,
        classify_rests: Vector,
        reduce_wides: Vector,
        reduce_rests: Vector,
        side_scale: Vector,
        side_shift: Vector,
        side_slope: Vector,
        joined: Array,
        thinner: Array,
        left: int,
    ) -> None:
        assert sources >= 0
        rows, width = first.shape[:2]
        lines = np.zeros((3, width + 1, channels), np.float32)  # the last three rows, behind zeros
        length = (width + 1) * channels
        said = np.empty((width, said_outputs), np.float32)
        thin = np.empty((width // 2, thin_outputs), np.float32)
        for row in range(rows):
            here = row % 3
            if row > 0 or not top:
                _activate_row(first[row], scale, shift, slope, 0, lines[here], 1)
                _activate_row(second[row], scale, shift, slope, second_at, lines[here], 1)
                _activate_row(third[row], scale, shift, slope, third_at, lines[here], 1)
            if row == 0:
                continue
            starts = (here * length + channels,)
            multiply(
                lines,
                starts,
                channels,
                classify_wides,
                classify_rests,
                said,
                0,
                said_outputs,
                width,
                said_run,
                said_wide,
                said_rest,
            )
            for column in range(width):
                for channel in range(classes):
                    value = leak(said[column, channel] * side_scale[channel] + side_shift[channel], side_slope[channel])
                    joined[row - 1, column, channel] = narrowed(value, joined)
            if row % 2 == 1:
                continue
            starts_of_three = last_three(row, length)
            multiply(
                lines,
                starts_of_three,
                stride,
                reduce_wides,
                reduce_rests,
                thin,
                0,
                thin_outputs,
                width // 2,
                thin_run,
                thin_wide,
                thin_rest,
            )
            put(thin, reduced, thinner[row // 2 - 1], left)

    return run


@functools.cache
def _eighth_joining(maps: tuple[int, int], classify: _Sizes, classes: int) -> Callable[..., None]:
    """`run(first, second, ..., joined)`: rows of the maps, to twice as many."""
    sources, channels, second_at = SOURCES, sum(maps), maps[0]
    said_run, said_wide, said_rest = classify
    outputs = said_wide + said_rest

    @kernel
    def run(
        first: Array,
        second: Array,
        scale: Vector,
        shift: Vector,
        slope: Vector,
        classify_wides: Vector,
        classify_rests: Vector,
        said_scale: Vector,
        said_shift: Vector,
        double: Vector,
        doubled_scale: Vector,
        doubled_shift: Vector,
        doubled_slope: Vector,
        joined: Array,
    ) -> None:
        assert sources >= 0
        rows, width = first.shape[:2]
        line = np.empty((width, channels), np.float32)
        said = np.empty((width, outputs), np.float32)
        for row in range(rows):
            _activate_row(first[row], scale, shift, slope, 0, line, 0)
            _activate_row(second[row], scale, shift, slope, second_at, line, 0)
            multiply(
                line,
                (0,),
                channels,
                classify_wides,
                classify_rests,
                said,
                0,
                outputs,
                width,
                said_run,
                said_wide,
                said_rest,
            )
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
                        value = leak(total * doubled_scale[channel] + doubled_shift[channel], doubled_slope[channel])
                        joined[2 * row + y, column, classes + channel] = narrowed(value, joined)

    return run
