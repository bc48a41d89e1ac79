"""ESPNet over a large window in bands of rows: the maps that a pass needs only for a moment are never whole.

A window of 2944 px has maps of up to 280 MiB. Band by band they stay in the processor's cache and on the heap, and
only what a later layer still asks for is kept. Hardly a row is computed twice: a pyramid is dilated over its reduced
map, which is thin and kept whole, and elsewhere two bands share one row.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wsi_espnet.inference.layers import Activation, Average, Convolution, Normalisation, as_map, double
from wsi_espnet.models.espnet import DILATIONS, DilatedPyramid, EspNet, NormAct, StridedPyramid

BAND_BYTES = 4 << 20
"""Of the widest map in one band. Of half of it threads wait more often for each other, as Python is in every step."""

_REACH = max(DILATIONS)


class Workspace:
    """Memory for the maps of one window after the other; two windows at once need two.

    Fresh memory costs about as much as what is computed into it: the system clears every page that it lends.
    """

    def __init__(self) -> None:
        self._blocks: dict[str, Tensor] = {}

    def block(self, name: str, count: int, dtype: torch.dtype) -> Tensor:
        """`count` values with anything in them; what an earlier caller got under that name is overwritten."""
        found = self._blocks.get(name)
        if found is None or found.numel() < count or found.dtype != dtype:
            found = None
            self._blocks.pop(name, None)  # before there is another
            found = self._blocks[name] = torch.empty(count, dtype=dtype)
        return found[:count]


class Map:
    """A map (1, C, rows, W) that is filled from top to bottom, with `_REACH` rows of zeros above and below it.

    Parameters
    ----------
    workspace, name
        Where it lies.
    rows
        Height.
    margin
        Columns of zeros to its left and right.
    """

    def __init__(self, workspace: Workspace, name: str, rows: int, *, margin: int = 0) -> None:
        self.rows = rows
        self._margin = margin
        self._workspace = workspace
        self._name = name
        self._values: Tensor | None = None

    @property
    def width(self) -> int:
        """W, once there is a band."""
        assert self._values is not None
        return self._values.shape[3] - 2 * self._margin

    def put(self, start: int, band: Tensor) -> None:
        """Write a band from row `start` on; the first one decides channels, width and dtype."""
        self.place(start, band)[:] = band

    def place(self, start: int, band: Tensor) -> Tensor:
        """Where a band from row `start` on lies, to be written by the caller; only its shape and dtype count."""
        if self._values is None:
            channels, width = band.shape[1], band.shape[3] + 2 * self._margin
            rows = self.rows + 2 * _REACH
            flat = self._workspace.block(self._name, rows * width * channels, band.dtype)
            self._values = flat.view(1, rows, width, channels).permute(0, 3, 1, 2)
            self._values[:, :, :_REACH] = 0
            self._values[:, :, -_REACH:] = 0
            self._values[..., : self._margin] = 0
            self._values[..., width - self._margin :] = 0
        columns = slice(self._margin, self._values.shape[3] - self._margin)
        return self._values[:, :, _REACH + start : _REACH + start + band.shape[2], columns]

    def take(self, start: int, stop: int) -> Tensor:
        """View of rows with their margins; -_REACH <= start < stop <= rows + _REACH."""
        assert self._values is not None
        return self._values[:, :, _REACH + start : _REACH + stop]


def run_in_bands(
    network: EspNet, window: Tensor, mean: Tensor, scale: Tensor, workspace: Workspace
) -> Iterator[tuple[int, Tensor]]:
    """Logits of a window, band by band from the top.

    Parameters
    ----------
    network
        In evaluation mode, from `in_precision`.
    window
        (H, W, 3) uint8, both sides multiples of 8, channels as the network wants them.
    mean, scale
        (3,): what the network sees is (px - mean) * scale.
    workspace
        Where maps lie until the last band.

    Yields
    ------
    row, logits
        The first row, and (1, C, rows, W) from there on; all rows in the end.
    """
    height, width = window.shape[:2]
    encoder = network.encoder
    dtype = encoder.level1.conv.weight.dtype
    detail, image, reduced = _stem(network, window, mean, scale, workspace)
    first, last = _pyramids(encoder.level2_0, encoder.level2, reduced, workspace)

    reduced, side = _thin(workspace, 0, height // 8), Map(workspace, "side", height // 4)
    activate, reduce = (
        Activation(encoder.b2.bn, encoder.b2.act, width // 4),
        Convolution(encoder.level3_0.c1.conv, to_thin=True),
    )
    for start, stop in _bands(height // 8, 2 * 131 * (width // 4), dtype):
        above = min(1, start)
        rows = 2 * start - above, 2 * stop
        quarter = activate(torch.cat([last.take(*rows), first.take(*rows), image.take(*rows)], dim=1))
        side.put(2 * start, network.level3_C(quarter[:, :, above:]))
        reduced.put(start, reduce(_with_zeros(quarter, 1 - above)))

    first, last = _pyramids(encoder.level3_0, encoder.level3, reduced, workspace)
    coarse = Map(workspace, "coarse", height // 8)
    activate = Activation(encoder.b3.bn, encoder.b3.act, width // 8)
    for start, stop in _bands(height // 8, 256 * (width // 8), dtype):
        eighth = activate(torch.cat([first.take(start, stop), last.take(start, stop)], dim=1))
        coarse.put(start, encoder.classifier(eighth))

    up = double(network.br(coarse.take(0, coarse.rows)), cast("nn.ConvTranspose2d", network.up_l3[0]))
    up = network.combine_l2_l3(torch.cat([side.take(0, side.rows), up], dim=1))  # (1, C, H/4, W/4)
    yield from _decode(network, detail, up)


def _stem(network: EspNet, window: Tensor, mean: Tensor, scale: Tensor, workspace: Workspace) -> tuple[Map, Map, Map]:
    """Detail at stride 2, the image at stride 4, and the first pyramid's reduced map there."""
    height, width = window.shape[:2]
    encoder = network.encoder
    detail = Map(workspace, "detail", height // 2)
    image = Map(workspace, "image", height // 4)
    reduced = _thin(workspace, 0, height // 4)
    dtype = encoder.level1.conv.weight.dtype
    normalise, average = Normalisation(scale, -mean * scale, width), Average(dtype)
    convolve, reduce = Convolution(encoder.level1.conv), Convolution(encoder.level2_0.c1.conv, to_thin=True)
    activate, activate_both = (Activation(layer.bn, layer.act, width // 2) for layer in (encoder.level1, encoder.b1))
    for start, stop in _bands(height // 4, 2 * 19 * (width // 2), torch.float32):
        above = min(1, start)
        top = 4 * start - 3 * above  # the row above a band of half the size needs three of the image
        px = as_map(normalise(window[top : 4 * stop].reshape(-1, width * 3).float()), 3).to(dtype)
        px = _with_zeros(px, 1 - above)
        raw = activate(convolve(px))
        image_half = average(px)
        half = activate_both(torch.cat([raw, image_half], dim=1))
        detail.put(2 * start, (raw if encoder.skip == 16 else half)[:, :, above:])
        image.put(start, average(_with_zeros(image_half, 1 - above)))
        reduced.put(start, reduce(_with_zeros(half, 1 - above)))
    return detail, image, reduced


def _pyramids(head: StridedPyramid, behind: nn.ModuleList, reduced: Map, workspace: Workspace) -> tuple[Map, Map]:
    """What the strided pyramid gives, from its reduced map, and what the last of those behind it gives."""
    rows, width = reduced.rows, reduced.width
    pyramids: list[StridedPyramid | DilatedPyramid] = [head, *cast("list[DilatedPyramid]", list(behind))]
    norms = [pyramid if isinstance(pyramid, StridedPyramid) else pyramid.bn for pyramid in pyramids]
    activations = [Activation(norm.bn, norm.act, width) for norm in norms]
    reduces = [Convolution(pyramid.c1.conv, to_thin=True) for pyramid in pyramids[1:]]
    first, last = Map(workspace, "first", rows), Map(workspace, "last", rows)
    for place, (pyramid, activate) in enumerate(zip(pyramids, activations, strict=True)):
        branches = [(conv.dilation[0], Convolution(conv, margin=_REACH)) for conv in pyramid.branches]
        widths = [conv.out_channels for conv in pyramid.branches]
        thin = _thin(workspace, 1 - place % 2, rows)
        for start, stop in _bands(rows, width * pyramid.outputs, head.c1.conv.weight.dtype):
            fused = _fuse([conv.filled(reduced.take(start - reach, stop + reach)) for reach, conv in branches], widths)
            band = activate(fused, added=last.take(start, stop) if place else None)
            if place == 0:
                first.put(start, band)
            if place == len(behind):
                last.put(start, band)
            else:  # what the next pyramid adds, as its normalisation wants it: bands are replaced in place
                activations[place + 1].normalise(band, out=last.place(start, band))
                thin.put(start, reduces[place](band))
        reduced = thin
    return first, last


def _thin(workspace: Workspace, number: int, rows: int) -> Map:
    """A map for dilated convolutions, as `layers.Convolution` wants it."""
    return Map(workspace, f"thin {number}", rows, margin=_REACH)


def _fuse(branches: list[Tensor], widths: list[int]) -> Tensor:
    """Rows of `Pyramid.fused`, from its branches: the first as it is, then sums of the second, third, ... so far.

    Branches may be views, and may come with the channels of zeros that fill them up (`Convolution.filled`); `widths` of
    their channels are their own. Dense maps are joined in half the time that views take, and sums are dense.
    """
    dense = [branch.contiguous(memory_format=torch.channels_last) for branch in branches[:2]]
    for branch in branches[2:]:
        dense.append(dense[-1] + branch)
    return torch.cat([branch[:, :width] for branch, width in zip(dense, widths, strict=True)], dim=1)


def _decode(network: EspNet, detail: Map, up: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Logits, band by band, from the detail at stride 2 and the map at stride 4."""
    height, width = up.shape[2:]
    conv = network.conv
    upscale, norm = cast("tuple[nn.ConvTranspose2d, NormAct]", tuple(network.up_l2))
    convolve = Convolution(conv.conv)
    activate, activate_up = (Activation(layer.bn, layer.act, 2 * width) for layer in (conv, norm))
    for start, stop in _bands(height, 2 * (conv.conv.in_channels + 16) * 2 * width, up.dtype):
        above, below = min(1, start), min(1, height - stop)
        wide = activate_up(double(up[:, :, start - above : stop + below], upscale))
        wide = wide[:, :, above : wide.shape[2] - below]  # one row of the two that a row of the map gives
        wide = torch.cat([wide, detail.take(2 * start - above, 2 * stop + below)], dim=1)
        wide = activate(convolve(_with_zeros(wide, 1 - above, 1 - below)))
        yield 4 * start, double(wide, network.classifier)


def _with_zeros(x: Tensor, above: int, below: int = 0) -> Tensor:
    """Rows of zeros beyond a map's top and bottom; `x` itself, not copied, where there are none to add."""
    return F.pad(x, (0, 0, above, below)) if above or below else x


def _bands(rows: int, values: int, dtype: torch.dtype) -> Iterator[tuple[int, int]]:
    """Rows cut into bands of about `BAND_BYTES`, where one row has `values`."""
    step = max(4, BAND_BYTES // (values * dtype.itemsize))
    for start in range(0, rows, step):
        yield start, min(start + step, rows)
