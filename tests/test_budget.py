"""Memory is added up before a run, and a run that does not fit is refused."""

from __future__ import annotations

import pytest

from wsi_espnet.budget import INTERPRETER_BYTES, Demand, plan_memory
from wsi_espnet.errors import BudgetError, UsageError

GIB = 1 << 30
DEMAND = Demand(network_bytes=GIB, window_bytes=GIB // 8, waiting_bytes=GIB // 4, fixed_bytes=GIB // 16)


def test_the_sum_is_one_network_per_worker_and_one_window_more() -> None:
    expected = INTERPRETER_BYTES + GIB // 16 + GIB // 4 + 3 * GIB + 4 * GIB // 8
    assert DEMAND.total(3) == expected


def test_workers_are_as_many_as_fit() -> None:
    assert plan_memory(DEMAND, workers=None, budget_bytes=DEMAND.total(1)).workers == 1


def test_workers_that_were_asked_for_are_never_fewer() -> None:
    with pytest.raises(BudgetError, match=r"GiB.*--memory"):
        plan_memory(DEMAND, workers=2, budget_bytes=DEMAND.total(2) - 1)
    assert plan_memory(DEMAND, workers=2, budget_bytes=DEMAND.total(2)).workers == 2


def test_a_run_that_fits_no_worker_is_refused() -> None:
    with pytest.raises(BudgetError, match="smaller --window"):
        plan_memory(DEMAND, workers=None, budget_bytes=GIB)


def test_one_thread_reads_ahead() -> None:
    memory = plan_memory(DEMAND, workers=4, budget_bytes=100 * GIB)
    assert memory.threads == memory.workers + 1


def test_no_workers_is_a_mistake() -> None:
    with pytest.raises(UsageError):
        plan_memory(DEMAND, workers=0, budget_bytes=None)
