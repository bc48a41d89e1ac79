"""ESPNet's pyramids in bands: five dilated convolutions of one thin map, and what is made of them.

A pyramid's reduced map is thin, whole, and lies between columns of zeros of its own: AMX convolves a map that is to be
padded from a copy, in up to five times the time. In fp32 all of a band is one call of a kernel, which convolves by
`winograd` in half the time of oneDNN (AVX2), and keeps of what it makes only what a later layer asks for. In bf16, and
where there are fewer channels than `winograd.FEWEST`, torch convolves.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, cast

import numpy as np
import torch
import torch.nn.functional as F

from wsi_espnet.inference import winograd
from wsi_espnet.inference.kernels import SOURCES, Array, Vector, fuse, kernel
from wsi_espnet.inference.layers import Activation, Convolution, PointConvolution, reduce
from wsi_espnet.inference.maps import REACH, Band, Map, Workspace
from wsi_espnet.inference.vectors import Pair, Sizes, Weights
from wsi_espnet.inference.winograd import convolve
from wsi_espnet.models.espnet import DILATIONS, DilatedPyramid, Pyramid, StridedPyramid


class BandedPyramid:
    """A pyramid from its reduced map on, and the reduction of the one behind it.

    Parameters
    ----------
    pyramid
        Of a network from `layers.in_precision`.
    following
        The pyramid behind it, or None.
    """

    def __init__(self, pyramid: Pyramid, following: DilatedPyramid | None) -> None:
        weight = pyramid.c1.conv.weight
        self.outputs, self._narrow = pyramid.outputs, len(weight)
        self._by_products = weight.dtype == torch.float32 and self._narrow >= winograd.FEWEST
        self._alone = not (isinstance(pyramid, DilatedPyramid) and pyramid.residual)
        behind = Activation.none(pyramid.outputs) if following is None else _activation(following)
        self._vectors: _Vectors = *_activation(pyramid).vectors, behind.scale, behind.shift
        reduction = None if following is None else PointConvolution(following.c1.conv.weight)
        self._run: _Run = (_ByProducts if self._by_products else _ByConvolutions)(pyramid, reduction)

    def reduced(self, number: int, rows: int, width: int, workspace: Workspace) -> Map:
        """Where the reduced map belongs; two numbers in turn serve pyramids one behind the other."""
        channels, right = thin_channels(self._narrow, workspace.dtype), REACH
        if self._by_products:
            right = winograd.room(1, REACH) - 1  # it reads no more than that behind the last column
        return Map(workspace, f"thin {number}", rows, width, channels, left=REACH, right=right)

    def __call__(self, reduced: Map, passed: Map, out: Map | None, thinner: Map | None, workspace: Workspace) -> None:
        """From the reduced map to `out`, where there is one, and to the reduced map of the pyramid that follows.

        `passed` comes as `kernels.fuse` says, with anything in it where no input is added, and goes so.
        """
        for band in workspace.bands(reduced.rows, reduced.width, self.outputs):
            rows = _Rows(
                source=reduced.take(band.start - REACH, band.stop + REACH),
                passed=passed.fill(band) if self._alone else passed.take(band.start, band.stop),
                out=out.fill(band) if out else None,
                thinner=thinner.fill(band) if thinner else None,
            )
            self._run(rows, band, self._vectors, self._alone, workspace)


_Vectors = tuple[Vector, Vector, Vector, Vector, Vector]
"""Scale, shift and slope of a pyramid; scale and shift of the one behind it."""


@dataclass(frozen=True, slots=True)
class _Rows:
    """Rows that a pyramid is run on: with `REACH` more above and below, what is added to them, and where they go to."""

    source: Array
    passed: Array
    out: Array | None
    thinner: Array | None


class _Run(Protocol):
    """A way to run a pyramid; `alone` it has nothing added, whatever is in `passed`."""

    def __call__(self, rows: _Rows, band: Band, vectors: _Vectors, alone: bool, workspace: Workspace) -> None: ...


class _ByConvolutions:
    def __init__(self, pyramid: Pyramid, reduction: PointConvolution | None) -> None:
        weights = [conv.weight for conv in pyramid.branches]
        self._reduce = reduction
        self._fuse = _fusing(len(weights[0]), len(weights[1]))
        more = thin_channels(weights[0].shape[1], weights[0].dtype) - weights[0].shape[1]
        self._convolutions = [
            Convolution(F.pad(w, (0, 0, 0, 0, 0, more)), dilation=d, padded=False)
            for d, w in zip(DILATIONS, weights, strict=True)
        ]

    def __call__(self, rows: _Rows, band: Band, vectors: _Vectors, alone: bool, workspace: Workspace) -> None:
        if not band.width:
            return
        source = np.ascontiguousarray(rows.source[:, band.begin : band.end + 2 * REACH])
        maps = tuple(
            convolve(source[REACH - dilation : len(source) - REACH + dilation])
            for dilation, convolve in zip(DILATIONS, self._convolutions, strict=True)
        )
        out = workspace.array("band", *rows.passed.shape) if rows.out is None else rows.out
        columns = tuple(REACH - dilation for dilation in DILATIONS)
        self._fuse(maps, columns, rows.passed, band.begin, band.end, alone, vectors, out)
        if self._reduce is not None and rows.thinner is not None:
            self._reduce(out[:, band.begin : band.end], rows.thinner, REACH + band.begin)


class _ByProducts:
    def __init__(self, pyramid: Pyramid, reduction: PointConvolution | None) -> None:
        branches = [winograd.filters(conv.weight.detach().numpy()) for conv in pyramid.branches]
        self._filters = tuple(filters.values for filters in branches)
        # A kernel has all its arguments: behind the last pyramid weights that nobody asks for, of the others' sizes.
        inputs = pyramid.branches[0].in_channels
        none = Weights.of(np.zeros((1, pyramid.outputs, inputs), np.float32))
        self._reduction = none if reduction is None else reduction.weights
        first, other = branches[:2]
        self._run = _pyramid(first.outputs, other.outputs, first.sizes, other.sizes, self._reduction.sizes)

    def __call__(self, rows: _Rows, band: Band, vectors: _Vectors, alone: bool, workspace: Workspace) -> None:
        out = rows.passed[:0] if rows.out is None else rows.out
        thinner = rows.source[:0] if rows.thinner is None else rows.thinner
        weights = self._filters, self._reduction.values
        columns = band.begin, band.end
        self._run(rows.source, *columns, DILATIONS, *weights, rows.passed, alone, vectors, out, thinner)


def thin_channels(channels: int, dtype: torch.dtype) -> int:
    """Channels of a thin map: in bf16 an even number, as AMX takes half as long again with 25 as with 26."""
    return channels if dtype == torch.float32 else channels + channels % 2


def _activation(pyramid: Pyramid) -> Activation:
    if isinstance(pyramid, StridedPyramid):
        return Activation.of(pyramid.bn, pyramid.act)
    norm = cast("DilatedPyramid", pyramid).bn
    return Activation.of(norm.bn, norm.act)


@functools.cache
def _fusing(first: int, other: int) -> Callable[..., None]:
    """`fuse(branches, columns, passed, begin, end, alone, vectors, out)`: `kernels.fuse` of all rows, in some columns.

    Those of `passed` and `out` are meant; branches have no others.
    """
    sources = SOURCES

    @kernel
    def fuse_all(
        branches: tuple[Array, ...],
        columns: tuple[int, ...],
        passed: Array,
        begin: int,
        end: int,
        alone: bool,
        vectors: tuple[Vector, ...],
        out: Array,
    ) -> None:
        assert sources >= 0
        for row in range(out.shape[0]):
            fuse(branches, row, columns, passed[row, begin:end], alone, vectors, out[row, begin:end], first, other)

    return fuse_all


@functools.cache
def _pyramid(first: int, other: int, first_sizes: Sizes, sizes: Sizes, reduction: Sizes) -> Callable[..., None]:
    """`run(source, begin, end, dilations, filters, weights, passed, alone, vectors, out, thinner)`: some `_Rows`.

    The columns from `begin` to `end` are computed.

    `first` and `other` are the outputs of the first branch and of each other one, `first_sizes` and `sizes` those of
    their filters, `reduction` those of the weights behind them. `out` and `thinner` without rows are not written to.
    """
    sources, channels = SOURCES, first + 4 * other
    inputs, first_wide, first_rest = first_sizes
    _, wide, rest = sizes
    thinned, thin_wide, thin_rest = reduction

    @kernel
    def run(
        source: Array,
        begin: int,
        end: int,
        dilations: tuple[int, ...],
        filters: tuple[Pair, ...],
        weights: Pair,
        passed: Array,
        alone: bool,
        vectors: tuple[Vector, ...],
        out: Array,
        thinner: Array,
    ) -> None:
        assert sources >= 0
        rows, width, column = passed.shape[0], end - begin, REACH + begin
        # Dilations are no constants of these calls: one convolution is compiled for four branches.
        d1, d2, d4, d8, d16 = dilations
        near = source[REACH - d1 : REACH + rows + d1]
        one = convolve(near, column, width, d1, filters[0], inputs, first_wide, first_rest)
        near = source[REACH - d2 : REACH + rows + d2]
        two = convolve(near, column, width, d2, filters[1], inputs, wide, rest)
        near = source[REACH - d4 : REACH + rows + d4]
        four = convolve(near, column, width, d4, filters[2], inputs, wide, rest)
        near = source[REACH - d8 : REACH + rows + d8]
        eight = convolve(near, column, width, d8, filters[3], inputs, wide, rest)
        near = source[REACH - d16 : REACH + rows + d16]
        sixteen = convolve(near, column, width, d16, filters[4], inputs, wide, rest)
        branches, columns = (one, two, four, eight, sixteen), (0, 0, 0, 0, 0)
        line = np.empty((width, channels), np.float32)
        for row in range(rows):
            target = out[row, begin:end] if out.shape[0] > 0 else line
            fuse(branches, row, columns, passed[row, begin:end], alone, vectors, target, first, other)
            if thinner.shape[0] > 0:
                reduce(target, weights, thinner[row], column, thinned, thin_wide, thin_rest)

    return run
