"""What batch normalisation takes for the mean and variance of its input, measured afresh.

While a network trains, each batch is normalised by its own statistics; a trained one by a running mean of those, which
fits neither the mean of several networks' weights nor pictures that hold more glass than the crops did.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn


@torch.no_grad()
def measure_statistics(network: nn.Module, batches: Iterable[Tensor]) -> None:
    """Replace means and variances by the means of those of `batches`; weights and modes stay as they are.

    Each batch counts alike, and is normalised by its own statistics on its way (Wu and Johnson 2021, arXiv 2105.07576,
    section 3, "PreciseBN").

    Parameters
    ----------
    network
        In any mode.
    batches
        (B, 3, H, W), at least one.
    """
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    modes = [(module, module.training) for module in network.modules()]
    momenta = [norm.momentum for norm in norms]
    network.eval()  # what else behaves otherwise in training does as it will later
    for norm in norms:
        norm.train()
        norm.reset_running_stats()
        norm.momentum = None  # torch then takes the mean over all batches
    for batch in batches:
        network(batch.contiguous(memory_format=torch.channels_last))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    for module, training in modes:
        module.training = training
