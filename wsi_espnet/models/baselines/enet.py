"""ENet (Paszke et al. 2016, arXiv 1606.02147): the fastest network that the paper of ESPNet compares itself with.

Table 1 and section 4 of its paper, as the authors' code (e-lab/ENet-training) fills them in where they leave a choice:
a bottleneck's inner channels are a quarter of those it gives, and the decoder's activations have no learned leak.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wsi_espnet.models.full_size import DoublingConv, FullSizeNet
from wsi_espnet.models.network_config import BaselineConfig

Kind = Literal["plain", "asymmetric"] | int
"""What a bottleneck's middle convolution is: 3x3, 5x1 after 1x5, or 3x3 of that dilation."""

SECTION: tuple[Kind, ...] = ("plain", 2, "asymmetric", 4, "plain", 8, "asymmetric", 16)
"""The second stage after its halving, and the whole of the third: table 1."""

EARLY_DROPOUT, DROPOUT = 0.01, 0.1
"""Section 4: in the first stage, and after it."""


def norm_act(channels: int, *, leak: bool) -> nn.Sequential:
    """Batch normalisation, and PReLU or ReLU."""
    return nn.Sequential(nn.BatchNorm2d(channels), nn.PReLU(channels) if leak else nn.ReLU())


def middle(kind: Kind, channels: int) -> nn.Module:
    """The convolution between the two of 1x1."""
    if kind == "asymmetric":
        return nn.Sequential(
            nn.Conv2d(channels, channels, (5, 1), padding=(2, 0), bias=False),
            nn.Conv2d(channels, channels, (1, 5), padding=(0, 2), bias=False),
        )
    dilation = kind if isinstance(kind, int) else 1
    return nn.Conv2d(channels, channels, 3, padding=dilation, dilation=dilation, bias=False)


class Bottleneck(nn.Module):
    """Narrowed, convolved, widened, dropped out, and added to what came in."""

    def __init__(self, channels: int, kind: Kind = "plain", *, dropout: float = DROPOUT, leak: bool = True) -> None:
        super().__init__()
        inner = channels // 4
        self.branch = nn.Sequential(
            nn.Conv2d(channels, inner, 1, bias=False),
            norm_act(inner, leak=leak),
            middle(kind, inner),
            norm_act(inner, leak=leak),
            nn.Conv2d(inner, channels, 1, bias=False),
            nn.BatchNorm2d(channels),
            nn.Dropout2d(dropout),
        )
        self.act = nn.PReLU(channels) if leak else nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> the same."""
        return self.act(x + self.branch(x))  # type: ignore[no-any-return]


class Halving(nn.Module):
    """A bottleneck beside max pooling, whose places the decoder is told; new channels of the pooled are 0."""

    def __init__(self, channels_in: int, channels_out: int, *, dropout: float = DROPOUT) -> None:
        super().__init__()
        inner = channels_out // 4
        self.more = channels_out - channels_in
        self.branch = nn.Sequential(
            nn.Conv2d(channels_in, inner, 2, stride=2, bias=False),
            norm_act(inner, leak=True),
            nn.Conv2d(inner, inner, 3, padding=1, bias=False),
            norm_act(inner, leak=True),
            nn.Conv2d(inner, channels_out, 1, bias=False),
            nn.BatchNorm2d(channels_out),
            nn.Dropout2d(dropout),
        )
        self.act = nn.PReLU(channels_out)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, Cin, H, W) -> (B, Cout, H/2, W/2), and where in each plane (B, Cin, H/2, W/2) the largest was."""
        pooled, places = F.max_pool2d(x, 2, return_indices=True)
        return self.act(F.pad(pooled, (0, 0, 0, 0, 0, self.more)) + self.branch(x)), places


class Doubling(nn.Module):
    """A bottleneck beside max unpooling to the places that a halving remembers."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        inner = channels_out // 4
        self.narrow = nn.Sequential(nn.Conv2d(channels_in, channels_out, 1, bias=False), nn.BatchNorm2d(channels_out))
        self.branch = nn.Sequential(
            nn.Conv2d(channels_in, inner, 1, bias=False),
            norm_act(inner, leak=False),
            DoublingConv(inner, inner, bias=False),
            norm_act(inner, leak=False),
            nn.Conv2d(inner, channels_out, 1, bias=False),
            nn.BatchNorm2d(channels_out),
            nn.Dropout2d(DROPOUT),
        )

    def forward(self, x: Tensor, places: Tensor) -> Tensor:
        """(B, Cin, H, W) and places (B, Cout, H, W) -> (B, Cout, 2H, 2W)."""
        return F.relu(F.max_unpool2d(self.narrow(x), places, [2, 2]) + self.branch(x))


class ENet(FullSizeNet):
    """Early halving, a wide encoder and a narrow decoder: 0.37 M parameters."""

    def __init__(self, config: BaselineConfig) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 13, 3, stride=2, padding=1, bias=False)
        self.first_act = norm_act(16, leak=True)
        self.down1 = Halving(16, 64, dropout=EARLY_DROPOUT)
        self.stage1 = nn.Sequential(*(Bottleneck(64, dropout=EARLY_DROPOUT) for _ in range(4)))
        self.down2 = Halving(64, 128)
        self.stage2 = nn.Sequential(*(Bottleneck(128, kind) for kind in SECTION))
        self.stage3 = nn.Sequential(*(Bottleneck(128, kind) for kind in SECTION))
        self.up4 = Doubling(128, 64)
        self.stage4 = nn.Sequential(*(Bottleneck(64, leak=False) for _ in range(2)))
        self.up5 = Doubling(64, 16)
        self.stage5 = Bottleneck(16, leak=False)
        self.classifier = nn.ConvTranspose2d(16, config.classes, 2, stride=2, bias=False)

    def logits(self, x: Tensor) -> Tensor:
        """(B, 3, H, W), sides multiples of 8 -> (B, C, H, W)."""
        y = self.first_act(torch.cat([self.first(x), F.max_pool2d(x, 2)], dim=1))  # (B, 16, H/2, W/2)
        y, fine = self.down1(y)
        y, coarse = self.down2(self.stage1(y))
        y = self.stage3(self.stage2(y))  # (B, 128, H/8, W/8)
        y = self.stage4(self.up4(y, coarse))
        y = self.stage5(self.up5(y, fine))  # (B, 16, H/2, W/2)
        return self.classifier(y)  # type: ignore[no-any-return]
