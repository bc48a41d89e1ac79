"""Whole pictures of any size through a network: photographs, street scenes, small pieces of tissue.

Slides go through `wsi_espnet.inference.schedule`, in windows and bounded memory; a picture goes through in one piece.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import psutil
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from wsi_espnet.budget import SHARE_OF_FREE
from wsi_espnet.errors import BudgetError, ModelError, ScaleError, UsageError
from wsi_espnet.inference.predictor import Execution
from wsi_espnet.inference.torch_backend import choose_execution, network_bytes
from wsi_espnet.models.espnet import MULTIPLE
from wsi_espnet.models.weights import LoadedModel

SCALE_SLACK = 0.01
"""Relative difference of um per px that counts as none: less than a px in a hundred."""

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


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


class ImagePredictor:
    """A model that labels whole pictures.

    Parameters
    ----------
    model
        Network with its card.
    view
        How it looks at them.
    device, precision
        As in `wsi_espnet.inference.torch_backend.choose_execution`.

    Raises
    ------
    UsageError
        There is no such device or precision.
    """

    def __init__(self, model: LoadedModel, view: View, *, device: str, precision: str) -> None:
        self.card = model.card
        self.view = view
        self.execution: Execution = choose_execution(
            device=device, precision=precision, compiled=False, batch=1, work_px=0
        )
        self._device = torch.device(self.execution.device)
        self._dtype = _DTYPES[self.execution.precision]
        self._network = model.module.to(self._device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]

    def labels(self, rgb: NDArray[np.uint8], *, mpp: float | None = None) -> NDArray[np.uint8]:
        """The class of each px of a picture, by the largest of all outputs.

        One pass takes the largest logit; several average their probabilities, each enlarged to the picture's own size.

        Parameters
        ----------
        rgb
            (h, w, 3) uint8.
        mpp
            Its um per px; None for photographs.

        Returns
        -------
        numpy.ndarray
            (h, w) uint8, ids of the card's class table.

        Raises
        ------
        ScaleError
            It is coarser than what the model was trained on, and no size is given.
        BudgetError
            It is too large for the memory that is free.
        ModelError
            The network gives NaN or infinite logits.
        """
        own = Size(*rgb.shape[:2])
        base = self.view.size or self._at_scale(own, mpp)
        self._refuse_too_large(own, base)
        with torch.inference_mode():
            # At its own size first: normalising and resizing change places without effect, both being linear.
            whole = torch.from_numpy(self.card.normalisation.apply(rgb))[None].to(self._device)  # (1, 3, h, w)
            said = self._average(whole, base) if self.view.passes > 1 else self._logits(whole, base, own)
            if not bool(torch.isfinite(said.sum())):
                raise ModelError(
                    f"the network {self.card.name!r} gives values that are not finite; its weights are damaged, or the "
                    "precision is too low for it: try --precision fp32"
                )
            return said[0].argmax(dim=0).to(torch.uint8).cpu().numpy()

    def _average(self, whole: Tensor, base: Size) -> Tensor:
        """Sum of the probabilities over all passes, (1, C, h, w)."""
        own = Size(*whole.shape[-2:])
        total = torch.zeros((1, len(self.card.classes), *own), device=self._device)
        for scale in self.view.scales:
            size = Size(max(1, round(base.height * scale)), max(1, round(base.width * scale)))
            total += self._logits(whole, size, own).softmax(dim=1)
            if self.view.flip:
                total += self._logits(whole.flip(-1), size, own).softmax(dim=1).flip(-1)
        return total

    def _logits(self, whole: Tensor, size: Size, own: Size) -> Tensor:
        """(1, 3, h, w) -> logits (1, C, h, w), computed at `size`."""
        x = _resize(whole, size).contiguous(memory_format=torch.channels_last)
        with torch.autocast(self._device.type, self._dtype, enabled=self._dtype != torch.float32):
            logits = self._network(x)
        logits = logits.float()
        if self._network.stride > 1:  # logits of the padded picture at stride 8
            padded = Size(*(side * MULTIPLE for side in logits.shape[-2:]))
            logits = _resize(logits, padded)[..., : size.height, : size.width]
        return _resize(logits, own)

    def _at_scale(self, own: Size, mpp: float | None) -> Size:
        """Size at which the picture has the model's um per px."""
        wanted = self.card.mpp
        if mpp is None or wanted is None or abs(mpp / wanted - 1) <= SCALE_SLACK:
            return own
        if mpp > wanted:
            raise ScaleError(
                f"the picture has {mpp:g} um per px and {self.card.name} was trained at {wanted:g}; nothing is "
                "enlarged unless asked: take a finer picture, or give --size"
            )
        return Size(*(max(1, round(side * mpp / wanted)) for side in own))

    def _refuse_too_large(self, own: Size, base: Size) -> None:
        if self._device.type != "cpu":
            return
        classes = len(self.card.classes)
        area = max(self.view.scales) ** 2 * math.prod(base)
        # Logits at the picture's own size, up to three of them in float32: before and after resizing, and their sum.
        needed = network_bytes(int(area), classes=classes, execution=self.execution) + 12 * classes * math.prod(own)
        free = int(psutil.virtual_memory().available * SHARE_OF_FREE)
        if needed > free:
            raise BudgetError(
                f"a picture of {own} px, computed at {base}, needs {needed / (1 << 30):.1f} GiB and "
                f"{free / (1 << 30):.1f} GiB are free; give a smaller --size, or take `wsi-espnet segment` for slides"
            )


def _resize(x: Tensor, size: Size) -> Tensor:
    """Bilinear between px centres; `x` itself where nothing changes.

    Averages over what falls into a px where a picture shrinks to less than half, which plain bilinear would skip.
    """
    if x.shape[-2:] == tuple(size):
        return x
    skips = max(old / new for old, new in zip(x.shape[-2:], size, strict=True)) > 2
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=False, antialias=skips)
