"""ESP-PSP, the network of the breast-biopsy results: Y-Net's segmentation part (Mehta et al. 2018, arXiv 1806.01313).

Layers as in the authors' code (github.com/sacmehta/YNet at d851318d, `stage1/Model.py`, MIT), whose weights are not to
be had. Theirs takes 384 x 384 px and eight classes alone; here sides and classes are free, and at theirs the pyramids'
maps have their sizes. Two things are not as there: bilinear enlargement does not align corners, so that it is the same
wherever a window ends; and batch normalisation keeps torch's momentum, not 0.95, with which running means are those of
the last batches alone. The joint network, which also tells one of five diagnoses, is not here.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wsi_espnet.models.espnet import BN_EPS
from wsi_espnet.models.full_size import FullSizeNet
from wsi_espnet.models.network_config import BaselineConfig

DILATIONS = (1, 2, 4, 8)
"""K = 4 branches, and as many parts of the channels."""

POOLED = (5 / 6, 2 / 3, 1 / 2, 3 / 8)
"""Sides of a pyramid's maps over those of its input: 40, 32, 24 and 18 px of 48."""


def conv_bn_relu(channels_in: int, channels_out: int, kernel: int, *, stride: int = 1) -> nn.Sequential:
    """A convolution that keeps the size but for its stride, normalised."""
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, kernel, stride=stride, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(channels_out, eps=BN_EPS),
        nn.ReLU(inplace=True),
    )


class DilatedPyramid(nn.Module):
    """Reduced by a 3x3 convolution, four dilated convolutions of that, fused by running sums, added to what came in."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        narrow = channels // len(DILATIONS)
        self.reduce = nn.Conv2d(channels, narrow, 3, padding=1, bias=False)
        self.branches = nn.ModuleList(
            nn.Conv2d(narrow, narrow, 3, padding=dilation, dilation=dilation, bias=False) for dilation in DILATIONS
        )
        self.bn = nn.BatchNorm2d(channels, eps=BN_EPS)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> the same."""
        reduced = self.reduce(x)
        d1, d2, d4, d8 = (branch(reduced) for branch in self.branches)
        return F.relu(self.bn(x + torch.cat([d1, d2, d2 + d4, d2 + d4 + d8], dim=1)))


class Stage(nn.Module):
    """Halved, then some pyramids; both, beside each other, normalised."""

    def __init__(self, channels_in: int, channels: int, pyramids: int) -> None:
        super().__init__()
        self.halve = conv_bn_relu(channels_in, channels, 3, stride=2)
        self.pyramids = nn.Sequential(*(DilatedPyramid(channels) for _ in range(pyramids)))
        self.bn = nn.BatchNorm2d(2 * channels, eps=BN_EPS)

    def forward(self, x: Tensor) -> Tensor:
        """(B, Cin, H, W) -> (B, 2 channels, H/2, W/2)."""
        halved = self.halve(x)
        return F.relu(self.bn(torch.cat([halved, self.pyramids(halved)], dim=1)))


class PooledPyramid(nn.Module):
    """What comes in, beside four of its averages over coarser grids (the PSP block of Y-Net)."""

    def __init__(self, channels_in: int, channels: int) -> None:
        super().__init__()
        self.mixes = nn.ModuleList(conv_bn_relu(channels_in, channels, 1) for _ in POOLED)

    def forward(self, x: Tensor) -> Tensor:
        """(B, Cin, H, W) -> (B, Cin + 4 channels, H, W)."""
        h, w = x.shape[-2:]
        parts = [x]
        for share, mix in zip(POOLED, self.mixes, strict=True):
            pooled = F.adaptive_avg_pool2d(x, (max(1, round(h * share)), max(1, round(w * share))))
            parts.append(F.interpolate(mix(pooled), (h, w), mode="bilinear", align_corners=False))
        return torch.cat(parts, dim=1)


class EspPsp(FullSizeNet):
    """Pyramids of dilated convolutions down to stride 8, pyramids of averages on the way up: 2.76 M parameters."""

    def __init__(self, config: BaselineConfig) -> None:
        super().__init__()
        classes = config.classes
        self.first = conv_bn_relu(3, 16, 7, stride=2)
        self.stage1 = Stage(16, 128, pyramids=2)
        self.stage2 = Stage(256, 256, pyramids=5)
        self.context3 = PooledPyramid(512, 128)
        self.head3 = nn.Sequential(
            conv_bn_relu(1024, 128, 1), conv_bn_relu(128, classes, 3), conv_bn_relu(classes, classes, 1)
        )
        self.context2 = PooledPyramid(classes + 256, 64)
        self.head2 = nn.Sequential(conv_bn_relu(classes + 512, classes, 3), conv_bn_relu(classes, classes, 1))
        self.context1 = PooledPyramid(16 + classes, classes)
        self.head1 = conv_bn_relu(16 + 5 * classes, classes, 3)
        self.classifier = nn.Conv2d(classes, classes, 7, padding=3, bias=False)

    def logits(self, x: Tensor) -> Tensor:
        """(B, 3, H, W), sides multiples of 8 -> (B, C, H, W)."""
        half = self.first(x)  # (B, 16, H/2, W/2)
        quarter = self.stage1(half)  # (B, 256, H/4, W/4)
        eighth = self.stage2(quarter)  # (B, 512, H/8, W/8)
        up = doubled(self.head3(self.context3(eighth)))
        up = doubled(self.head2(self.context2(torch.cat([up, quarter], dim=1))))
        up = self.head1(self.context1(torch.cat([half, up], dim=1)))
        return doubled(self.classifier(up))


def doubled(x: Tensor) -> Tensor:
    """Enlarged by 2, bilinear."""
    return F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)
