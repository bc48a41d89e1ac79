"""PSPNet on a dilated ResNet-101 (Zhao et al. 2017, arXiv 1612.01105): the large network of the paper's comparison.

ResNet-101 of He et al. 2016 (arXiv 1512.03385, table 1) with a stem of three 3x3 convolutions, as PSPNet's authors have
it (hszhao/semseg); its last two stages keep stride 8 and are dilated instead (section 3.1 of PSPNet).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wsi_espnet.models.full_size import FullSizeNet
from wsi_espnet.models.network_config import BaselineConfig

STEM = (64, 64, 128)
"""Channels of the three convolutions, of which the first halves the sides."""

STAGES = ((3, 64, 1, 1), (4, 128, 2, 1), (23, 256, 1, 2), (3, 512, 1, 4))
"""Blocks, inner channels, stride and dilation of each stage."""

WIDENING = 4
"""Channels that a block gives, over its inner ones."""

BINS = (1, 2, 3, 6)
"""Sides of the pyramid's maps: section 3.2."""

CONTEXT = 512
"""Channels of all of the pyramid's maps over four, and of the last convolution."""


def conv_bn(channels_in: int, channels_out: int, kernel: int, *, stride: int = 1, dilation: int = 1) -> list[nn.Module]:
    """A convolution that keeps the size but for its stride, and batch normalisation."""
    padding = kernel // 2 * dilation
    conv = nn.Conv2d(channels_in, channels_out, kernel, stride=stride, padding=padding, dilation=dilation, bias=False)
    return [conv, nn.BatchNorm2d(channels_out)]


class Block(nn.Module):
    """ResNet's bottleneck, the stride in its 3x3 convolution."""

    def __init__(self, channels_in: int, inner: int, *, stride: int, dilation: int) -> None:
        super().__init__()
        channels_out = inner * WIDENING
        self.branch = nn.Sequential(
            *conv_bn(channels_in, inner, 1),
            nn.ReLU(),
            *conv_bn(inner, inner, 3, stride=stride, dilation=dilation),
            nn.ReLU(),
            *conv_bn(inner, channels_out, 1),
        )
        same = stride == 1 and channels_in == channels_out
        self.shortcut = nn.Identity() if same else nn.Sequential(*conv_bn(channels_in, channels_out, 1, stride=stride))

    def forward(self, x: Tensor) -> Tensor:
        """(B, Cin, H, W) -> (B, 4 inner, H / stride, W / stride)."""
        return F.relu(self.shortcut(x) + self.branch(x))


class PSPNet(FullSizeNet):
    """What lies in the whole image, its quarters, ninths and thirty-sixths, beside each px: 65.7 M parameters.

    An image's logits depend on all of it, and training needs two images at a time: the smallest map holds one value
    per channel and image, which alone cannot be normalised.
    """

    def __init__(self, config: BaselineConfig) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for index, channels_out in enumerate(STEM):
            layers += [*conv_bn(channels, channels_out, 3, stride=1 if index else 2), nn.ReLU()]
            channels = channels_out
        layers.append(nn.MaxPool2d(3, stride=2, padding=1))
        for blocks, inner, stride, dilation in STAGES:
            for index in range(blocks):
                layers.append(Block(channels, inner, stride=1 if index else stride, dilation=dilation))
                channels = inner * WIDENING
        self.encoder = nn.Sequential(*layers)
        self.pyramid = nn.ModuleList(
            nn.Sequential(nn.AdaptiveAvgPool2d(bins), *conv_bn(channels, CONTEXT, 1), nn.ReLU()) for bins in BINS
        )
        self.head = nn.Sequential(*conv_bn(channels + len(BINS) * CONTEXT, CONTEXT, 3), nn.ReLU(), nn.Dropout2d(0.1))
        self.classifier = nn.Conv2d(CONTEXT, config.classes, 1)

    def logits(self, x: Tensor) -> Tensor:
        """(B, 3, H, W), sides multiples of 8 -> (B, C, H, W)."""
        y = self.encoder(x)  # (B, 2048, H/8, W/8)
        size = y.shape[-2:]
        seen = [F.interpolate(part(y), size, mode="bilinear", align_corners=False) for part in self.pyramid]
        coarse = self.classifier(self.head(torch.cat([y, *seen], dim=1)))
        return F.interpolate(coarse, scale_factor=8.0, mode="bilinear", align_corners=False)
