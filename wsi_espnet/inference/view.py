"""How a network looks at whole pictures: sizes, scales, flips. No network here."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from wsi_espnet import machine
from wsi_espnet.budget import SHARE_OF_FREE
from wsi_espnet.errors import BudgetError, ScaleError, UsageError
from wsi_espnet.inference.predictor import Execution
from wsi_espnet.models.card import ModelCard

SCALE_SLACK = 0.01
"""Relative difference of um per px that counts as none: less than a px in a hundred."""


class Size(NamedTuple):
    """Height and width in px."""

    height: int
    width: int

    def __str__(self) -> str:
        return f"{self.width}x{self.height}"


@dataclass(frozen=True, slots=True)
class View:
    """How often and in which ways the network looks at a picture.

    Parameters
    ----------
    size
        What each picture is resized to first; None takes it as it is, or at the model's um per px where both scales
        are known. The authors run Cityscapes at 1024 x 512 (their `test/VisualizeResults.py`).
    scales
        Factors on that size, one pass each.
    flip
        Whether each pass is repeated on the mirrored picture (left and right changed).
    """

    size: Size | None = None
    scales: tuple[float, ...] = (1.0,)
    flip: bool = False

    def __post_init__(self) -> None:
        if self.size is not None and min(self.size) < 1:
            raise UsageError(f"--size must be WxH in px, each 1 or more, got {self.size}")
        if not self.scales or not all(math.isfinite(s) and 0 < s <= 8 for s in self.scales):
            raise UsageError(f"--scales must be factors above 0 and up to 8, such as 0.75,1,1.25, got {self.scales}")

    @property
    def passes(self) -> int:
        """How often the network runs for one picture."""
        return len(self.scales) * (2 if self.flip else 1)

    def scaled(self, base: Size) -> list[Size]:
        """The sizes of the passes, in the order of the scales."""
        return [Size(max(1, round(base.height * s)), max(1, round(base.width * s))) for s in self.scales]


class ImageLabeller(Protocol):
    """A model that labels whole pictures, whatever runs it."""

    card: ModelCard
    sha256: str
    view: View
    execution: Execution
    at_once: int
    """Pictures that it is best given at once, on threads."""

    def labels(self, rgb: NDArray[np.uint8], *, mpp: float | None = None) -> NDArray[np.uint8]:
        """The class of each px of a picture, (h, w, 3) uint8 -> (h, w) uint8."""
        ...


def size_at_scale(card: ModelCard, own: Size, mpp: float | None) -> Size:
    """Size at which a picture of `mpp` um per px has the model's scale; its own where either is unknown.

    Raises
    ------
    ScaleError
        The picture is coarser than what the model was trained on.
    """
    wanted = card.mpp
    if mpp is None or wanted is None or abs(mpp / wanted - 1) <= SCALE_SLACK:
        return own
    if mpp > wanted:
        raise ScaleError(
            f"the picture has {mpp:g} um per px and {card.name} was trained at {wanted:g}; nothing is "
            "enlarged unless asked: take a finer picture, or give --size"
        )
    return Size(*(max(1, round(side * mpp / wanted)) for side in own))


def picture_bytes(own: Size, *, classes: int, network_bytes: int) -> int:
    """Memory that a picture of size `own` takes, where the largest pass of the network takes `network_bytes`."""
    # Logits at the picture's own size, up to three of them in float32: before and after resizing, and their sum.
    return network_bytes + 12 * classes * math.prod(own)


def free_bytes() -> int:
    """Memory that a picture may take now."""
    return int(machine.free_bytes() * SHARE_OF_FREE)


def refuse_too_large(own: Size, base: Size, needed_bytes: int) -> None:
    """Refuse a picture of size `own`, computed at `base`, that does not fit into the memory that is free.

    Raises
    ------
    BudgetError
        It does not fit; the message has both numbers.
    """
    free = free_bytes()
    if needed_bytes > free:
        raise BudgetError(
            f"a picture of {own} px, computed at {base}, needs {needed_bytes / (1 << 30):.1f} GiB and "
            f"{free / (1 << 30):.1f} GiB are free; give a smaller --size, or take `wsi-espnet segment` for slides"
        )
