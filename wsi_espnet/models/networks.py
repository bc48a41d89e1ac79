"""All networks that a model file may hold, behind one call."""

from __future__ import annotations

from torch import nn

from wsi_espnet.models import espnet
from wsi_espnet.models.card import EfficientNetConfig, NetworkConfig, UNetConfig
from wsi_espnet.models.efficientnet import EfficientNet
from wsi_espnet.models.espnet import CoarseNet, EspNet
from wsi_espnet.models.unet import UNet

Network = CoarseNet | EspNet | UNet | EfficientNet
"""Each has an attribute ``stride`` (1 or 8): input px per px of its logits."""


def build(config: NetworkConfig) -> Network:
    """The network of a configuration, torch's default initialisation, in training mode.

    Examples
    --------
    >>> net = build(UNetConfig(classes=2))
    >>> sum(p.numel() for p in net.parameters()), net.stride
    (31037698, 1)
    """
    if isinstance(config, UNetConfig):
        return UNet(config)
    return EfficientNet(config) if isinstance(config, EfficientNetConfig) else espnet.build(config)


def logits_layer(network: Network) -> nn.Conv2d | nn.ConvTranspose2d:
    """The last convolution: the logits are linear in its weights, and in its bias where it has one."""
    layer = network.classifier
    return layer if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d) else layer.conv
