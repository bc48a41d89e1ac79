"""U-Net, the yardstick: what a network of a hundred times as many parameters makes of the same data.

Ronneberger et al. 2015 (arXiv 1505.04597), figure 1, with what has become usual since: convolutions keep the size, and
are followed by batch normalisation.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wsi_espnet.models.full_size import FullSizeNet
from wsi_espnet.models.network_config import UNetConfig


class DoubleConv(nn.Sequential):
    """Two 3x3 convolutions, each with batch normalisation and ReLU."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        layers: list[nn.Module] = []
        for channels in (channels_in, channels_out):
            layers += [
                nn.Conv2d(channels, channels_out, 3, padding=1, bias=False),
                nn.BatchNorm2d(channels_out),
                nn.ReLU(inplace=True),
            ]
        super().__init__(*layers)


class Up(nn.Module):
    """Doubles the sides, and joins what the way down saw at that size."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.enlarge = nn.ConvTranspose2d(channels_in, channels_out, 2, stride=2)
        self.join = DoubleConv(2 * channels_out, channels_out)

    def forward(self, x: Tensor, seen: Tensor) -> Tensor:
        """(B, Cin, H, W) and (B, Cout, 2H, 2W) -> (B, Cout, 2H, 2W)."""
        joined: Tensor = self.join(torch.cat([seen, self.enlarge(x)], dim=1))
        return joined


class UNet(FullSizeNet):
    """Five levels of `width`, 2, 4, 8 and 16 times as many channels; 31.0 M parameters at a width of 64."""

    multiple = 16

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        widths = [config.width * 2**level for level in range(5)]
        self.first = DoubleConv(3, widths[0])
        self.down = nn.ModuleList(DoubleConv(a, b) for a, b in pairwise(widths))
        self.up = nn.ModuleList(Up(b, a) for a, b in reversed(list(pairwise(widths))))
        self.classifier = nn.Conv2d(widths[0], config.classes, 1)

    def logits(self, x: Tensor) -> Tensor:
        """(B, 3, H, W), sides multiples of 16 -> (B, C, H, W)."""
        seen = [self.first(x)]
        for down in self.down:
            seen.append(down(F.max_pool2d(seen[-1], 2)))
        y = seen.pop()  # (B, 16 width, H/16, W/16)
        for up in self.up:
            y = up(y, seen.pop())
        return self.classifier(y)  # type: ignore[no-any-return]
