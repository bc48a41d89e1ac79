"""From 8-bit RGB to labels and 8-bit probabilities: a network with its normalisation before and its choice behind."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wsi_espnet.inference import kernels
from wsi_espnet.inference.bands import Workspace, run_in_bands
from wsi_espnet.inference.layers import in_precision
from wsi_espnet.models.card import ModelCard
from wsi_espnet.models.espnet import EspNet


class Segmenter(nn.Module):
    """The whole way in one graph, so that a compiler can fuse both ends.

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


class BandedSegmenter:
    """The same in bands of rows, on the CPU: twice as fast in half the memory, equal but for rounding.

    Threads may call it at once. Memory for maps is kept from one window to the next, as much as calls at once need;
    not for each thread, as there is one more of these than windows in the network.
    """

    def __init__(self, whole: Segmenter) -> None:
        assert isinstance(whole.network, EspNet)
        self._network = in_precision(whole.network, whole.dtype)
        self._whole = whole
        self._idle: list[Workspace] = []

    def __call__(self, windows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, H, W, 3) uint8 -> labels (B, H, W) uint8, probabilities (B, C, H, W) uint8, finite () bool."""
        whole = self._whole
        batch, height, width = windows.shape[:3]
        classes = self._network.classifier.out_channels
        labels = torch.empty((batch, height, width), dtype=torch.uint8)
        probabilities = torch.empty((batch, classes, height, width), dtype=torch.uint8)
        finite = True
        ordered = windows if whole.channels == [0, 1, 2] else windows[..., whole.channels]
        with self._workspace() as workspace:
            for number, window in enumerate(ordered):
                results = labels[number].numpy(), probabilities[number].numpy()
                for row, logits in run_in_bands(self._network, window, whole.mean, whole.scale, workspace):
                    finite &= kernels.read_out(logits, *results, row)
        return labels, probabilities, torch.tensor(finite)

    @contextlib.contextmanager
    def _workspace(self) -> Iterator[Workspace]:
        try:
            workspace = self._idle.pop()
        except IndexError:
            workspace = Workspace(self._whole.dtype)
        try:
            yield workspace
        finally:
            self._idle.append(workspace)


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
