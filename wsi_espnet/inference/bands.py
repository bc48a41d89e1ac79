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

from wsi_espnet.models.espnet import DILATIONS, DilatedPyramid, EspNet, StridedPyramid

BAND_VALUES = 1 << 20
"""Values of the widest map in one band: 4 MiB in fp32."""

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
    """

    def __init__(self, workspace: Workspace, name: str, rows: int) -> None:
        self.rows = rows
        self._workspace = workspace
        self._name = name
        self._values: Tensor | None = None

    @property
    def width(self) -> int:
        """W, once there is a band."""
        assert self._values is not None
        return self._values.shape[3]

    def put(self, start: int, band: Tensor) -> None:
        """Write a band from row `start` on; the first one decides channels, width and dtype."""
        if self._values is None:
            channels, width = band.shape[1], band.shape[3]
            rows = self.rows + 2 * _REACH
            flat = self._workspace.block(self._name, rows * width * channels, band.dtype)
            self._values = flat.view(1, rows, width, channels).permute(0, 3, 1, 2)
            self._values[:, :, :_REACH] = 0
            self._values[:, :, -_REACH:] = 0
        self._values[:, :, _REACH + start : _REACH + start + band.shape[2]] = band

    def take(self, start: int, stop: int) -> Tensor:
        """View of rows; -_REACH <= start < stop <= rows + _REACH."""
        assert self._values is not None
        return self._values[:, :, _REACH + start : _REACH + stop]


def run_in_bands(
    network: EspNet, window: Tensor, mean: Tensor, scale: Tensor, workspace: Workspace
) -> Iterator[tuple[int, Tensor]]:
    """Logits of a window, band by band from the top.

    Parameters
    ----------
    network
        In evaluation mode.
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
    detail, image, reduced = _stem(network, window, mean, scale, workspace)
    first, last = _pyramids(encoder.level2_0, encoder.level2, reduced, workspace)

    reduced, side = Map(workspace, "thin 0", height // 8), Map(workspace, "side", height // 4)
    for start, stop in _bands(height // 8, 2 * 131 * (width // 4)):
        above = min(1, start)
        rows = 2 * start - above, 2 * stop
        quarter = encoder.b2(torch.cat([last.take(*rows), first.take(*rows), image.take(*rows)], dim=1))
        side.put(2 * start, network.level3_C(quarter[:, :, above:]))
        reduced.put(start, _halved(encoder.level3_0.c1.conv, quarter, above))

    first, last = _pyramids(encoder.level3_0, encoder.level3, reduced, workspace)
    coarse = Map(workspace, "coarse", height // 8)
    for start, stop in _bands(height // 8, 256 * (width // 8)):
        eighth = encoder.b3(torch.cat([first.take(start, stop), last.take(start, stop)], dim=1))
        coarse.put(start, encoder.classifier(eighth))

    up = network.up_l3(network.br(coarse.take(0, coarse.rows)))
    up = network.combine_l2_l3(torch.cat([side.take(0, side.rows), up], dim=1))  # (1, C, H/4, W/4)
    conv = network.conv
    for start, stop in _bands(height // 4, 2 * (conv.conv.in_channels + 16) * (width // 2)):
        above, below = min(1, start), min(1, height // 4 - stop)
        wide = network.up_l2(up[:, :, start - above : stop + below])
        wide = wide[:, :, above : wide.shape[2] - below]  # one row of the two that a row of the map gives
        wide = torch.cat([wide, detail.take(2 * start - above, 2 * stop + below)], dim=1)
        wide = F.conv2d(_with_zeros(wide, 1 - above, 1 - below), conv.conv.weight, padding=(0, 1))
        yield 4 * start, network.classifier(conv.act(conv.bn(wide)))


def _stem(network: EspNet, window: Tensor, mean: Tensor, scale: Tensor, workspace: Workspace) -> tuple[Map, Map, Map]:
    """Detail at stride 2, the image at stride 4, and the first pyramid's reduced map there."""
    height, width = window.shape[:2]
    encoder = network.encoder
    level1 = encoder.level1
    detail = Map(workspace, "detail", height // 2)
    image = Map(workspace, "image", height // 4)
    reduced = Map(workspace, "thin 0", height // 4)
    for start, stop in _bands(height // 4, 2 * 19 * (width // 2)):
        above = min(1, start)
        top = 4 * start - 3 * above  # the row above a band of half the size needs three of the image
        px = ((window[None, top : 4 * stop].float() - mean) * scale).permute(0, 3, 1, 2)
        px = _with_zeros(px, 1 - above)
        raw = level1.act(level1.bn(F.conv2d(px, level1.conv.weight, stride=2, padding=(0, 1))))
        image_half = F.avg_pool2d(px, 3, stride=2, padding=(0, 1))
        half = encoder.b1(torch.cat([raw, image_half], dim=1))
        detail.put(2 * start, (raw if encoder.skip == 16 else half)[:, :, above:])
        image.put(start, F.avg_pool2d(_with_zeros(image_half, 1 - above), 3, stride=2, padding=(0, 1)))
        reduced.put(start, _halved(encoder.level2_0.c1.conv, half, above))
    return detail, image, reduced


def _halved(conv: nn.Conv2d, x: Tensor, above: int) -> Tensor:
    """A 3 x 3 convolution at stride 2; `x` begins with the row above its first output row, or at the map's top."""
    return _convolve(_with_zeros(x, 1 - above), conv, padding=(0, 1))[:, : conv.out_channels]


def _pyramids(head: StridedPyramid, behind: nn.ModuleList, reduced: Map, workspace: Workspace) -> tuple[Map, Map]:
    """What the strided pyramid gives, from its reduced map, and what the last of those behind it gives."""
    first = last = Map(workspace, "first", reduced.rows)
    pyramids: list[StridedPyramid | DilatedPyramid] = [head, *cast("list[DilatedPyramid]", list(behind))]
    for place, pyramid in enumerate(pyramids):
        following = pyramids[place + 1] if place < len(behind) else None
        source, thin = last, Map(workspace, f"thin {1 - place % 2}", reduced.rows)
        if place == 1:  # from the second on, bands are replaced in place
            last = Map(workspace, "last", reduced.rows)
        for start, stop in _bands(reduced.rows, reduced.width * pyramid.outputs):
            fused = _fused(pyramid, reduced, start, stop)
            if place:
                fused.add_(source.take(start, stop))
            band = pyramid.activate(fused)
            last.put(start, band)
            if following is not None:
                thin.put(start, _convolve(band, following.c1.conv)[:, : following.c1.conv.out_channels])
        reduced = thin
    return first, last


def _fused(pyramid: StridedPyramid | DilatedPyramid, reduced: Map, start: int, stop: int) -> Tensor:
    """Rows of `Pyramid.fused`, from the reduced map; no one else holds it."""
    first, *others = pyramid.branches
    filled = first.out_channels
    branch = _dilated(first, reduced, start, stop)
    fused = branch.new_empty((1, stop - start, reduced.width, pyramid.outputs)).permute(0, 3, 1, 2)
    fused[:, :filled] = branch[:, :filled]
    total: Tensor | None = None
    for conv in others:
        branch = _dilated(conv, reduced, start, stop)
        total = branch if total is None else total.add_(branch)
        fused[:, filled : filled + conv.out_channels] = total[:, : conv.out_channels]
        filled += conv.out_channels
    return fused


def _dilated(conv: nn.Conv2d, reduced: Map, start: int, stop: int) -> Tensor:
    reach = conv.dilation[0]
    return _convolve(reduced.take(start - reach, stop + reach), conv, padding=(0, reach))


def _convolve(x: Tensor, conv: nn.Conv2d, *, padding: tuple[int, int] = (0, 0)) -> Tensor:
    """A convolution with other padding than its own; channels of zeros behind its own fill up to a multiple of 16.

    On AVX2, oneDNN is slow where outputs do not fill its vectors: 25 take 1.3 times as long as 32, 12 a third more
    than 16.
    """
    weight = F.pad(conv.weight, (0, 0) * 3 + (0, -conv.out_channels % 16))
    return F.conv2d(x, weight, stride=conv.stride, padding=padding, dilation=conv.dilation)


def _with_zeros(x: Tensor, above: int, below: int = 0) -> Tensor:
    """Rows of zeros beyond a map's top and bottom; `x` itself, not copied, where there are none to add."""
    return F.pad(x, (0, 0, above, below)) if above or below else x


def _bands(rows: int, values: int) -> Iterator[tuple[int, int]]:
    """Rows cut into bands of about `BAND_VALUES` values, where one row has `values`."""
    step = max(4, BAND_VALUES // values)
    for start in range(0, rows, step):
        yield start, min(start + step, rows)
