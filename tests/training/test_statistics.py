"""Means and variances of batch normalisation, against numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from wsi_espnet.training.statistics import measure_statistics


def test_statistics_are_the_means_of_those_of_the_batches_each_normalised_by_its_own() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.BatchNorm2d(3), nn.Dropout(0.5), nn.Conv2d(3, 4, 1, bias=False), nn.BatchNorm2d(4))
    network.train()
    network[1].eval()
    network[0].momentum = 0.3
    before = {key: tensor.clone() for key, tensor in network.state_dict().items() if "weight" in key or "bias" in key}
    batches = [scale * torch.randn(2, 3, 5, 7) + scale for scale in (1.0, 2.0, 5.0)]

    measure_statistics(network, iter(batches))

    means, variances, deeper = [], [], []
    for batch in (b.double().numpy() for b in batches):
        means.append(batch.mean(axis=(0, 2, 3)))
        variances.append(batch.var(axis=(0, 2, 3), ddof=1))
        spread = np.sqrt(batch.var(axis=(0, 2, 3)) + 1e-5)
        normal = (batch - means[-1][:, None, None]) / spread[:, None, None]
        mixed = np.einsum("oc,bchw->bohw", network[2].weight.detach().double().numpy()[:, :, 0, 0], normal)
        deeper.append(mixed.var(axis=(0, 2, 3), ddof=1))
    np.testing.assert_allclose(network[0].running_mean.numpy(), np.mean(means, axis=0), rtol=1e-5)
    np.testing.assert_allclose(network[0].running_var.numpy(), np.mean(variances, axis=0), rtol=1e-5)
    np.testing.assert_allclose(network[3].running_var.numpy(), np.mean(deeper, axis=0), rtol=1e-4)
    assert [module.training for module in network] == [True, False, True, True]
    assert (network[0].momentum, network[3].momentum) == (0.3, 0.1)
    assert all(torch.equal(network.state_dict()[key], tensor) for key, tensor in before.items())


@pytest.mark.parametrize("seed", range(3))
def test_a_network_with_the_statistics_of_one_batch_treats_it_as_in_training(seed: int) -> None:
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 2, 3), nn.BatchNorm2d(2))
    batch = torch.randn(4, 3, 32, 32)
    measure_statistics(network, [batch])
    with torch.no_grad():
        torch.testing.assert_close(network.eval()(batch), network.train()(batch), rtol=2e-3, atol=2e-3)
