"""ESPNet's first layers: from px to the detail at stride 2 and what is made of it, row by row in one kernel."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from wsi_espnet.inference.kernels import SOURCES, Array, Pixels, Vector, kernel, last_three, leak, narrowed, put
from wsi_espnet.inference.layers import Activation
from wsi_espnet.inference.maps import Map, Workspace
from wsi_espnet.inference.vectors import Pair, Sizes, Weights, multiply
from wsi_espnet.models.espnet import EspNet


class Stem:
    """The layers before the first pyramid, of a network in evaluation mode, in fp32 whatever its maps are kept in."""

    def __init__(self, network: EspNet) -> None:
        encoder = network.encoder
        weight = encoder.level1.conv.weight.float()
        # The image at half the size comes out of the same convolution, behind 16 channels.
        mean_of_nine = torch.eye(3)[:, :, None, None].expand(3, 3, 3, 3) / 9
        self._convolve = Weights.of_convolution(torch.cat([weight, mean_of_nine]))
        first = Activation.of(encoder.level1.bn, encoder.level1.act).beside(Activation.none(3))
        self._vectors = first.vectors, Activation.of(encoder.b1.bn, encoder.b1.act).vectors
        self._reduce = Weights.of_convolution(encoder.level2_0.c1.conv.weight)
        self._skip = encoder.skip

    def __call__(
        self, window: Tensor, mean: Tensor, scale: Tensor, reduced: Map, workspace: Workspace
    ) -> tuple[Map, Map]:
        """Detail at stride 2, and the image at stride 4; the first pyramid's reduced map becomes what it is."""
        height, width = window.shape[:2]
        detail = Map(workspace, "detail", height // 2, width // 2, self._skip)
        image = Map(workspace, "image", height // 4, width // 4, 3)
        run = _stem(self._skip, self._convolve.sizes, self._reduce.sizes, self._reduce.outputs)
        scales, shifts = (vector.float().repeat(width).numpy() for vector in (scale, -mean * scale))
        weights = self._convolve.values, self._reduce.values
        for band in workspace.bands(height // 4, width // 4, 4 * 24):
            of_px = band.times(4)
            top = max(0, of_px.start - 3)  # the row above a band of half the size needs three of the image
            places = detail.fill(band.times(2)), image.fill(band), reduced.fill(band), reduced.left, band.begin
            # A part of a picture has gaps between its rows.
            px = np.ascontiguousarray(window.numpy()[top : of_px.stop, of_px.begin : of_px.end])
            run(px, band.start == 0, (scales, shifts), *self._vectors, *weights, *places)
        return detail, image


@functools.cache
def _stem(skip: int, convolve: Sizes, reduce: Sizes, reduced: int) -> Callable[..., None]:
    """`run(px, top, ..., detail, image, thinner, left, begin)`: from px (4 * rows, W, 3), behind three rows above.

    At the `top` there are none. They become columns from `begin` on, of stride 4. `skip` channels are the detail: all
    that the first pyramid is given, or 16 before that.
    """
    sources = SOURCES
    run_px, wide, rest = convolve
    run_half, thin_wide, thin_rest = reduce
    outputs, thin_outputs = wide + rest, thin_wide + thin_rest
    channels, stride = 19, 2 * 19

    @kernel
    def run(
        px: Pixels | Vector,
        top: bool,
        of_px: Pair,
        vectors: tuple[Vector, ...],
        following: tuple[Vector, ...],
        convolve_weights: Pair,
        reduce_weights: Pair,
        detail: Array,
        image: Array,
        thinner: Array,
        left: int,
        begin: int,
    ) -> None:
        assert sources >= 0
        px_scale, px_shift = of_px
        scale, shift, slope = vectors
        next_scale, next_shift, next_slope = following
        width = px.shape[1]
        half = width // 2
        pixels = np.zeros((3, 3 * (width + 1)), np.float32)  # the last three rows, behind zeros
        lines = np.zeros((3, half + 1, channels), np.float32)  # the same at half the size
        means = np.zeros((3, half + 1, 3), np.float32)  # and of the image there
        both = np.empty((half, outputs), np.float32)
        thin = np.empty((half // 2, thin_outputs), np.float32)
        first = 1 if top else 0
        for row in range(first, detail.shape[0] + 1):  # of half the size, the one above first
            for y in range(2 * row if row == first else 2 * row + 1, 2 * row + 3):
                source = y - 3 if top else y
                line_of_px = pixels[y % 3]
                if source < 0:
                    continue  # above the image there are zeros
                values = px[source].reshape(3 * width)
                for place in range(3 * width):
                    line_of_px[3 + place] = np.float32(values[place]) * px_scale[place] + px_shift[place]
            length = 3 * (width + 1)
            starts = last_three(2 * row + 2, length)
            multiply(pixels, starts, 6, convolve_weights, both, run_px, wide, rest)
            line, mean = lines[row % 3], means[row % 3]
            for column in range(half):
                for channel in range(channels):
                    value = leak(both[column, channel] * scale[channel] + shift[channel], slope[channel])
                    next_value = leak(value * next_scale[channel] + next_shift[channel], next_slope[channel])
                    line[1 + column, channel] = next_value
                for channel in range(3):
                    mean[1 + column, channel] = both[column, channels - 3 + channel]
            if row == 0:
                continue
            for column in range(half):
                for channel in range(skip):
                    value = line[1 + column, channel]
                    if skip < channels:
                        value = leak(both[column, channel] * scale[channel] + shift[channel], slope[channel])
                    detail[row - 1, 2 * begin + column, channel] = narrowed(value, detail)
            if row % 2 == 1:
                continue
            quarter, length = row // 2 - 1, (half + 1) * channels
            starts = last_three(row, length)
            multiply(lines, starts, stride, reduce_weights, thin, run_half, thin_wide, thin_rest)
            put(thin, reduced, thinner[quarter], left + begin)
            for column in range(half // 2):
                for channel in range(3):
                    total = np.float32(0)
                    for y in range(3):
                        for x in range(3):
                            total += means[y, 2 * column + x, channel]
                    image[quarter, begin + column, channel] = narrowed(total / np.float32(9), image)

    return run
