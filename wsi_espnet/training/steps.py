"""How weights move: which are decayed, how fast the rate goes, and their running average."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from wsi_espnet.training.config import OptimiserConfig, ScheduleConfig


def make_optimiser(module: nn.Module, config: OptimiserConfig) -> torch.optim.Optimizer:
    """The optimiser that `config` asks for, over all parameters of `module`."""
    if config.decay_all:
        groups = [{"params": list(module.parameters()), "weight_decay": config.weight_decay}]
    else:
        groups = decayed_or_not(module, config.weight_decay)
    if config.name == "sgd":
        return torch.optim.SGD(groups, lr=config.learning_rate, momentum=config.momentum, nesterov=config.nesterov)
    kind = torch.optim.Adam if config.name == "adam" else torch.optim.AdamW
    return kind(groups, lr=config.learning_rate, betas=config.betas)


def decayed_or_not(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Decay for kernels alone: decaying gains is what killed channels in the authors' weights."""
    kernels = [p for p in module.parameters() if p.ndim > 1]
    others = [p for p in module.parameters() if p.ndim <= 1]
    return [{"params": kernels, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]


def rate_factor(step: int, config: ScheduleConfig, *, steps_per_epoch: int, total_steps: int) -> float:
    """What the learning rate is multiplied with in step 0 .. total_steps - 1.

    A linear rise that reaches 1 with the last step of the warm-up, then the schedule over what remains.

    Examples
    --------
    >>> poly = ScheduleConfig(name="poly", power=1.0, warm_up_epochs=1)
    >>> [rate_factor(step, poly, steps_per_epoch=2, total_steps=6) for step in range(6)]
    [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]
    """
    warm_up = round(config.warm_up_epochs * steps_per_epoch)
    if step < warm_up:
        return (step + 1) / warm_up
    if config.name == "step":
        return float(config.gamma ** (step // (steps_per_epoch * config.step_epochs)))
    done = min(1.0, (step - warm_up) / max(1, total_steps - warm_up))
    if config.name == "poly":
        return float((1 - done) ** config.power)
    if config.name == "cosine":
        return 0.5 * (1 + math.cos(math.pi * done))
    return 1.0


def average_decay(step: int, decay: float) -> float:
    """Decay of the running average after `step` steps: less at the start, so that the random start is forgotten.

    Examples
    --------
    >>> average_decay(1, 0.999), average_decay(100_000, 0.999)
    (0.18181818181818182, 0.999)
    """
    return min(decay, (1 + step) / (10 + step))


@torch.no_grad()
def move_average(average: nn.Module, module: nn.Module, decay: float) -> None:
    """Bring `average` nearer to `module`: decay * average + (1 - decay) * module, statistics of normalisation too."""
    for slow, fast in zip(average.state_dict().values(), module.state_dict().values(), strict=True):
        if slow.is_floating_point():
            slow.lerp_(fast, 1 - decay)
        else:
            slow.copy_(fast)
