"""ESPNet's layers as bands of rows go through them on the CPU: torch's convolutions, and kernels for what lies between.

Bands are arrays (rows, W, C) as `kernels` takes them. Torch sees them when it convolves and at no other time: each of
its calls lets go of Python's lock and waits for it again, which threads at work on windows feel.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from wsi_espnet.inference import kernels
from wsi_espnet.inference.kernels import Array
from wsi_espnet.models.espnet import EspNet

_VECTOR = 8
"""Values of fp32 that AVX2 takes at a time."""


def in_precision(network: EspNet, dtype: torch.dtype) -> EspNet:
    """A copy that convolves in `dtype`, float32 or bfloat16; what lies between convolutions is computed in float32."""
    network = copy.deepcopy(network)
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            module.to(dtype)
    return network


class Convolution:
    """A convolution of rows that bring those above and below with them.

    A thin map, which pyramids are dilated over, has columns of zeros of its own: AMX convolves a map that is to be
    padded from a copy, in up to five times the time.

    Parameters
    ----------
    weight
        (outputs, inputs, kernel, kernel).
    stride, dilation
        Of both sides.
    margin
        The columns to the left and right, where rows come from a thin map; None pads what is not one.
    to_thin
        Whether rows go to a thin map.
    """

    def __init__(
        self, weight: Tensor, *, stride: int = 1, dilation: int = 1, margin: int | None = None, to_thin: bool = False
    ) -> None:
        outputs, inputs = weight.shape[:2]
        reach = dilation * (weight.shape[3] // 2)
        self.outputs = thin_channels(outputs, weight.dtype) if to_thin else outputs
        # In fp32 channels of zeros fill up vectors: without them 25 outputs take up to 1.3 times as long as 32.
        filled = -(-self.outputs // _VECTOR) * _VECTOR if weight.dtype == torch.float32 else self.outputs
        more = 0 if margin is None else thin_channels(inputs, weight.dtype) - inputs
        weight = F.pad(weight, (0, 0, 0, 0, 0, more, 0, filled - outputs))
        self._weight = weight.contiguous(memory_format=torch.channels_last)  # or each call makes it so
        self._padding = reach if margin is None else 0
        self._stride, self._dilation = stride, dilation
        # In fp32 torch leaves these to MKL (ATen's `use_mkldnn`), which takes up to twice as long as oneDNN.
        with_onednn = bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]
        self._one_by_one = weight.shape[2:] == (1, 1) and weight.dtype == torch.float32 and with_onednn
        self.column = 0 if margin is None else margin - reach

    def __call__(self, band: Array) -> Array:
        """(rows, W, inputs) to (fewer rows, W', at least `outputs`); what counts begins at `column`."""
        x = _as_tensor(band).unsqueeze(0).permute(0, 3, 1, 2)  # numpy's new axis has no stride, so is not channels last
        if self._one_by_one:
            y = torch.ops.aten.mkldnn_convolution(x, self._weight, None, (0, 0), (1, 1), (1, 1), 1)
        else:
            y = F.conv2d(x, self._weight, None, self._stride, (0, self._padding), self._dilation)
        values: Array = _as_array(y)[0].transpose(1, 2, 0)
        return values


def thin_channels(channels: int, dtype: torch.dtype) -> int:
    """Channels of a thin map: in bf16 an even number, as AMX takes half as long again with 25 as with 26."""
    return channels + channels % 2 if dtype == torch.bfloat16 else channels


@dataclass(frozen=True, slots=True)
class Activation:
    """Batch normalisation and PReLU as three vectors (C,) float32: x * scale + shift, and times slope below 0."""

    scale: NDArray[np.float32]
    shift: NDArray[np.float32]
    slope: NDArray[np.float32]

    @classmethod
    def of(cls, bn: nn.BatchNorm2d, act: nn.PReLU | None = None) -> Activation:
        """Of a network's layers; without `act` nothing leaks."""
        assert bn.running_mean is not None
        assert bn.running_var is not None
        scale = bn.weight / torch.sqrt(bn.running_var + bn.eps)
        slope = torch.ones_like(scale) if act is None else act.weight
        return cls(*(x.detach().numpy() for x in (scale, bn.bias - bn.running_mean * scale, slope)))

    @classmethod
    def none(cls, channels: int) -> Activation:
        """Leaves values as they are."""
        return cls(*(np.full(channels, value, np.float32) for value in (1, 0, 1)))

    def beside(self, other: Activation) -> Activation:
        """That of these channels and of the other's behind them."""
        pairs = (self.scale, other.scale), (self.shift, other.shift), (self.slope, other.slope)
        return Activation(*map(np.concatenate, pairs))

    def split(self, *places: int) -> list[Activation]:
        """That of the channels before the first place, that of those from there to the next, ..."""
        parts = (np.split(vector, places) for vector in (self.scale, self.shift, self.slope))
        return [Activation(*vectors) for vectors in zip(*parts, strict=True)]

    def __call__(self, band: Array, out: Array, at: int = 0) -> None:
        """The first channels of `band` to those of `out` from `at` on."""
        kernels.activate(band, self.scale, self.shift, self.slope, out, at)

    def twice(self, band: Array, following: Activation, out: Array) -> None:
        """The same with another one behind it."""
        then = following.scale, following.shift, following.slope
        kernels.activate_twice(band, self.scale, self.shift, self.slope, *then, out)

    def unfold(self, fours: Array, first: int, out: Array, at: int = 0) -> None:
        """The same of what `Doubling` gives, from row `first` of the doubled map on."""
        kernels.unfold(fours, first, self.scale, self.shift, self.slope, out, at)

    def fill(self, out: Array) -> None:
        """What a px of zeros becomes before it leaks, to all px of `out`."""
        shift = torch.from_numpy(self.shift)
        out[:] = _as_array(shift.bfloat16() if out.dtype == np.uint16 else shift)


class Doubling:
    """A transposed convolution of 2 x 2 at stride 2, as a product of matrices."""

    def __init__(self, conv: nn.ConvTranspose2d) -> None:
        self._weight = conv.weight.permute(2, 3, 1, 0).reshape(4 * conv.out_channels, -1)

    def __call__(self, band: Array) -> Array:
        """(rows, W, C) to (rows, W, 4 * C'): 2 x 2 px of channels each."""
        return _as_array(F.linear(_as_tensor(band), self._weight))


def _as_tensor(values: Array) -> Tensor:
    x = torch.from_numpy(values)
    return x.view(torch.bfloat16) if x.dtype == torch.uint16 else x


def _as_array(x: Tensor) -> Array:
    values: Array = (x.view(torch.uint16) if x.dtype == torch.bfloat16 else x).numpy()
    return values
