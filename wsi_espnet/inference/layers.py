"""What the stages of a network in bands are made of: convolutions of rows, and what normalises them.

Bands are arrays (rows, W, C) as `kernels` takes them. Torch sees them when it convolves and at no other time: each of
its calls lets go of Python's lock and waits for it again, which threads at work on windows feel.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numba.extending import overload
from numpy.typing import NDArray
from torch import Tensor, nn

from wsi_espnet.inference import kernels
from wsi_espnet.inference.kernels import SOURCES, Array, Vector, kernel, put
from wsi_espnet.inference.vectors import Pair, Weights, multiply
from wsi_espnet.models.espnet import EspNet

_VECTOR = 8
"""Values of fp32 that AVX2 takes at a time."""


def in_precision(network: EspNet, dtype: torch.dtype) -> EspNet:
    """A copy with weights of `dtype`, float32 or bfloat16, as are its maps; pyramids alone also multiply in it."""
    network = copy.deepcopy(network)
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            module.to(dtype)
    return network


class Convolution:
    """A convolution of rows that bring those above and below with them; `padded` adds zeros beside them."""

    def __init__(self, weight: Tensor, *, dilation: int = 1, padded: bool = True) -> None:
        # In fp32 channels of zeros fill up vectors: without them 25 outputs take up to 1.3 times as long as 32.
        more = -len(weight) % (_VECTOR if weight.dtype == torch.float32 else 2)
        weight = F.pad(weight, (0, 0, 0, 0, 0, 0, 0, more))
        self._weight = weight.contiguous(memory_format=torch.channels_last)  # or each call makes it so
        self._dilation = dilation
        self._padding = weight.shape[3] // 2 if padded else 0

    def __call__(self, band: Array) -> Array:
        """(rows, W, inputs) to (fewer rows, W', outputs, and perhaps some more)."""
        # Torch's new axis, not numpy's: that has no stride, and the order of the others would not be seen.
        x = _as_tensor(band).unsqueeze(0).permute(0, 3, 1, 2)
        y = F.conv2d(x, self._weight, padding=(0, self._padding), dilation=self._dilation)
        values: Array = _as_array(y.permute(0, 2, 3, 1))[0]
        return values


class PointConvolution:
    """A convolution of 1 x 1: by `vectors` in fp32, which makes no more outputs than there are, by torch in bf16."""

    def __init__(self, weight: Tensor) -> None:
        self.outputs = len(weight)
        self._convolve: Convolution | None = None
        if weight.dtype == torch.float32:
            self.weights = Weights.of_convolution(weight)
        else:
            self._convolve = Convolution(weight)

    def __call__(self, band: Array, out: Array, left: int = 0) -> None:
        """(rows, W, inputs) to the columns of `out` (rows, W', outputs, and perhaps some more) from `left` on."""
        if self._convolve is None:
            _reducing(*self.weights.sizes)(band, self.weights.values, out, left)
        else:
            kernels.copy(self._convolve(band), out, left, out.shape[2])


def reduce(source: Array, weights: Pair, out: Array, left: int, inputs: int, wide: int, rest: int) -> None:
    """For kernels: a convolution of 1 x 1 of one row, (W, inputs) float32; the weights' sizes are constants.

    Its outputs, or the first of them, become those of `out` (W', channels) from column `left` on.
    """
    raise TypeError("this is for kernels alone")


@overload(reduce, prefer_literal=True)
def _of_reduce(source, weights, out, left, inputs, wide, rest):  # type: ignore[no-untyped-def]
    outputs = wide.literal_value + rest.literal_value

    def reduced(source, weights, out, left, inputs, wide, rest):  # type: ignore[no-untyped-def]
        line = np.empty((source.shape[0], outputs), np.float32)
        multiply(source, (0,), inputs, weights, line, inputs, wide, rest)
        put(line, outputs, out, left)

    return reduced


@functools.cache
def _reducing(inputs: int, wide: int, rest: int) -> Callable[..., None]:
    """`reduce` of all rows."""
    sources = SOURCES

    @kernel
    def reduce_all(source: Array, weights: Pair, out: Array, left: int) -> None:
        assert sources >= 0
        for row in range(source.shape[0]):
            reduce(source[row], weights, out[row], left, inputs, wide, rest)

    return reduce_all


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

    @property
    def vectors(self) -> tuple[Vector, Vector, Vector]:
        """Scale, shift and slope."""
        return self.scale, self.shift, self.slope

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

    def __call__(self, band: Array, out: Array) -> None:
        """The first channels of `band` to `out`, which may be the same."""
        kernels.activate(band, *self.vectors, out)


def by_corner(conv: nn.ConvTranspose2d) -> NDArray[np.float32]:
    """A transposed convolution of 2 x 2 at stride 2: (y, x, to, from)."""
    return conv.weight.detach().float().permute(2, 3, 1, 0).contiguous().numpy()


def _as_tensor(values: Array) -> Tensor:
    x = torch.from_numpy(values)
    return x.view(torch.bfloat16) if x.dtype == torch.uint16 else x


def _as_array(x: Tensor) -> Array:
    values: Array = (x.view(torch.uint16) if x.dtype == torch.bfloat16 else x).numpy()
    return values
