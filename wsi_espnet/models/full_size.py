"""What networks with logits at full resolution have in common: any size of image, and logits at stride 8 on request."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch.nn.functional as F
from torch import Tensor, nn


class DoublingConv(nn.ConvTranspose2d):
    """A transposed convolution of 3x3 px and stride 2 that doubles the sides.

    With padding 1 and output padding 1 it would be the same; TensorRT 8.2 (a TX2's) takes no output padding.
    """

    def __init__(self, channels_in: int, channels_out: int, *, bias: bool) -> None:
        super().__init__(channels_in, channels_out, 3, stride=2, bias=bias)

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        """(B, Cin, H, W) -> (B, Cout, 2H, 2W)."""
        return super().forward(x, output_size)[..., 1:, 1:]


class FullSizeNet(nn.Module, ABC):
    """A network that halves the sides `multiple` divides by, and gives logits for every px."""

    stride = 1
    multiple = 8
    """Sides are lengthened to multiples of this by repeating the last row and column, and the logits are cut back."""

    @abstractmethod
    def logits(self, x: Tensor) -> Tensor:
        """(B, 3, H, W), sides multiples of `multiple` -> (B, C, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) of any size -> logits (B, C, H, W)."""
        h, w = x.shape[-2:]
        rows, columns = -h % self.multiple, -w % self.multiple
        if rows == 0 and columns == 0:
            return self.logits(x)
        return self.logits(F.pad(x, (0, columns, 0, rows), mode="replicate"))[..., :h, :w]

    def fine_and_coarse(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, C, H, W), and their means over 8 x 8 px, for what asks for logits at stride 8."""
        fine = self(x)
        return fine, F.avg_pool2d(fine, 8, ceil_mode=True)
