"""Schedules, decay and the running average."""

from __future__ import annotations

import itertools

import pytest
import torch

from wsi_espnet.models.espnet import build
from wsi_espnet.models.network_config import EspNetConfig
from wsi_espnet.training.config import OptimiserConfig, ScheduleConfig
from wsi_espnet.training.steps import average_decay, make_optimiser, move_average, rate_factor


def rates(steps: int, **settings: object) -> list[float]:
    config = ScheduleConfig.model_validate(settings)
    return [rate_factor(step, config, steps_per_epoch=10, total_steps=steps) for step in range(steps)]


def test_warm_up_rises_evenly_to_the_full_rate() -> None:
    for name in ("poly", "cosine", "step", "constant"):
        found = rates(100, name=name, warm_up_epochs=2)
        assert found[:20] == pytest.approx([(step + 1) / 20 for step in range(20)])
        assert max(found) == found[19] == 1


def test_poly_is_that_of_torch() -> None:
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimiser = torch.optim.SGD([parameter], lr=1.0)
    schedule = torch.optim.lr_scheduler.PolynomialLR(optimiser, total_iters=50, power=0.9)
    for rate in rates(50, name="poly", power=0.9):
        assert rate == pytest.approx(optimiser.param_groups[0]["lr"])
        optimiser.step()
        schedule.step()


def test_cosine_is_that_of_torch() -> None:
    optimiser = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, T_max=50)
    for rate in rates(50, name="cosine"):
        assert rate == pytest.approx(optimiser.param_groups[0]["lr"])
        optimiser.step()
        schedule.step()


def test_steps_halve_after_so_many_epochs() -> None:
    found = rates(100, name="step", step_epochs=3, gamma=0.5)
    assert found[:30] == [1.0] * 30
    assert found[30:60] == [0.5] * 30
    assert found[60:90] == [0.25] * 30
    assert rates(40, name="constant") == [1.0] * 40


@pytest.mark.parametrize("name", ["poly", "cosine"])
def test_a_schedule_falls_to_almost_nothing(name: str) -> None:
    found = rates(1000, name=name, warm_up_epochs=1)
    assert all(a >= b for a, b in itertools.pairwise(found[9:]))
    assert 0 <= found[-1] < 0.01


@pytest.mark.parametrize(
    ("name", "kind"), [("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW), ("sgd", torch.optim.SGD)]
)
def test_gains_biases_and_leaks_are_not_decayed(name: str, kind: type) -> None:
    network = build(EspNetConfig(p=1, q=1, classes=5))
    config = OptimiserConfig(name=name, learning_rate=0.3, weight_decay=0.2)  # type: ignore[arg-type]
    optimiser = make_optimiser(network, config)
    assert type(optimiser) is kind
    decay = {id(p): group["weight_decay"] for group in optimiser.param_groups for p in group["params"]}
    kernels = {key for key, p in network.named_parameters() if decay[id(p)] == 0.2}
    assert len(decay) == len(list(network.parameters()))
    assert {key.rpartition(".")[2] for key, _ in network.named_parameters()} == {"weight", "bias"}
    assert {key for key, p in network.named_parameters() if p.ndim == 4} == kernels
    everything = make_optimiser(network, config.model_copy(update={"decay_all": True}))
    assert [group["weight_decay"] for group in everything.param_groups] == [0.2]
    assert all(group["lr"] == 0.3 for group in optimiser.param_groups)


def test_the_average_is_the_weighted_sum_of_all_that_was() -> None:
    module, average = torch.nn.BatchNorm1d(1), torch.nn.BatchNorm1d(1)
    wanted = 1.0
    for step, value in enumerate((3.0, -2.0, 0.5, 7.0), start=1):
        with torch.no_grad():
            module.weight.fill_(value)
            module.running_var.fill_(value)  # type: ignore[union-attr, operator]
            module.num_batches_tracked.fill_(step)  # type: ignore[union-attr, operator]
        decay = average_decay(step, 0.99)
        assert decay == pytest.approx((1 + step) / (10 + step))
        move_average(average, module, decay)
        wanted = decay * wanted + (1 - decay) * value
        assert average.weight.item() == pytest.approx(wanted)
        assert average.running_var.item() == pytest.approx(wanted)  # type: ignore[union-attr]
    assert average.num_batches_tracked == 4
    assert average_decay(10**6, 0.99) == 0.99
