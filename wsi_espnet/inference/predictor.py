"""What the schedule needs of a network, whatever runs it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

Columns = NDArray[np.int32]
"""What is wanted of a window, (H / 8, 2): in each 8 rows the columns from the first to before the second, in steps of 8
px; none where both are equal."""

Precision = str
"""`fp32`, `bf16` or `fp16`: the type that convolutions are computed in; everything else stays float32."""


class Prediction(NamedTuple):
    """What a network says about a batch of windows.

    labels: (B, H, W) uint8, the class with the highest logit. probabilities: (B, C, H, W) uint8, 0..255 for 0..1.
    """

    labels: NDArray[np.uint8]
    probabilities: NDArray[np.uint8]


class Predictor(Protocol):
    """A network with its weights, ready to run; safe to call from several threads at once."""

    classes: int

    def predict(self, windows: NDArray[np.uint8], columns: Sequence[Columns] | None = None) -> Prediction:
        """Segment a batch of RGB windows, (B, H, W, 3) uint8 with H and W multiples of 8.

        `columns` says of each window what is wanted of it. The rest need not be computed and may be anything.
        """
        ...


@dataclass(frozen=True, slots=True)
class Execution:
    """How a network is run; part of a result's fingerprint, because each way rounds differently.

    Parameters
    ----------
    device
        `cpu`, or `cuda:N`.
    precision
        `fp32`, `bf16` or `fp16`.
    batch
        Windows per call.
    backend
        What runs it: `torch`, `onnx` or `openvino`.
    """

    device: str
    precision: Precision
    batch: int
    backend: str = "torch"
