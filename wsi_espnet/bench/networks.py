"""Networks: what ESPNet and those that its paper compares it with cost on this machine, all run the same way."""

from __future__ import annotations

import logging

import torch

from wsi_espnet.bench.process import Measured, measure
from wsi_espnet.bench.report import Report, gib
from wsi_espnet.bench.settings import Settings
from wsi_espnet.models.network_config import BaselineConfig, EspNetConfig, NetworkConfig, UNetConfig, UnitsConfig

CLASSES = 20
"""The authors' Cityscapes networks have as many."""

NETWORKS: tuple[NetworkConfig, ...] = (
    EspNetConfig(classes=CLASSES),
    EspNetConfig(architecture="espnet-c", classes=CLASSES),
    UnitsConfig(unit="mobilenet", classes=CLASSES),
    UnitsConfig(unit="shufflenet", classes=CLASSES),
    UnitsConfig(unit="resnet", classes=CLASSES),
    BaselineConfig(architecture="enet", classes=CLASSES),
    BaselineConfig(architecture="erfnet", classes=CLASSES),
    BaselineConfig(architecture="esp-psp", classes=CLASSES),
    UNetConfig(classes=CLASSES),
    BaselineConfig(architecture="pspnet", classes=CLASSES),
)
"""The first is what the others are compared with."""

SIZE_PX = (512, 1024)
"""Height and width at which the authors measured Cityscapes; half of each in a quick round."""

PASSES = {"cuda": 50, "cpu": 5}

log = logging.getLogger(__name__)


def run(settings: Settings) -> Report:
    """Each network in a process of its own."""
    height, width = (side // 2 for side in SIZE_PX) if settings.quick else SIZE_PX
    passes = PASSES["cuda" if torch.cuda.is_available() else "cpu"]
    found = []
    for config in NETWORKS:
        log.info("networks: %s", config)
        arguments = {"network": config.model_dump(), "height": height, "width": width, "passes": passes}
        found.append(measure("network", arguments))
    return _report(found, height, width)


def _report(found: list[Measured], height: int, width: int) -> Report:
    first = found[0].result["seconds"]
    rows = [
        (
            one.result["network"].removesuffix(f", {CLASSES} classes"),
            f"{one.result['parameters'] / 1e6:.3f} M",
            f"{one.result['multiply_adds'] / 1e9:.2f} G",
            f"{1 / one.result['seconds']:.2f}",
            f"{one.result['seconds'] / first:.2f}",
            gib(one.peak_bytes),
        )
        for one in found
    ]
    return Report(
        name="networks",
        title=f"one picture of {width}x{height} px, {CLASSES} classes, random weights, on: {found[0].result['device']}",
        columns=("network", "parameters", "multiply-adds", "pictures/s", "time over ESPNet's", "peak memory"),
        rows=rows,
        checks=(),
        facts={"height": height, "width": width, "networks": [one.facts for one in found]},
        notes=(
            "All in torch as they are, float32: ESPNet's own bands, which `segment` uses, are not among this.",
            "Peak memory is that of the process in main memory, some 0.3 GiB of torch's own included.",
        ),
    )
