"""All networks that a model file may hold, behind one call."""

from __future__ import annotations

from torch import nn

from wsi_espnet.models import espnet
from wsi_espnet.models.card import EspNetConfig, UNetConfig
from wsi_espnet.models.espnet import CoarseNet, EspNet
from wsi_espnet.models.unet import UNet

Network = CoarseNet | EspNet | UNet
"""Each has an attribute ``stride`` (1 or 8): input px per px of its logits."""


def build(config: EspNetConfig | UNetConfig) -> Network:
    """The network of a configuration, torch's default initialisation, in training mode.

    Examples
    --------
    >>> net = build(UNetConfig(classes=2))
    >>> sum(p.numel() for p in net.parameters()), net.stride
    (31037698, 1)
    """
    return UNet(config) if isinstance(config, UNetConfig) else espnet.build(config)


def logits_layer(network: Network) -> nn.Conv2d | nn.ConvTranspose2d:
    """The last convolution: the logits are linear in its weights, and in its bias where it has one."""
    layer = network.classifier
    return layer if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d) else layer.conv
