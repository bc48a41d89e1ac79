"""ESPNet-C with other convolution units in place of its pyramids: the paper's ablation of modules.

The paper replaces the unit and keeps the network (project page of ESPNet, "ESP module versus others"); it gives
parameters and no code. Counted at p = 2, q = 3 and 20 classes these reconstructions have 0.233 M with MobileNet's unit
(published: 0.233), 0.180 with ShuffleNet's (0.181) and 1.205 with ResNet's (1.2). The counts leave plain 3x3
convolutions where strided pyramids were: nothing lighter reaches them.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from wsi_espnet.models.espnet import BN_EPS, Conv, ConvNormAct, Encoder, NormAct, pad_to_multiple
from wsi_espnet.models.network_config import EspNetConfig, Unit, UnitsConfig

SHUFFLE_GROUPS = 4
"""Groups of the 1x1 convolutions, and inner channels over outer ones: Zhang et al. 2017, arXiv 1707.01083."""


class MobileNetUnit(nn.Module):
    """Each channel filtered for itself, then mixed by a 1x1 convolution (Howard et al. 2017, arXiv 1704.04861)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.filter = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
        self.mix = nn.Conv2d(channels, channels, 1, bias=False)
        self.bn = NormAct(channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> the same."""
        return self.bn(self.mix(self.filter(x)))  # type: ignore[no-any-return]


class ShuffleNetUnit(nn.Module):
    """Narrowed in groups, shuffled between them, filtered, widened in groups, and added to what came in."""

    order: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = channels // SHUFFLE_GROUPS
        self.narrow = nn.Conv2d(channels, inner, 1, groups=SHUFFLE_GROUPS, bias=False)
        self.narrow_bn = NormAct(inner)
        order = torch.arange(inner).reshape(SHUFFLE_GROUPS, -1).T.flatten()
        self.register_buffer("order", order, persistent=False)
        self.filter = nn.Conv2d(inner, inner, 3, padding=1, groups=inner, bias=False)
        self.filter_bn = nn.BatchNorm2d(inner, eps=BN_EPS)
        self.widen = nn.Conv2d(inner, channels, 1, groups=SHUFFLE_GROUPS, bias=False)
        self.bn = NormAct(channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> the same."""
        y = self.narrow_bn(self.narrow(x))
        # Neighbours in a group are parted, by their numbers: TensorRT 8.2 does not import what a reshape becomes.
        y = y[:, self.order]
        y = self.filter_bn(self.filter(y))
        return self.bn(x + self.widen(y))  # type: ignore[no-any-return]


class ResNetUnit(nn.Module):
    """Two 3x3 convolutions, added to what came in (He et al. 2016, arXiv 1512.03385)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = ConvNormAct(channels, channels, 3)
        self.second = Conv(channels, channels, 3)
        self.bn = NormAct(channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> the same."""
        return self.bn(x + self.second(self.first(x)))  # type: ignore[no-any-return]


UNITS: dict[Unit, Callable[[int], nn.Module]] = {
    "mobilenet": MobileNetUnit,
    "shufflenet": ShuffleNetUnit,
    "resnet": ResNetUnit,
}


class UnitsNet(nn.Module):
    """ESPNet-C of these units: logits at stride 8, ceil(H / 8) x ceil(W / 8)."""

    stride = 8

    def __init__(self, config: UnitsConfig) -> None:
        super().__init__()
        unit = UNITS[config.unit]
        like = EspNetConfig(architecture="espnet-c", p=config.p, q=config.q, classes=config.classes)
        encoder = Encoder(like, reinforced=True)
        replaced = {
            "level2_0": ConvNormAct(19, 64, 3, stride=2),
            "level2": nn.ModuleList(unit(64) for _ in range(config.p)),
            "level3_0": ConvNormAct(131, 128, 3, stride=2),
            "level3": nn.ModuleList(unit(128) for _ in range(config.q)),
        }
        for name, module in replaced.items():
            setattr(encoder, name, module)
        self.encoder = encoder

    @property
    def classifier(self) -> Conv:
        """The last convolution."""
        return self.encoder.classifier

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) of any size -> logits (B, C, ceil(H/8), ceil(W/8))."""
        return self.encoder(pad_to_multiple(x))[2]  # type: ignore[no-any-return]
