"""All networks that a model file may hold, behind one call."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from wsi_espnet.models import espnet
from wsi_espnet.models.baselines.efficientnet import EfficientNet
from wsi_espnet.models.baselines.enet import ENet
from wsi_espnet.models.baselines.erfnet import ERFNet
from wsi_espnet.models.baselines.pspnet import PSPNet
from wsi_espnet.models.baselines.unet import UNet
from wsi_espnet.models.baselines.units import UnitsNet
from wsi_espnet.models.esp_psp import EspPsp
from wsi_espnet.models.espnet import CoarseNet, EspNet
from wsi_espnet.models.full_size import FullSizeNet
from wsi_espnet.models.network_config import (
    ENET,
    ERFNET,
    ESP_PSP,
    PSPNET,
    BaselineConfig,
    EfficientNetConfig,
    EspNetConfig,
    NetworkConfig,
    UnitsConfig,
)

Network = CoarseNet | EspNet | UnitsNet | FullSizeNet
"""Each has an attribute ``stride`` (1 or 8): input px per px of its logits."""

BASELINES: dict[str, Callable[[BaselineConfig], FullSizeNet]] = {
    ENET: ENet,
    ERFNET: ERFNet,
    PSPNET: PSPNet,
    ESP_PSP: EspPsp,
}


def build(config: NetworkConfig) -> Network:
    """The network of a configuration, torch's default initialisation, in training mode.

    Examples
    --------
    >>> net = build(BaselineConfig(architecture="esp-psp", classes=8))
    >>> sum(p.numel() for p in net.parameters()), net.stride
    (2755488, 1)
    """
    if isinstance(config, EspNetConfig):
        return espnet.build(config)
    if isinstance(config, UnitsConfig):
        return UnitsNet(config)
    if isinstance(config, BaselineConfig):
        return BASELINES[config.architecture](config)
    return EfficientNet(config) if isinstance(config, EfficientNetConfig) else UNet(config)


def logits_layer(network: Network) -> nn.Conv2d | nn.ConvTranspose2d:
    """The last convolution: the logits are linear in its weights, and in its bias where it has one."""
    layer = network.classifier
    return layer if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d) else layer.conv  # type: ignore[return-value, union-attr]
