"""What the package is compared with: the ways in which a slide is usually segmented, with the same weights.

Both compute in float32 without a compiler, channels last, with as many threads on one window as there are cores.
Their clock runs from the slide being opened to the mask being complete in memory, imports and network loaded before.
"""

from __future__ import annotations

import importlib.util
import time
from pathlib import Path
from typing import Any

import numpy as np
import openslide
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from wsi_espnet.errors import DependencyError, UsageError
from wsi_espnet.geometry import Region
from wsi_espnet.machine import cores
from wsi_espnet.models.card import Normalisation
from wsi_espnet.models.weights import load_model
from wsi_espnet.slides.slide import Slide
from wsi_espnet.slides.tissue import find_tissue

ROI_PX = 512
"""Window that both are given, the usual one of the tools' own examples."""


class FullSize(nn.Module):
    """The network, channels last, with logits of the input's size: (B, 3, H, W) float32 -> (B, C, H, W)."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, windows: Tensor) -> Tensor:
        """Logits in float32."""
        logits: Tensor = self.network(windows.contiguous(memory_format=torch.channels_last))
        if logits.shape[-2:] == windows.shape[-2:]:
            return logits
        return F.interpolate(logits, size=windows.shape[-2:], mode="bilinear", align_corners=False)


def ensure_monai() -> None:
    """Raise `DependencyError` where MONAI is not installed."""
    if importlib.util.find_spec("monai") is None:
        raise DependencyError("this benchmark needs MONAI, which is absent; pip install 'wsi-espnet[bench]'")


def monai_in_ram(*, slide: str, model: str, out: str, overlap: float, sw_batch: int) -> dict[str, Any]:
    """MONAI's SlidingWindowInferer over the whole slide, which is read into memory strip by strip first.

    Raises
    ------
    DependencyError
        MONAI is not installed.
    """
    ensure_monai()
    from monai.inferers.inferer import SlidingWindowInferer  # optional: only this baseline needs it

    network, normalisation = _network(model)
    inferer = SlidingWindowInferer(roi_size=ROI_PX, sw_batch_size=sw_batch, overlap=overlap, mode="gaussian")
    started = time.monotonic()
    with openslide.OpenSlide(slide) as handle, torch.inference_mode():
        pixels = _read_all(handle, normalisation)
        read = time.monotonic() - started
        logits: Any = inferer(pixels, network)
        labels = logits.max(1)[1][0].to(torch.uint8).numpy()
    seconds = time.monotonic() - started
    return {**_save(labels, out), "seconds": seconds, "read_seconds": read, "threads": torch.get_num_threads()}


def plain_loop(*, slide: str, model: str, out: str, halo: int) -> dict[str, Any]:
    """A loop of read_region, network, argmax over windows of 512 px and a halo; those without tissue are skipped."""
    network, normalisation = _network(model)
    started = time.monotonic()
    with Slide(slide) as source:
        plan = source.plan(load_model(model).card.mpp)
        if plan.shape != source.levels[0].shape:
            raise UsageError(f"the baselines read level 0 as it is, and {slide} is not of the model's scale")
        tissue = find_tissue(source, plan)
    labels = np.zeros(plan.shape, np.uint8)
    computed = 0
    with openslide.OpenSlide(slide) as handle, torch.inference_mode():
        for y in range(0, plan.shape[0], ROI_PX):
            for x in range(0, plan.shape[1], ROI_PX):
                core = Region(y, x, min(ROI_PX, plan.shape[0] - y), min(ROI_PX, plan.shape[1] - x))
                if not tissue.touches(core):
                    continue
                image = handle.read_region((x - halo, y - halo), 0, (ROI_PX + 2 * halo, ROI_PX + 2 * halo))
                logits = network(_normalised(np.asarray(image.convert("RGB")), normalisation)[None])
                labels[core.slices] = logits.max(1)[1][0, halo : halo + core.h, halo : halo + core.w].numpy()
                computed += 1
    facts = {"seconds": time.monotonic() - started, "windows": computed, "threads": torch.get_num_threads()}
    return {**_save(labels, out), **facts}


def _network(model: str) -> tuple[FullSize, Normalisation]:
    torch.set_num_threads(cores())
    loaded = load_model(model)
    return FullSize(loaded.module).eval(), loaded.card.normalisation


def _read_all(handle: openslide.OpenSlide, normalisation: Normalisation, strip_px: int = 1024) -> Tensor:
    """(1, 3, H, W) float32, normalised."""
    width, height = handle.dimensions
    pixels = torch.empty((1, 3, height, width))
    for y in range(0, height, strip_px):
        image = handle.read_region((0, y), 0, (width, min(strip_px, height - y))).convert("RGB")
        pixels[0, :, y : y + strip_px] = _normalised(np.asarray(image), normalisation)
    return pixels


def _normalised(rgb: NDArray[np.uint8], normalisation: Normalisation) -> Tensor:
    """(h, w, 3) uint8 -> (3, h, w) float32 as the card says."""
    ordered = np.ascontiguousarray(rgb if normalisation.order == "rgb" else rgb[..., ::-1])
    mean = torch.tensor(normalisation.mean, dtype=torch.float32)
    std = torch.tensor(normalisation.std, dtype=torch.float32) * normalisation.divide
    return ((torch.from_numpy(ordered).float() - mean) / std).permute(2, 0, 1)


def _save(labels: NDArray[np.uint8], out: str) -> dict[str, Any]:
    np.save(Path(out), labels)
    return {"mask": out}
