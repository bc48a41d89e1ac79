"""What the processes of the benchmark of networks do."""

from __future__ import annotations

import statistics
import time
from typing import Any

import torch
from pydantic import TypeAdapter
from torch.utils.flop_counter import FlopCounterMode

from wsi_espnet.models.network_config import StoredNetwork
from wsi_espnet.models.networks import build


def time_passes(*, network: dict[str, Any], height: int, width: int, passes: int) -> dict[str, Any]:
    """One picture through a network of random weights, again and again, on one core or the first CUDA device."""
    config: StoredNetwork = TypeAdapter(StoredNetwork).validate_python(network)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_num_threads(1)
    net = build(config).eval().requires_grad_(False)
    net = net.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    x = torch.randn(1, 3, height, width, device=device).contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        with FlopCounterMode(display=False) as counter:
            net(x)
        seconds = [_seconds(net, x) for _ in range(passes)]
    return {
        "network": str(config),
        "device": torch.cuda.get_device_name() if device == "cuda" else "one core",
        "parameters": sum(p.numel() for p in net.parameters()),
        "multiply_adds": counter.get_total_flops() // 2,  # torch counts both
        "seconds": statistics.median(seconds),
        "slowest_s": max(seconds),
    }


def _seconds(net: torch.nn.Module, x: torch.Tensor) -> float:
    started = time.perf_counter()
    net(x)
    if x.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - started
