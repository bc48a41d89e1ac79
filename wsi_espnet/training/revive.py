"""The authors' encoders as a start for training: plain RGB as input, and no channel dead."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from wsi_espnet.models.espnet import BN_EPS, Encoder, EspNet

DEAD_SHARE = 0.01
"""A channel whose gain is below this share of its layer's largest counts as dead. Weight decay has driven a
fifth to a half of the authors' gains to 1e-5 and below (some to 1e-41), where they pass nothing on and learn
nothing."""

IMAGE_AT_B1 = slice(16, 19)
IMAGE_AT_B2 = slice(128, 131)
"""Where the halved and the quartered image stand among the channels of the concatenations b1 and b2."""


def to_plain_rgb(encoder: Encoder) -> None:
    """Make an encoder of the authors' give for (rgb - mean) / std what it gave for (bgr - mean) / std / 255.

    In evaluation mode to within rounding; in training the batch normalisations now see an input of variance 1,
    where the eps of 1e-3 drowned one of 1.5e-5.
    """
    encoder.level1.conv.weight.copy_(encoder.level1.conv.weight.flip(1))
    _rescale_input(encoder.level1.bn, slice(0, 16), 255.0)
    if not encoder.reinforced:
        return
    for norm, image in ((encoder.b1, IMAGE_AT_B1), (encoder.b2, IMAGE_AT_B2)):
        for values in (
            norm.bn.weight,
            norm.bn.bias,
            norm.bn.running_mean,
            norm.bn.running_var,
            norm.act.weight,
        ):
            _flip(values, image)
        _rescale_input(norm.bn, image, 255.0)
    for reduce, image in ((encoder.level2_0.c1.conv, IMAGE_AT_B1), (encoder.level3_0.c1.conv, IMAGE_AT_B2)):
        _flip_read(reduce.weight, image)


def decoder_to_plain_rgb(network: EspNet) -> None:
    """Make a decoder that came with such an encoder read the image's channels in their new order."""
    _flip_read(network.level3_C.conv.weight, IMAGE_AT_B2)
    if network.encoder.skip == 19:
        classes = network.br.num_features  # they stand before what the encoder hands on
        _flip_read(network.conv.conv.weight, slice(classes + IMAGE_AT_B1.start, classes + IMAGE_AT_B1.stop))


def _flip_read(kernels: Tensor, channels: slice) -> None:
    kernels[:, channels] = kernels[:, channels].flip(1)


def _flip(values: Tensor | None, channels: slice) -> None:
    assert values is not None
    values[channels] = values[channels].flip(0)


def _rescale_input(bn: nn.BatchNorm2d, channels: slice, factor: float) -> None:
    """Make `bn` give for factor * x what it gave for x, eps included."""
    assert bn.running_mean is not None
    assert bn.running_var is not None
    before = torch.sqrt(bn.running_var[channels] + BN_EPS)
    bn.running_mean[channels] *= factor
    bn.running_var[channels] *= factor**2
    bn.weight[channels] *= torch.sqrt(bn.running_var[channels] + BN_EPS) / (factor * before)


def wake_dead_channels(encoder: Encoder) -> None:
    """Give dead channels the mean gain of the living, so that all of the network can learn.

    What reads them has died with them, so this changes the features little. The first convolution has nothing
    before it to revive its kernels, so these are drawn anew.
    """
    fresh = nn.Conv2d(3, 16, 3, bias=False).weight
    dead = _dead(encoder.level1.bn.weight)
    encoder.level1.conv.weight[dead] = fresh[dead]
    for norm in encoder.modules():
        if isinstance(norm, nn.BatchNorm2d):
            gain = norm.weight.abs()
            dead = _dead(gain)
            norm.weight[dead] = gain[~dead].mean()


def _dead(gain: Tensor) -> Tensor:
    return gain.abs() < DEAD_SHARE * gain.abs().max()
