"""ESPNet's last layers: from the detail at stride 2 and the classes at stride 4 to logits, row by row in one kernel."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import cast

import numpy as np
from torch import nn

from wsi_espnet.inference.kernels import SOURCES, Array, Vector, kernel, last_three, leak, widened
from wsi_espnet.inference.layers import Activation, by_corner
from wsi_espnet.inference.maps import Map, Workspace
from wsi_espnet.inference.vectors import Pair, Weights, multiply
from wsi_espnet.models.espnet import EspNet, NormAct


class Decoder:
    """The layers behind `combine_l2_l3` of a network in evaluation mode, in fp32 whatever its maps are kept in."""

    def __init__(self, network: EspNet) -> None:
        double, norm = cast("nn.ConvTranspose2d", network.up_l2[0]), cast("NormAct", network.up_l2[1])
        self._double, self._classify = (by_corner(conv) for conv in (double, network.classifier))
        self._doubled = Activation.of(norm.bn, norm.act).vectors
        self._weights = Weights.of_convolution(network.conv.conv.weight)
        self._last = Activation.of(network.conv.bn, network.conv.act).vectors

    def __call__(self, detail: Map, up: Map, workspace: Workspace) -> Iterator[tuple[int, int, Vector]]:
        """As `bands.BandedEspNet`."""
        classes, weights = up.channels, self._weights
        decode = _decoding(classes, detail.channels, *weights.sizes)
        for band in workspace.bands(up.rows, up.width, 4 * (detail.channels + classes)):
            start, stop = band.start, band.stop
            logits = np.empty((classes, 4 * (stop - start), 4 * band.width), np.float32)
            maps = detail.take(2 * start - 1, 2 * stop + 1), up.take(start - 1, stop + 1), band.begin
            edges = start == 0, stop == up.rows
            decode(*maps, *edges, self._double, self._doubled, weights.values, self._last, self._classify, logits)
            yield 4 * start, 4 * band.begin, logits


@functools.cache
def _decoding(classes: int, skip: int, inputs: int, wide: int, rest: int) -> Callable[..., None]:
    """`decode(detail, up, begin, first, last, double, doubled, weights, following, classify, out)`: maps to logits.

    `detail` (2 * rows + 2, W, skip) and `up` (rows + 2, W / 2, classes) bring what is above and below; nothing is there
    where rows are the `first` or the `last` of all. `double` and `classify` come from `by_corner`, `doubled` and
    `following` are activations' vectors, `weights` those of the 3 x 3 convolution, whose sizes come last here. Out is
    (classes, 4 * rows, 4 * W'): columns from `begin` on, of `up`.
    """
    sources, channels = SOURCES, classes + skip

    @kernel
    def decode(
        detail: Array,
        up: Array,
        begin: int,
        first: bool,
        last: bool,
        double: Vector,
        doubled: tuple[Vector, ...],
        weights: Pair,
        following: tuple[Vector, ...],
        classify: Vector,
        out: Vector,
    ) -> None:
        assert sources >= 0
        scale, shift, slope = doubled
        next_scale, next_shift, next_slope = following
        rows, width = detail.shape[0], out.shape[2] // 2
        lines = np.zeros((3, width + 2, channels), np.float32)  # the last three rows, between zeros
        length = (width + 2) * channels
        said = np.empty((width, wide + rest), np.float32)
        planes = np.empty((classes, width), np.float32)
        for row in range(rows):
            line = lines[row % 3]
            if (first and row == 0) or (last and row == rows - 1):
                line[:] = 0
            else:
                y = (row + 1) % 2
                for column in range(width):
                    corner, source = double[y, column % 2], up[(row + 1) // 2, begin + column // 2]
                    for channel in range(classes):
                        total = np.float32(0)
                        for origin in range(classes):
                            total += corner[channel, origin] * widened(source[origin])
                        line[1 + column, channel] = leak(total * scale[channel] + shift[channel], slope[channel])
                    for channel in range(skip):
                        line[1 + column, classes + channel] = widened(detail[row, 2 * begin + column, channel])
            if row < 2:
                continue
            starts = last_three(row, length)
            multiply(lines, starts, channels, weights, said, inputs, wide, rest)
            for column in range(width):
                for channel in range(classes):
                    value = said[column, channel] * next_scale[channel] + next_shift[channel]
                    planes[channel, column] = leak(value, next_slope[channel])
            for channel in range(classes):
                for y in range(2):
                    target = out[channel, 2 * (row - 2) + y]
                    target[:] = 0
                    for origin in range(classes):
                        even, odd = classify[y, 0, channel, origin], classify[y, 1, channel, origin]
                        for column in range(width):
                            target[2 * column] += even * planes[origin, column]
                            target[2 * column + 1] += odd * planes[origin, column]

    return decode
