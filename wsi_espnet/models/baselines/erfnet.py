"""ERFNet (Romera et al. 2018, IEEE T-ITS 19(1)): more exact and slower than ESPNet in the paper's comparison.

Table I and figure 2 of its paper; dropout, dilations and epsilon as in the authors' code (Eromera/erfnet_pytorch).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wsi_espnet.models.full_size import DoublingConv, FullSizeNet
from wsi_espnet.models.network_config import BaselineConfig

BN_EPS = 1e-3

FINE_DROPOUT, COARSE_DROPOUT = 0.03, 0.3
"""At stride 4, and at stride 8."""

DILATIONS = (2, 4, 8, 16)
"""Of the blocks at stride 8, twice over."""


class Halving(nn.Module):
    """A convolution of stride 2 beside max pooling (ENet's first block)."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels_out - channels_in, 3, stride=2, padding=1)
        self.bn = nn.BatchNorm2d(channels_out, eps=BN_EPS)

    def forward(self, x: Tensor) -> Tensor:
        """(B, Cin, H, W) -> (B, Cout, H/2, W/2)."""
        return F.relu(self.bn(torch.cat([self.conv(x), F.max_pool2d(x, 2)], dim=1)))


class Factorised(nn.Module):
    """A residual of four convolutions along one axis each, the last two dilated (the paper's non-bottleneck-1D)."""

    def __init__(self, channels: int, *, dropout: float = 0.0, dilation: int = 1) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            along(channels, rows=True),
            nn.ReLU(),
            along(channels, rows=False),
            nn.BatchNorm2d(channels, eps=BN_EPS),
            nn.ReLU(),
            along(channels, rows=True, dilation=dilation),
            nn.ReLU(),
            along(channels, rows=False, dilation=dilation),
            nn.BatchNorm2d(channels, eps=BN_EPS),
            nn.Dropout2d(dropout),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> the same."""
        return F.relu(x + self.branch(x))


def along(channels: int, *, rows: bool, dilation: int = 1) -> nn.Conv2d:
    """A convolution of three px along the rows' axis or the columns', with bias."""
    if rows:
        return nn.Conv2d(channels, channels, (3, 1), padding=(dilation, 0), dilation=(dilation, 1))
    return nn.Conv2d(channels, channels, (1, 3), padding=(0, dilation), dilation=(1, dilation))


class Doubling(nn.Sequential):
    """A transposed convolution of stride 2, normalised."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__(
            DoublingConv(channels_in, channels_out, bias=True),
            nn.BatchNorm2d(channels_out, eps=BN_EPS),
            nn.ReLU(),
        )


class ERFNet(FullSizeNet):
    """Thirteen factorised residuals down to stride 8, four on the way up: 2.06 M parameters."""

    def __init__(self, config: BaselineConfig) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            Halving(3, 16),
            Halving(16, 64),
            *(Factorised(64, dropout=FINE_DROPOUT) for _ in range(5)),
            Halving(64, 128),
            *(Factorised(128, dropout=COARSE_DROPOUT, dilation=dilation) for dilation in 2 * DILATIONS),
        )
        self.decoder = nn.Sequential(
            Doubling(128, 64), Factorised(64), Factorised(64), Doubling(64, 16), Factorised(16), Factorised(16)
        )
        self.classifier = nn.ConvTranspose2d(16, config.classes, 2, stride=2)

    def logits(self, x: Tensor) -> Tensor:
        """(B, 3, H, W), sides multiples of 8 -> (B, C, H, W)."""
        return self.classifier(self.decoder(self.encoder(x)))  # type: ignore[no-any-return]
