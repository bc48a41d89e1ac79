"""ESPNet's layers as bands of rows go through them on the CPU: what torch computes, in loops that suit one core.

Maps are (1, C, rows, W) in memory order rows, W, C. Many of torch's loops take the channels of one px at a time, which
costs several times what is computed where there are 3 or 19 of them. Times are of one core with AVX2.
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wsi_espnet.models.espnet import EspNet

_VECTOR = 8
"""Values of fp32 that AVX2 takes at a time."""


def in_precision(network: EspNet, dtype: torch.dtype) -> EspNet:
    """A copy whose maps are `dtype`: so are all weights but those of normalisation, rounded where they are applied."""
    network = copy.deepcopy(network)
    for module in network.modules():
        if not isinstance(module, nn.BatchNorm2d):
            for weight in module.parameters(recurse=False):
                weight.data = weight.data.to(dtype)
    return network


class Convolution:
    """A convolution of rows that bring those above and below with them.

    A thin map, which pyramids are dilated over, has columns of zeros of its own and an even number of channels, an odd
    one being followed by zeros: without the columns AMX takes up to five times as long, with 25 channels half as long
    again as with 26.

    Parameters
    ----------
    conv
        Its weights.
    margin
        The columns to the left and right, where rows come from a thin map; None pads what is not one.
    to_thin
        Whether rows go to a thin map.
    """

    def __init__(self, conv: nn.Conv2d, *, margin: int | None = None, to_thin: bool = False) -> None:
        self._conv = conv
        self._outputs = _even(conv.out_channels) if to_thin else conv.out_channels
        # In fp32 channels of zeros fill up vectors: without them 25 outputs take up to 1.3 times as long as 32. In
        # bf16 that gains nothing, and dense maps are joined sooner.
        outputs = -(-self._outputs // _VECTOR) * _VECTOR if conv.weight.dtype == torch.float32 else self._outputs
        inputs = conv.in_channels if margin is None else _even(conv.in_channels)
        weight = F.pad(conv.weight, (0, 0, 0, 0, 0, inputs - conv.in_channels, 0, outputs - conv.out_channels))
        self._weight = weight.contiguous(memory_format=torch.channels_last)  # or each call makes it so
        reach = int(conv.padding[1])
        self._padding, self._surplus = (reach, 0) if margin is None else (0, margin - reach)

    def __call__(self, x: Tensor) -> Tensor:
        """(1, inputs, rows, W) to (1, outputs, fewer rows, W / stride), dense or a view."""
        return self.filled(x)[:, : self._outputs]

    def filled(self, x: Tensor) -> Tensor:
        """The same with the channels of zeros that fill up vectors."""
        conv = self._conv
        if conv.kernel_size == (1, 1):
            # As images of one row each: a single image in fp32 torch multiplies by MKL, which on an AMD core with
            # AVX-512 makes a window take 1.13 times as long.
            return F.conv2d(x.transpose(0, 2), self._weight).transpose(0, 2)
        y = F.conv2d(x, self._weight, stride=conv.stride, padding=(0, self._padding), dilation=conv.dilation)
        return y[..., self._surplus : y.shape[3] - self._surplus]


def _even(channels: int) -> int:
    return channels + channels % 2


class Normalisation:
    """x * scale + shift for each channel, in one loop along a row."""

    def __init__(self, scale: Tensor, shift: Tensor, width: int) -> None:
        self._scale, self._shift = scale.repeat(width), shift.repeat(width)

    def __call__(self, rows: Tensor, *, out: Tensor | None = None) -> Tensor:
        """(rows, W * C) to the same shape: to `out`, or in place."""
        return torch.addcmul(self._shift, rows, self._scale, out=rows if out is None else out)

    def scale_and_add(self, rows: Tensor, added: Tensor) -> Tensor:
        """Rows, which are overwritten, times scale, plus what is added in place of the shift."""
        return torch.addcmul(added, rows, self._scale, out=rows)


class Activation:
    """Batch normalisation and PReLU of maps of one width.

    3 channels take a twentieth of the time that torch's layers do, 19 a quarter, 64 to 256 half to three fifths.
    """

    def __init__(self, bn: nn.BatchNorm2d, act: nn.PReLU, width: int) -> None:
        assert bn.running_mean is not None
        assert bn.running_var is not None
        scale = bn.weight / torch.sqrt(bn.running_var + bn.eps)
        shift, dtype = bn.bias - bn.running_mean * scale, act.weight.dtype
        self._normalise = Normalisation(scale.to(dtype), shift.to(dtype), width)
        self._slope = act.weight.repeat(width)

    def __call__(self, x: Tensor, *, added: Tensor | None = None) -> Tensor:
        """(1, C, rows, W), which may be overwritten, to the same shape.

        `added` is what `normalise` gave for a map that is to be added to `x` before all: that saves a pass.
        """
        rows = as_rows(x)
        rows = self._normalise(rows) if added is None else self._normalise.scale_and_add(rows, as_rows(added))
        return as_map(F.prelu(rows, self._slope), x.shape[1])

    def normalise(self, x: Tensor, *, out: Tensor) -> None:
        """Batch normalisation alone, of (1, C, rows, W), written to `out` of the same shape, whose rows are dense."""
        rows = out.permute(0, 2, 3, 1).view(out.shape[2], -1)
        self._normalise(as_rows(x), out=rows)


class Average:
    """The mean of 3 x 3 px at stride 2, of three channels: a convolution takes a tenth of the time of `avg_pool2d`."""

    def __init__(self, dtype: torch.dtype) -> None:
        self._weight = torch.zeros(_VECTOR, 3, 3, 3, dtype=dtype)
        self._weight[range(3), range(3)] = 1 / 9

    def __call__(self, x: Tensor) -> Tensor:
        """(1, 3, rows, W), with the row above, to a view (1, 3, rows / 2, W / 2)."""
        return F.conv2d(x, self._weight, stride=2, padding=(0, 1))[:, :3]


def double(x: Tensor, conv: nn.ConvTranspose2d) -> Tensor:
    """A transposed convolution of 2 x 2 at stride 2, as a product of matrices: (1, C, rows, W) to twice the sides.

    Little more than half the time for 3 channels, nine tenths for 11; nothing is gained with 20.
    """
    rows, width, outputs = x.shape[2], x.shape[3], conv.out_channels
    weight = conv.weight.permute(2, 3, 1, 0).reshape(4 * outputs, -1)
    fours = F.linear(x.permute(0, 2, 3, 1), weight).view(rows, width, 2, 2, outputs)
    return as_map(fours.transpose(1, 2).reshape(2 * rows, -1), outputs)


def as_rows(x: Tensor) -> Tensor:
    """(rows, W * C) of a map (1, C, rows, W): a view, or a copy of a map that is part of another's channels."""
    return x.permute(0, 2, 3, 1).reshape(x.shape[2], -1)


def as_map(rows: Tensor, channels: int) -> Tensor:
    """View (1, C, rows, W) of (rows, W * C)."""
    return rows.view(1, len(rows), -1, channels).permute(0, 3, 1, 2)
