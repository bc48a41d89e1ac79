"""ESPNet and its published ablations, from configuration (Mehta et al., ECCV 2018, arXiv 1803.06815).

    image --> /2 -- b1 --> /4 -- p pyramids -- b2 --> /8 -- q pyramids -- b3 --> classifier      ESPNet-C
                    |                           |                                 | (C, stride 8)
                    |                           +--> level3_C --> combine_l2_l3 <-- up_l3
                    |                                                 | (C, stride 4)
                    +--------------------------> conv <------------ up_l2 (C, stride 2)
                                                  |
                                              classifier (C, stride 1)                           ESPNet

Attribute names are those of the authors' code (github.com/sacmehta/ESPNet at afe71c38, MIT), because they are
the keys of the published weights; the classes are named by what they do. Every convolution is without bias.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wsi_espnet.models.network_config import ENCODER, ESPNET, EspNetConfig

BN_EPS = 1e-3
"""The authors' value (Model.py, every BatchNorm2d); torch's own default is 1e-5."""

DILATIONS = (1, 2, 4, 8, 16)
"""K = 5 branches of the pyramid with dilation 2^(k-1): section 3.1 of the paper."""

MULTIPLE = 8
"""The encoder halves three times, so sides are padded to a multiple of this inside the networks."""

DILATED_FUSION_MIN_CLASSES = len(DILATIONS)
"""Below five classes a branch of the decoder's pyramid would have floor(C / 5) = 0 channels."""


