"""From 8-bit RGB to labels and 8-bit probabilities: a network with its normalisation before and its choice behind."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from wsi_espnet.inference import kernels
from wsi_espnet.inference.bands import BandedEspNet
from wsi_espnet.inference.layers import in_precision
from wsi_espnet.inference.maps import Workspace
from wsi_espnet.inference.predictor import Columns
from wsi_espnet.models.card import ModelCard
from wsi_espnet.models.espnet import MULTIPLE, EspNet, crop_to, pad_to_multiple

TOLD_AFTER_S = 2
"""How long kernels may take to be there before somebody is told why nothing happens."""

log = logging.getLogger(__name__)


class Segmenter(nn.Module):
    """The whole way, from px to labels and probabilities.

    Parameters
    ----------
    network, card
        What is run, and what it wants to see.
    dtype, device_type
        What it multiplies in, and on what.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, network: nn.Module, card: ModelCard, dtype: torch.dtype, device_type: str) -> None:
        super().__init__()
        self.network = network
        self.dtype = dtype
        self.device_type = device_type
        norm = card.normalisation
        self.channels = [0, 1, 2] if norm.order == "rgb" else [2, 1, 0]
        scale = torch.tensor(norm.std, dtype=torch.float32) * norm.divide
        self.register_buffer("mean", torch.tensor(norm.mean, dtype=torch.float32))
        self.register_buffer("scale", 1 / scale)

    def forward(self, windows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, H, W, 3) uint8 -> labels (B, H, W) uint8, probabilities (B, C, H, W) uint8, finite () bool."""
        values = (windows[..., self.channels].float() - self.mean) * self.scale
        with torch.autocast(self.device_type, self.dtype, enabled=self.dtype != torch.float32):
            logits = self.network(values.permute(0, 3, 1, 2))
        logits = logits.float()  # (B, C, H / stride, W / stride)
        if logits.shape[-2:] != windows.shape[1:3]:
            logits = F.interpolate(logits, size=windows.shape[1:3], mode="bilinear", align_corners=False)
        return *read_out(logits), torch.isfinite(logits.sum())


KEPT_PX = 4 << 20
"""Px of the largest picture after which the memory of its maps, 270 MiB in fp32, is kept for the next. Pictures at once
would otherwise each come to keep as much as the largest of all took."""


class Banded:
    """ESPNet in bands of rows, on the CPU, equal to what it is whole but for rounding.

    Threads may call it at once. Memory for maps is kept from one window to the next, as much as calls at once need;
    not for each thread, as there is one more of these than windows in the network.
    """

    def __init__(self, network: nn.Module, dtype: torch.dtype) -> None:
        assert isinstance(network, EspNet)
        self._run = BandedEspNet(in_precision(network, dtype).requires_grad_(False))
        self._dtype = dtype
        self._idle: list[Workspace] = []
        self._lock = threading.Lock()
        self._compiled = False

    @property
    def classes(self) -> int:
        """Planes of the logits."""
        return self._run.classes

    def bands(
        self, window: Tensor, mean: Tensor, scale: Tensor, columns: Columns | None
    ) -> Iterator[tuple[int, int, NDArray[np.float32]]]:
        """As `BandedEspNet`."""
        self._compile(window.dtype)
        with self._workspace() as workspace:
            yield from self._run(window, mean, scale, workspace, columns)

    def __call__(self, x: Tensor) -> Tensor:
        """(1, 3, H, W) float32 as the network sees it, of any size -> logits (1, C, H, W)."""
        self._compile(x.dtype)
        padded = pad_to_multiple(x)
        logits = torch.empty((1, self.classes, *padded.shape[-2:]))
        as_it_is = torch.zeros(3), torch.ones(3)
        small = padded.shape[2] * padded.shape[3] <= KEPT_PX
        with self._workspace() if small else contextlib.nullcontext(Workspace(self._dtype)) as workspace:
            values = padded[0].permute(1, 2, 0).contiguous()
            for row, _, band in self._run(values, *as_it_is, workspace):
                logits[0, :, row : row + band.shape[1]] = torch.from_numpy(band)
        return crop_to(logits, x)

    def _compile(self, px: torch.dtype) -> None:
        """The first call of all compiles kernels, where no earlier run on this machine has left them."""
        with self._lock:
            if self._compiled:
                return
            text = "compiling the network for this processor, about 15 s; later runs find it there"
            timer = threading.Timer(TOLD_AFTER_S, log.info, [text])
            timer.start()
            try:
                smallest = torch.zeros((MULTIPLE, MULTIPLE, 3), dtype=px)
                for _ in self._run(smallest, torch.zeros(3), torch.ones(3), Workspace(self._dtype)):
                    pass
            finally:
                timer.cancel()
            self._compiled = True

    @contextlib.contextmanager
    def _workspace(self) -> Iterator[Workspace]:
        try:
            workspace = self._idle.pop()
        except IndexError:
            workspace = Workspace(self._dtype)
        try:
            yield workspace
        finally:
            self._idle.append(workspace)


class BandedSegmenter:
    """A `Segmenter` in bands: more than twice as fast in half the memory."""

    def __init__(self, whole: Segmenter) -> None:
        self._network = Banded(whole.network, whole.dtype)
        self._whole = whole

    def __call__(self, windows: Tensor, columns: Sequence[Columns] | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """(B, H, W, 3) uint8 -> labels (B, H, W) uint8, probabilities (B, C, H, W) uint8, finite () bool.

        What is not computed has class 0 and no probability.
        """
        whole = self._whole
        batch, height, width = windows.shape[:3]
        labels = torch.zeros((batch, height, width), dtype=torch.uint8)
        probabilities = torch.zeros((batch, self._network.classes, height, width), dtype=torch.uint8)
        finite = True
        ordered = windows if whole.channels == [0, 1, 2] else windows[..., whole.channels]
        for number, window in enumerate(ordered):
            results = labels[number].numpy(), probabilities[number].numpy()
            wanted = None if columns is None else columns[number]
            for row, column, logits in self._network.bands(window, whole.mean, whole.scale, wanted):
                finite &= kernels.read_out(logits, *results, row, column)
        return labels, probabilities, torch.tensor(finite)


def read_out(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Logits (B, C, H, W) float32 -> labels (B, H, W) and probabilities (B, C, H, W), both uint8; 255 is 1.

    Plane by plane: at 3 classes `argmax` alone takes longer than all of this. Of equal logits the first class wins.
    """
    planes = logits.contiguous()
    best = planes[:, 0]
    labels = torch.zeros_like(best, dtype=torch.uint8)
    for label in range(1, planes.shape[1]):
        plane = planes[:, label]
        labels = torch.maximum(labels, (plane > best).to(torch.uint8) * label)  # later labels are larger
        best = torch.maximum(best, plane)
    return labels, torch.softmax(planes, dim=1).mul_(255).round_().to(torch.uint8)
