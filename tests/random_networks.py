"""Networks and windows of random numbers, which nothing but arithmetic can be right about."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from wsi_espnet.models.espnet import EspNet, build
from wsi_espnet.models.network_config import EspNetConfig

MEAN, SCALE = torch.tensor([90.0, 130.0, 170.0]), torch.tensor([0.02, 0.015, 0.03])


def network(*, p: int = 2, q: int = 1, classes: int = 3, skip: int = 19, seed: int = 0) -> EspNet:
    """Random weights, and random statistics: what lies outside the image must be zero behind every layer."""
    torch.manual_seed(seed)
    module = build(EspNetConfig(architecture="espnet", p=p, q=q, classes=classes, skip=skip)).eval()
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.normal_(layer.running_mean)  # type: ignore[arg-type]
            nn.init.uniform_(layer.running_var, 0.5, 2)  # type: ignore[arg-type]
            nn.init.normal_(layer.bias)
    assert isinstance(module, EspNet)
    return module.to(memory_format=torch.channels_last).requires_grad_(False)  # type: ignore[call-overload, no-any-return]


def window(height: int, width: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))