class Conv(nn.Module):
    """A convolution alone, square kernel, padded to keep the size (the authors' C and CDilated)."""

    def __init__(self, inputs: int, outputs: int, kernel: int, *, stride: int = 1, dilation: int = 1) -> None:
        super().__init__()
        padding = (kernel - 1) // 2 * dilation
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=padding, dilation=dilation, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, H / stride, W / stride)."""
        return self.conv(x)  # type: ignore[no-any-return]


class NormAct(nn.Module):
    """Batch normalisation and a learned leak per channel (the authors' BR)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(channels, eps=BN_EPS)
        self.act = nn.PReLU(channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> the same."""
        return self.act(self.bn(x))  # type: ignore[no-any-return]


class ConvNormAct(nn.Module):
    """Convolution, batch normalisation, learned leak (the authors' CBR)."""

    def __init__(self, inputs: int, outputs: int, kernel: int, *, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=(kernel - 1) // 2, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=BN_EPS)
        self.act = nn.PReLU(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, H / stride, W / stride)."""
        return self.act(self.bn(self.conv(x)))  # type: ignore[no-any-return]


class Pyramid(nn.Module):
    """Reduce, five dilated convolutions of that one map, hierarchical fusion: what both pyramids share.

    The first branch has outputs - 4 * floor(outputs / 5) channels, the others floor(outputs / 5).
    """

    def __init__(self, inputs: int, outputs: int, *, reduce_kernel: int, stride: int) -> None:
        super().__init__()
        self.outputs = outputs
        narrow = outputs // len(DILATIONS)
        wide = outputs - (len(DILATIONS) - 1) * narrow
        self.c1 = Conv(inputs, narrow, reduce_kernel, stride=stride)
        self.d1 = Conv(narrow, wide, 3, dilation=1)
        self.d2 = Conv(narrow, narrow, 3, dilation=2)
        self.d4 = Conv(narrow, narrow, 3, dilation=4)
        self.d8 = Conv(narrow, narrow, 3, dilation=8)
        self.d16 = Conv(narrow, narrow, 3, dilation=16)

    def fused(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, H / stride, W / stride), before normalisation; no one else holds it.

        Running sums from dilation 2 upwards; dilation 1 is not in them. The paper's formula reads otherwise,
        the authors' code and weights are like this.
        """
        reduced = self.c1(x)  # (B, outputs/5, H/stride, W/stride)
        d1, d2, d4, d8, d16 = (branch(reduced) for branch in self.branches)
        sum4 = d2 + d4
        sum8 = sum4 + d8
        return torch.cat([d1, d2, sum4, sum8, sum8 + d16], dim=1)

    @property
    def branches(self) -> tuple[nn.Conv2d, ...]:
        """The convolutions of the reduced map, in the order of their dilations."""
        return tuple(branch.conv for branch in (self.d1, self.d2, self.d4, self.d8, self.d16))


class DilatedPyramid(Pyramid):
    """Efficient spatial pyramid at constant resolution (the paper's ESP module).

    With `residual` the input is added before the normalisation; it then needs inputs == outputs.
    """

    def __init__(self, inputs: int, outputs: int, *, residual: bool = True) -> None:
        super().__init__(inputs, outputs, reduce_kernel=1, stride=1)
        self.bn = NormAct(outputs)
        self.residual = residual

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, H, W)."""
        return self.activate(self.fused(x).add_(x) if self.residual else self.fused(x))

    def activate(self, fused: Tensor) -> Tensor:
        """Normalisation and leak."""
        return self.bn(fused)  # type: ignore[no-any-return]


class StridedPyramid(Pyramid):
    """Efficient spatial pyramid that halves the resolution (strided ESP; DownSamplerB in the code)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, reduce_kernel=3, stride=2)
        self.bn = nn.BatchNorm2d(outputs, eps=BN_EPS)
        self.act = nn.PReLU(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, H/2, W/2)."""
        return self.activate(self.fused(x))

    def activate(self, fused: Tensor) -> Tensor:
        """Normalisation and leak."""
        return self.act(self.bn(fused))  # type: ignore[no-any-return]


class Encoder(nn.Module):
    """The pyramids down to stride 8 and a 1x1 classifier there: ESPNet-C, or the plain "Encoder" of the
    ablation.

    With `reinforced` (ESPNet-C) the image, averaged down, is concatenated at strides 2 and 4: the paper's
    input reinforcement. Without it this is a reconstruction, the authors published no code: its 186,464
    parameters (p = 2, q = 3, 20 classes) agree with the 0.186 M of their poster.
    """

    def __init__(self, config: EspNetConfig, *, reinforced: bool) -> None:
        super().__init__()
        image = 3 if reinforced else 0
        self.reinforced = reinforced
        self.skip = config.skip
        self.level1 = ConvNormAct(3, 16, 3, stride=2)
        if reinforced:
            self.b1 = NormAct(16 + image)
        self.level2_0 = StridedPyramid(16 + image, 64)
        self.level2 = nn.ModuleList(DilatedPyramid(64, 64) for _ in range(config.p))
        self.b2 = NormAct(128 + image)
        self.level3_0 = StridedPyramid(128 + image, 128)
        self.level3 = nn.ModuleList(DilatedPyramid(128, 128) for _ in range(config.q))
        self.b3 = NormAct(256)
        self.classifier = Conv(256, config.classes, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, 3, H, W), sides multiples of 8 -> detail at stride 2, features at 4, and logits at stride 8.

        Maps are let go as soon as nothing needs them: they are most of what a window takes.
        """
        half = detail = self.level1(x)  # (B, 16, H/2, W/2)
        image: list[Tensor] = []
        if self.reinforced:
            image_half = F.avg_pool2d(x, 3, stride=2, padding=1)
            image = [F.avg_pool2d(image_half, 3, stride=2, padding=1)]
            half = self.b1(torch.cat([half, image_half], dim=1))  # (B, 19, H/2, W/2)
            del image_half
            if self.skip == 19:
                detail = half

        first = last = self.level2_0(half)  # (B, 64, H/4, W/4)
        del half
        for pyramid in self.level2:
            last = pyramid(last)
        joined = torch.cat([last, first, *image], dim=1)
        del first, last
        quarter = self.b2(joined)  # (B, 131, H/4, W/4)
        del joined

        first = last = self.level3_0(quarter)  # (B, 128, H/8, W/8)
        for pyramid in self.level3:
            last = pyramid(last)
        joined = torch.cat([first, last], dim=1)  # order reversed against b2
        del first, last
        return detail, quarter, self.classifier(self.b3(joined))


class CoarseNet(Encoder):
    """An encoder as a network of its own: logits at stride 8, ceil(H / 8) x ceil(W / 8)."""

    stride = 8

    def __init__(self, config: EspNetConfig) -> None:
        super().__init__(config, reinforced=config.architecture != ENCODER)

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        """(B, 3, H, W) of any size -> logits (B, C, ceil(H/8), ceil(W/8))."""
        return super().forward(pad_to_multiple(x))[2]


class EspNet(nn.Module):
    """ESPNet-C with the light-weight decoder: logits at full resolution (the paper's ESPNet)."""

    stride = 1

    def __init__(self, config: EspNetConfig) -> None:
        super().__init__()
        classes = config.classes
        self.encoder = Encoder(config, reinforced=True)
        self.level3_C = Conv(128 + 3, classes, 1)
        self.br = nn.BatchNorm2d(classes, eps=BN_EPS)
        self.up_l3 = nn.Sequential(_double(classes))
        self.combine_l2_l3 = nn.Sequential(NormAct(2 * classes), _fusion(classes))
        self.up_l2 = nn.Sequential(_double(classes), NormAct(classes))
        self.conv = ConvNormAct(config.skip + classes, classes, 3)
        self.classifier = _double(classes)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) of any size -> logits (B, C, H, W)."""
        return self.fine_and_coarse(x)[0]

    def fine_and_coarse(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, H, W) -> logits (B, C, H, W) and the encoder's own (B, C, ceil(H/8), ceil(W/8)).

        The second serves training, where a loss on it takes the place of the authors' separate first stage.
        """
        detail, quarter, coarse = self.encoder(pad_to_multiple(x))
        up = self.up_l3(self.br(coarse))  # (B, C, H/4, W/4)
        up = self.combine_l2_l3(torch.cat([self.level3_C(quarter), up], dim=1))
        up = self.conv(torch.cat([self.up_l2(up), detail], dim=1))  # (B, C, H/2, W/2)
        return crop_to(self.classifier(up), x), coarse


def build(config: EspNetConfig) -> CoarseNet | EspNet:
    """The network of a configuration, torch's default initialisation, in training mode.

    The result has an attribute ``stride`` (1 or 8): input px per px of the logits.

    Examples
    --------
    >>> net = build(EspNetConfig(architecture="espnet", p=2, q=3, classes=20, skip=16))
    >>> sum(p.numel() for p in net.parameters()), net.stride
    (202649, 1)
    """
    return EspNet(config) if config.architecture == ESPNET else CoarseNet(config)


def pad_to_multiple(x: Tensor) -> Tensor:
    """`x` with its last row and column repeated until both sides are multiples of 8; `x` itself if they are.

    Repeating works for any size and shows the network no black frame.
    """
    rows = -x.shape[-2] % MULTIPLE
    columns = -x.shape[-1] % MULTIPLE
    if rows == 0 and columns == 0:
        return x
    return F.pad(x, (0, columns, 0, rows), mode="replicate")


def crop_to(y: Tensor, x: Tensor) -> Tensor:
    """`y` without what `pad_to_multiple` added to `x`; `y` itself if nothing was."""
    if x.shape[-2] % MULTIPLE == 0 and x.shape[-1] % MULTIPLE == 0:
        return y
    return y[..., : x.shape[-2], : x.shape[-1]]


def _double(channels: int) -> nn.ConvTranspose2d:
    return nn.ConvTranspose2d(channels, channels, 2, stride=2, bias=False)


def _fusion(classes: int) -> nn.Module:
    """2C -> C at stride 4; with few classes a plain block, as the author advises (ESPNet issue 13)."""
    if classes < DILATED_FUSION_MIN_CLASSES:
        return ConvNormAct(2 * classes, classes, 3)
    return DilatedPyramid(2 * classes, classes, residual=False)
