"""ESPNet over a large window in bands of rows: the maps that a pass needs only for a moment are never whole.

A window of 2944 px has maps of up to 280 MiB. Band by band they stay in the processor's cache and on the heap, and
only what a later layer still asks for is kept. Hardly a row is computed twice: a pyramid is dilated over its reduced
map, which is thin and kept whole, and elsewhere two bands share one row.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from wsi_espnet.inference import kernels
from wsi_espnet.inference.kernels import Array
from wsi_espnet.inference.layers import Activation, Convolution, Doubling, thin_channels
from wsi_espnet.models.espnet import DILATIONS, ConvNormAct, DilatedPyramid, EspNet, NormAct, Pyramid, StridedPyramid

BAND_BYTES = 4 << 20
"""Of the widest map in one band. Of half of it threads wait more often for each other, as Python is in every step."""

_REACH = max(DILATIONS)


class Workspace:
    """Memory for the maps of one window after the other; two windows at once need two.

    Fresh memory costs about as much as what is computed into it: the system clears every page that it lends.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = torch.uint16 if dtype == torch.bfloat16 else dtype
        self._blocks: dict[str, Tensor] = {}

    def array(self, name: str, *shape: int) -> Array:
        """Dense, with anything in it; what an earlier caller got under that name is overwritten."""
        count = math.prod(shape)
        found = self._blocks.get(name)
        if found is None or found.numel() < count:
            found = None
            self._blocks.pop(name, None)  # before there is another
            found = self._blocks[name] = torch.empty(count, dtype=self.dtype)  # begins at a cache line, numpy's may not
        values: Array = found.numpy()[:count].reshape(shape)
        return values


class Map:
    """A map (rows, W, C) that is filled from top to bottom, with `_REACH` rows of zeros above and below it.

    Parameters
    ----------
    workspace, name
        Where it lies.
    rows, width, channels
        Its size.
    margin
        Columns of zeros to its left and right.
    """

    def __init__(
        self, workspace: Workspace, name: str, rows: int, width: int, channels: int, *, margin: int = 0
    ) -> None:
        self.rows, self.width, self.channels, self.margin = rows, width, channels, margin
        self._values = workspace.array(name, rows + 2 * _REACH, width + 2 * margin, channels)
        self._values[:_REACH] = 0
        self._values[_REACH + rows :] = 0
        self._values[:, :margin] = 0
        self._values[:, margin + width :] = 0

    def take(self, start: int, stop: int) -> Array:
        """View of rows with their margins; -_REACH <= start < stop <= rows + _REACH."""
        return self._values[_REACH + start : _REACH + stop]

    def put(self, start: int, band: Array) -> None:
        """A band, or its first channels, becomes the rows from `start` on."""
        kernels.copy(band, self.take(start, start + len(band)), self.margin, self.channels)


