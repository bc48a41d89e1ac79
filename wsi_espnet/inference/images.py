"""Whole pictures of any size through a network: photographs, street scenes, small pieces of tissue.

Slides go through `wsi_espnet.inference.schedule`, in windows and bounded memory; a picture is one window.
"""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from wsi_espnet.errors import ModelError
from wsi_espnet.inference import kernels
from wsi_espnet.inference.predictor import Execution
from wsi_espnet.inference.segmenter import Banded
from wsi_espnet.inference.torch_backend import DTYPES, choose_execution, in_bands, network_bytes
from wsi_espnet.inference.view import Size, View, free_bytes, picture_bytes, refuse_too_large, size_at_scale
from wsi_espnet.models.espnet import MULTIPLE
from wsi_espnet.models.weights import LoadedModel


class ImagePredictor:
    """A model that labels whole pictures; threads may call it at once.

    ESPNet goes over a picture in bands on the CPU. Of several at once each takes its share of the cores, and waits
    until there is memory for it.

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
        self.sha256 = model.sha256
        self.view = view
        self.execution: Execution = choose_execution(device=device, precision=precision, batch=1)
        self._device = torch.device(self.execution.device)
        self._dtype = DTYPES[self.execution.precision]
        self._network = model.module.to(self._device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
        self._banded: Banded | None = None
        if in_bands(model.card, self.execution):
            self._banded = Banded(self._network, self._dtype)
        self._cores = torch.get_num_threads()
        self.at_once = self._cores if self._banded else 1
        self._changed = threading.Condition()
        self._at_work: list[int] = []
        """Memory of each picture that is computed, in bytes."""
        self._room = 0

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
        with torch.inference_mode():
            said = self._said(rgb, mpp)[0]
            if self._device.type != "cpu":
                return said.argmax(dim=0).to(torch.uint8).cpu().numpy()
            labels = np.empty(rgb.shape[:2], np.uint8)
            kernels.label(said.contiguous().numpy(), labels)  # torch's argmax takes half as long as the network
            return labels

    def logits(self, rgb: NDArray[np.uint8], *, mpp: float | None = None) -> NDArray[np.float32]:
        """What the network says of each px, (C, h, w) float32, in one pass; parameters and errors as in `labels`."""
        assert self.view.passes == 1  # several passes average probabilities
        with torch.inference_mode():
            return self._said(rgb, mpp)[0].cpu().numpy()

    def _said(self, rgb: NDArray[np.uint8], mpp: float | None) -> Tensor:
        """(1, C, h, w): logits of one pass, or the sum of the probabilities of several."""
        own = Size(*rgb.shape[:2])
        base = self.view.size or size_at_scale(self.card, own, mpp)
        with self._share(own, base):
            # At its own size first: normalising and resizing change places without effect, both being linear.
            whole = torch.from_numpy(self.card.normalisation.apply(rgb))[None].to(self._device)  # (1, 3, h, w)
            said = self._average(whole, base) if self.view.passes > 1 else self._logits(whole, base, own)
        if not bool(torch.isfinite(said.sum())):
            raise ModelError(
                f"the network {self.card.name!r} gives values that are not finite; its weights are damaged, or the "
                "precision is too low for it: try --precision fp32"
            )
        return said

    def _average(self, whole: Tensor, base: Size) -> Tensor:
        """Sum of the probabilities over all passes, (1, C, h, w)."""
        own = Size(*whole.shape[-2:])
        total = torch.zeros((1, len(self.card.classes), *own), device=self._device)
        for size in self.view.scaled(base):
            total += self._logits(whole, size, own).softmax(dim=1)
            if self.view.flip:
                total += self._logits(whole.flip(-1), size, own).softmax(dim=1).flip(-1)
        return total

    def _logits(self, whole: Tensor, size: Size, own: Size) -> Tensor:
        """(1, 3, h, w) -> logits (1, C, h, w), computed at `size`."""
        x = _resize(whole, size).contiguous(memory_format=torch.channels_last)
        if self._banded is not None:
            return _resize(self._banded(x), own)
        with torch.autocast(self._device.type, self._dtype, enabled=self._dtype != torch.float32):
            logits = self._network(x)
        logits = logits.float()
        if self._network.stride > 1:  # logits of the padded picture at stride 8
            padded = Size(*(side * MULTIPLE for side in logits.shape[-2:]))
            logits = _resize(logits, padded)[..., : size.height, : size.width]
        return _resize(logits, own)

    @contextlib.contextmanager
    def _share(self, own: Size, base: Size) -> Iterator[None]:
        """Wait for memory for a picture, refuse one that there is too little for, and take a share of the cores."""
        if self._device.type != "cpu":
            yield
            return
        area = int(max(self.view.scales) ** 2 * math.prod(base))
        network = network_bytes(area, card=self.card, execution=self.execution)
        needed = picture_bytes(own, classes=len(self.card.classes), network_bytes=network)
        with self._changed:
            self._changed.wait_for(lambda: not self._at_work or sum(self._at_work) + needed <= self._room)
            if not self._at_work:
                refuse_too_large(own, base, needed)
                self._room = free_bytes()
            self._at_work.append(needed)
            threads = max(1, self._cores // len(self._at_work))
        before = torch.get_num_threads()
        try:
            torch.set_num_threads(threads)  # of this thread
            yield
        finally:
            torch.set_num_threads(before)
            with self._changed:
                self._at_work.remove(needed)
                self._changed.notify_all()


def _resize(x: Tensor, size: Size) -> Tensor:
    """Bilinear between px centres; `x` itself where nothing changes.

    Averages over what falls into a px where a picture shrinks to less than half, which plain bilinear would skip.
    """
    if x.shape[-2:] == tuple(size):
        return x
    skips = max(old / new for old, new in zip(x.shape[-2:], size, strict=True)) > 2
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=False, antialias=skips)
