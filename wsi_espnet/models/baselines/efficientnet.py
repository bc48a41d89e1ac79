"""EfficientNet-Lite with a decoder: a teacher, whose encoder may start from weights that know ImageNet.

The encoder is EfficientNet (Tan and Le 2019, arXiv 1905.11946, table 1 and section 3.3) as tensorflow/tpu
(`models/official/efficientnet/lite`) makes it light: no squeeze-and-excitation, ReLU6, and the first and the last stage
as well as the stem keep their size in all variants. Its parts bear the names by which
lukemelas/EfficientNet-PyTorch stores them. The decoder is ours: at each doubling one convolution over what comes from
below and what the encoder saw at that size.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wsi_espnet.models.full_size import FullSizeNet
from wsi_espnet.models.network_config import EfficientNetConfig

WIDTH_DEPTH = ((1.0, 1.0), (1.0, 1.1), (1.1, 1.2), (1.2, 1.4), (1.4, 1.8))
"""What channels and blocks of Lite0 to Lite4 are multiplied by."""

STAGES = ((1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80), (3, 5, 1, 6, 112), (4, 5, 2, 6, 192),
          (1, 3, 1, 6, 320))  # fmt: skip
"""Blocks, kernel, stride of the first block, expansion, channels."""

STEM = 32

SEEN_AFTER = (0, 1, 2, 4, 6)
"""Stages whose maps the decoder is given: the last at strides 2, 4, 8, 16 and 32."""

DECODED = (32, 48, 64, 128)
"""Channels of the decoder at strides 2, 4, 8 and 16."""


def scaled_channels(channels: int, width: float) -> int:
    """To the nearest multiple of 8, but never less than nine tenths.

    Examples
    --------
    >>> [scaled_channels(c, 1.1) for c in (16, 24, 112)]
    [16, 24, 120]
    """
    rounded = max(8, int(channels * width + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * channels * width else rounded + 8


class Halving(nn.Conv2d):
    """A convolution of stride 2 over even sides; the odd px of padding goes below and right, as in TensorFlow."""

    def __init__(self, channels_in: int, channels_out: int, kernel: int, *, groups: int = 1) -> None:
        super().__init__(channels_in, channels_out, kernel, stride=2, groups=groups, bias=False)
        before, after = (kernel - 2) // 2, (kernel - 1) // 2
        self.margins = (before, after, before, after)

    def forward(self, x: Tensor) -> Tensor:
        """(B, Cin, H, W) -> (B, Cout, H / 2, W / 2)."""
        return super().forward(F.pad(x, self.margins))


def depthwise(channels: int, *, kernel: int, stride: int) -> nn.Conv2d:
    """Filters each channel for itself; stride 1 or 2."""
    if stride == 2:
        return Halving(channels, channels, kernel, groups=channels)
    return nn.Conv2d(channels, channels, kernel, padding=kernel // 2, groups=channels, bias=False)


class Block(nn.Module):
    """A mobile inverted bottleneck: widened by a 1x1 convolution, filtered by channel, narrowed; with a residual."""

    def __init__(self, channels_in: int, channels_out: int, *, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = channels_in * expansion
        self.residual = stride == 1 and channels_in == channels_out
        if expansion > 1:
            self._expand_conv = nn.Conv2d(channels_in, wide, 1, bias=False)
            self._bn0 = normalisation(wide)
        self.expands = expansion > 1
        self._depthwise_conv = depthwise(wide, kernel=kernel, stride=stride)
        self._bn1 = normalisation(wide)
        self._project_conv = nn.Conv2d(wide, channels_out, 1, bias=False)
        self._bn2 = normalisation(channels_out)

    def forward(self, x: Tensor) -> Tensor:
        """(B, Cin, H, W) -> (B, Cout, H / stride, W / stride)."""
        y = F.relu6(self._bn0(self._expand_conv(x)), inplace=True) if self.expands else x
        y = F.relu6(self._bn1(self._depthwise_conv(y)), inplace=True)
        narrow: Tensor = self._bn2(self._project_conv(y))
        return x + narrow if self.residual else narrow


def normalisation(channels: int) -> nn.BatchNorm2d:
    """Batch normalisation with the epsilon of the stored weights."""
    return nn.BatchNorm2d(channels, eps=1e-3)


class EfficientNet(FullSizeNet):
    """EfficientNet-Lite up to its last stage, and a decoder of about half as many operations."""

    multiple = 32

    def __init__(self, config: EfficientNetConfig) -> None:
        super().__init__()
        width, depth = WIDTH_DEPTH[config.size]
        self._conv_stem = Halving(3, STEM, 3)
        self._bn0 = normalisation(STEM)
        self._blocks = nn.ModuleList()
        self.seen_after: list[int] = []
        """Indices of the blocks whose maps the decoder is given."""
        widths, channels_in = [], STEM
        for stage, (blocks, kernel, stride, expansion, channels) in enumerate(STAGES):
            channels_out = scaled_channels(channels, width)
            first_or_last = stage in (0, len(STAGES) - 1)
            for index in range(blocks if first_or_last else math.ceil(blocks * depth)):
                first = index == 0
                self._blocks.append(
                    Block(
                        channels_in if first else channels_out,
                        channels_out,
                        kernel=kernel,
                        stride=stride if first else 1,
                        expansion=expansion,
                    )
                )
            channels_in = channels_out
            if stage in SEEN_AFTER:
                self.seen_after.append(len(self._blocks) - 1)
                widths.append(channels_out)
        below = widths.pop()
        self.join = nn.ModuleList()
        for seen, channels_out in zip(reversed(widths), reversed(DECODED), strict=True):
            self.join.append(
                nn.Sequential(
                    nn.Conv2d(below + seen, channels_out, 3, padding=1, bias=False),
                    nn.BatchNorm2d(channels_out),
                    nn.ReLU(inplace=True),
                )
            )
            below = channels_out
        self.classifier = nn.Conv2d(below, config.classes, 1)

    def seen(self, x: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> what the encoder sees at strides 2, 4, 8, 16 and 32."""
        maps = []
        y = F.relu6(self._bn0(self._conv_stem(x)), inplace=True)
        for index, block in enumerate(self._blocks):
            y = block(y)
            if index in self.seen_after:
                maps.append(y)
        return maps

    def logits(self, x: Tensor) -> Tensor:
        """(B, 3, H, W), sides multiples of 32 -> (B, C, H, W)."""
        *maps, y = self.seen(x)
        for join, seen in zip(self.join, reversed(maps), strict=True):
            enlarged = F.interpolate(y, seen.shape[-2:], mode="bilinear", align_corners=False)
            y = join(torch.cat([enlarged, seen], dim=1))
        return F.interpolate(self.classifier(y), scale_factor=2.0, mode="bilinear", align_corners=False)