def run_in_bands(
    network: EspNet, window: Tensor, mean: Tensor, scale: Tensor, workspace: Workspace
) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Logits of a window, band by band from the top.

    Parameters
    ----------
    network
        In evaluation mode, from `in_precision`.
    window
        (H, W, 3) uint8 or float32, both sides multiples of 8, channels as the network wants them.
    mean, scale
        (3,): what the network sees is (px - mean) * scale.
    workspace
        Where maps lie until the last band; of the network's dtype.

    Yields
    ------
    row, logits
        The first row, and (C, rows, W) float32 from there on; all rows in the end.
    """
    height, width = window.shape[:2]
    encoder = network.encoder
    classes = network.classifier.out_channels
    norm, fusion = cast("tuple[NormAct, nn.Module]", tuple(network.combine_l2_l3))
    side, doubled = Activation.of(norm.bn, norm.act).split(classes)
    joined = Map(workspace, "joined", height // 4, width // 4, 2 * classes)

    detail, image, reduced = _stem(network, window, mean, scale, workspace)
    first, last = _pyramids(encoder.level2_0, encoder.level2, reduced, workspace)
    join = _Join(encoder.b2, last, first, image)
    reduced = _thin(workspace, 0, encoder.level3_0, height // 8, width // 8)
    reduce = Convolution(encoder.level3_0.c1.conv.weight, stride=2, to_thin=True)
    classify = Convolution(network.level3_C.conv.weight)
    for start, stop in _bands(height // 8, 2 * join.channels * (width // 4), workspace):
        quarter = join(2 * start - 1, 2 * stop, workspace)
        if start == 0:
            quarter[0] = 0
        side(classify(quarter[1:]), joined.take(2 * start, 2 * stop))
        reduced.put(start, reduce(quarter))

    first, last = _pyramids(encoder.level3_0, encoder.level3, reduced, workspace)
    join = _Join(encoder.b3, first, last)
    classify, rescale = Convolution(encoder.classifier.conv.weight), Activation.of(network.br)
    double = Doubling(cast("nn.ConvTranspose2d", network.up_l3[0]))
    for start, stop in _bands(height // 8, join.channels * (width // 8), workspace):
        said = classify(join(start, stop, workspace))
        coarse = np.empty((*said.shape[:2], classes), said.dtype)
        rescale(said, coarse)
        doubled.unfold(double(coarse), 0, joined.take(2 * start, 2 * stop), at=classes)

    yield from _decode(network, detail, _combine(fusion, joined, workspace), workspace)


def _stem(network: EspNet, window: Tensor, mean: Tensor, scale: Tensor, workspace: Workspace) -> tuple[Map, Map, Map]:
    """Detail at stride 2, the image at stride 4, and the first pyramid's reduced map there."""
    height, width = window.shape[:2]
    encoder = network.encoder
    half = Map(workspace, "half", height // 2, width // 2, 19)
    detail = half if encoder.skip == 19 else Map(workspace, "detail", height // 2, width // 2, 16)
    image = Map(workspace, "image", height // 4, width // 4, 3)
    reduced = _thin(workspace, 0, encoder.level2_0, height // 4, width // 4)
    scales, shifts = (vector.float().numpy() for vector in (scale.repeat(width), (-mean * scale).repeat(width)))
    weight = encoder.level1.conv.weight
    # The image at half the size comes out of the same convolution, behind 16 channels.
    mean_of_nine = torch.eye(3, dtype=weight.dtype)[:, :, None, None].expand(3, 3, 3, 3) / 9
    convolve = Convolution(torch.cat([weight, mean_of_nine]), stride=2)
    activate, activate_both = (Activation.of(layer.bn, layer.act) for layer in (encoder.level1, encoder.b1))
    with_image = activate.beside(Activation.none(3))
    reduce = Convolution(encoder.level2_0.c1.conv.weight, stride=2, to_thin=True)
    pixels = window.numpy()
    for start, stop in _bands(height // 4, 2 * 24 * (width // 2), workspace):  # 16 + 3 channels, filled up
        top = 4 * start - 3  # the row above a band of half the size needs three of the image
        missing = max(0, -top)
        px = workspace.array("band", 4 * stop - top, width, 3)
        px[:missing] = 0
        rows = pixels[top + missing : 4 * stop].reshape(-1, 3 * width)
        kernels.normalise(rows, scales, shifts, px[missing:].reshape(-1, 3 * width))
        both = convolve(px)  # with the row above
        kernels.average(both, 16, image.take(start, stop))
        with_image.twice(both[1:], activate_both, half.take(2 * start, 2 * stop))
        if detail is not half:
            activate(both[1:], detail.take(2 * start, 2 * stop))
        reduced.put(start, reduce(half.take(2 * start - 1, 2 * stop)))
    return detail, image, reduced


def _pyramids(head: StridedPyramid, behind: nn.ModuleList, reduced: Map, workspace: Workspace) -> tuple[Map, Map]:
    """What the strided pyramid gives, from its reduced map, and what the last of those behind it gives."""
    pyramids: list[Pyramid] = [head, *cast("list[DilatedPyramid]", list(behind))]
    activations = [_activation(pyramid) for pyramid in pyramids]
    first, last = (Map(workspace, name, reduced.rows, reduced.width, head.outputs) for name in ("first", "last"))
    activations[0].fill(last.take(0, last.rows))
    for place, pyramid in enumerate(pyramids):
        following = None if place == len(behind) else pyramids[place + 1]
        passed = Activation.none(head.outputs) if following is None else activations[place + 1]
        bands = _pyramid(pyramid, reduced, last, activations[place], passed, None if place else first, workspace)
        if following is None:
            for _ in bands:
                pass
        else:
            reduced = _thin(workspace, (place + 1) % 2, following, reduced.rows, reduced.width)
            reduce = Convolution(following.c1.conv.weight, to_thin=True)
            for start, band in bands:
                reduced.put(start, reduce(band))
    return first, last


def _pyramid(
    pyramid: Pyramid,
    reduced: Map,
    passed: Map,
    own: Activation,
    following: Activation,
    out: Map | None,
    workspace: Workspace,
) -> Iterator[tuple[int, Array]]:
    """First rows and bands of what a pyramid gives, from its reduced map; they stay in `out`, where there is one.

    `passed` comes as `kernels.fusing` says, and goes so.
    """
    branches = [
        (conv.dilation[0], Convolution(conv.weight, dilation=conv.dilation[0], margin=_REACH))
        for conv in pyramid.branches
    ]
    columns = tuple(conv.column for _, conv in branches)
    fuse = kernels.fusing(branches[0][1].outputs, branches[1][1].outputs)
    for start, stop in _bands(reduced.rows, reduced.width * pyramid.outputs, workspace):
        shape = stop - start, reduced.width, pyramid.outputs
        band = out.take(start, stop) if out else workspace.array("band", *shape)
        maps = tuple(conv(reduced.take(start - reach, stop + reach)) for reach, conv in branches)
        vectors = own.scale, own.slope, following.scale, following.shift
        fuse(maps, columns, passed.take(start, stop), *vectors, band)
        yield start, band


class _Join:
    """Maps joined, normalised and leaked, some rows at a time."""

    def __init__(self, norm: NormAct, *maps: Map) -> None:
        self.channels = sum(each.channels for each in maps)
        self._maps = maps
        self._parts = Activation.of(norm.bn, norm.act).split(*np.cumsum([each.channels for each in maps])[:-1])

    def __call__(self, start: int, stop: int, workspace: Workspace) -> Array:
        """(stop - start, W, C), until the workspace's next band."""
        band = workspace.array("band", stop - start, self._maps[0].width, self.channels)
        at = 0
        for part, each in zip(self._parts, self._maps, strict=True):
            part(each.take(start, stop), band, at)
            at += each.channels
        return band


def _combine(fusion: nn.Module, joined: Map, workspace: Workspace) -> Map:
    """2C channels to C at stride 4."""
    classes, rows, width = joined.channels // 2, joined.rows, joined.width
    out = Map(workspace, "combined", rows, width, classes)
    if isinstance(fusion, ConvNormAct):
        convolve, activate = Convolution(fusion.conv.weight), Activation.of(fusion.bn, fusion.act)
        for start, stop in _bands(rows, width * joined.channels, workspace):
            activate(convolve(joined.take(start - 1, stop + 1)), out.take(start, stop))
        return out
    pyramid = cast("DilatedPyramid", fusion)
    reduced, reduce = _thin(workspace, 0, pyramid, rows, width), Convolution(pyramid.c1.conv.weight, to_thin=True)
    for start, stop in _bands(rows, width * joined.channels, workspace):
        reduced.put(start, reduce(joined.take(start, stop)))
    activate, passed = _activation(pyramid), Map(workspace, "passed", rows, width, classes)
    activate.fill(passed.take(0, rows))
    for _ in _pyramid(pyramid, reduced, passed, activate, Activation.none(classes), out, workspace):
        pass
    return out


def _decode(network: EspNet, detail: Map, up: Map, workspace: Workspace) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Logits, band by band, from the detail at stride 2 and the map at stride 4."""
    classes, skip, width = up.channels, detail.channels, detail.width
    double, norm = Doubling(cast("nn.ConvTranspose2d", network.up_l2[0])), cast("NormAct", network.up_l2[1])
    activate, keep = Activation.of(norm.bn, norm.act), Activation.none(skip)
    convolve, last = Convolution(network.conv.conv.weight), Activation.of(network.conv.bn, network.conv.act)
    weight = network.classifier.weight.permute(2, 3, 1, 0).float().contiguous().numpy()
    for start, stop in _bands(up.rows, 2 * (skip + classes) * width, workspace):
        rows = 2 * start - 1, 2 * stop + 1
        wide = workspace.array("band", rows[1] - rows[0], width, classes + skip)
        activate.unfold(double(up.take(start - 1, stop + 1)), 1, wide)
        keep(detail.take(*rows), wide, at=classes)
        if start == 0:
            wide[0] = 0
        if stop == up.rows:
            wide[-1] = 0
        logits = np.empty((classes, 4 * (stop - start), 2 * width), np.float32)
        kernels.classify(convolve(wide), last.scale, last.shift, last.slope, weight, logits)
        yield 4 * start, logits


def _activation(pyramid: Pyramid) -> Activation:
    if isinstance(pyramid, StridedPyramid):
        return Activation.of(pyramid.bn, pyramid.act)
    norm = cast("DilatedPyramid", pyramid).bn
    return Activation.of(norm.bn, norm.act)


def _thin(workspace: Workspace, number: int, pyramid: Pyramid, rows: int, width: int) -> Map:
    """A pyramid's reduced map, as `layers.Convolution` wants it."""
    weight = pyramid.c1.conv.weight
    channels = thin_channels(len(weight), weight.dtype)
    return Map(workspace, f"thin {number}", rows, width, channels, margin=_REACH)


def _bands(rows: int, values: int, workspace: Workspace) -> Iterator[tuple[int, int]]:
    """Rows cut into bands of about `BAND_BYTES`, where one row has `values`."""
    step = max(4, BAND_BYTES // (values * workspace.dtype.itemsize))
    for start in range(0, rows, step):
        yield start, min(start + step, rows)
