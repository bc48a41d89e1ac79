"""Memory is added up before a run, and a run that does not fit is refused."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

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
    with pytest.raises(BudgetError, match=r"2 windows at once, .* GiB.*--window, fewer --workers or a larger --memory"):
        plan_memory(DEMAND, workers=2, budget_bytes=DEMAND.total(2) - 1)
    assert plan_memory(DEMAND, workers=2, budget_bytes=DEMAND.total(2)).workers == 2


def test_a_run_that_fits_no_worker_is_refused() -> None:
    with pytest.raises(BudgetError, match=r"one window, .* use a smaller --window or a larger --memory"):
        plan_memory(DEMAND, workers=None, budget_bytes=GIB)


def test_one_thread_reads_ahead() -> None:
    memory = plan_memory(DEMAND, workers=4, budget_bytes=100 * GIB)
    assert memory.threads == memory.workers + 1


def test_no_workers_is_a_mistake() -> None:
    with pytest.raises(UsageError):
        plan_memory(DEMAND, workers=0, budget_bytes=None)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has such a limit")
def test_large_freed_blocks_return_to_the_system() -> None:
    """Blocks of 20 MiB are given back one by one, whatever still lies above them; by default glibc would keep them."""
    code = """
import ctypes, sys
from wsi_espnet.budget import set_up_malloc
libc = ctypes.CDLL(None)
libc.malloc.restype = libc.memset.restype = ctypes.c_void_p
libc.memset.argtypes, libc.free.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t), (ctypes.c_void_p,)
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096 >> 20
if sys.argv[1] == "limited":
    set_up_malloc()
libc.free(libc.malloc(ctypes.c_size_t(31 << 20)))  # teaches glibc to keep blocks of up to this size
before = resident()
blocks = [libc.memset(libc.malloc(ctypes.c_size_t(20 << 20)), 1, 20 << 20) for _ in range(10)]
for block in blocks[:-1]:
    libc.free(block)
print(resident() - before)
"""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MALLOC_")}

    def kept(how: str) -> int:
        command = [sys.executable, "-c", code, how]
        return int(subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout)

    assert kept("limited") <= 40
    assert kept("default") >= 180


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has such a limit")
def test_freed_memory_is_kept_for_the_next_step_of_a_training() -> None:
    """Page faults of ten rounds of the same blocks, after a first one; by default each block is fresh every time."""
    code = """
import resource, sys
import numpy as np
from wsi_espnet.budget import keep_freed_memory
if sys.argv[1] == "kept":
    keep_freed_memory()
def step():
    return [np.full(size << 20, 1, np.uint8) for size in (40, 80, 60)]
step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    # numpy would ask for pages of 2 MiB, of which there are few to count.
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MALLOC_")}
    environment["NUMPY_MADVISE_HUGEPAGE"] = "0"

    def faults(how: str) -> int:
        command = [sys.executable, "-c", code, how]
        return int(subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout)

    assert faults("kept") * 20 < faults("default")


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's malloc alone is told")
def test_what_lies_free_between_blocks_in_use_is_given_back() -> None:
    code = """
import ctypes, psutil
from wsi_espnet.budget import give_back_freed
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]
blocks = [libc.malloc(100_000) for _ in range(2000)]
for block in blocks:
    ctypes.memset(block, 1, 100_000)
for index, block in enumerate(blocks):
    if index % 10:
        libc.free(block)
held = psutil.Process().memory_info().rss
give_back_freed()
print(held - psutil.Process().memory_info().rss)
"""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MALLOC_")}
    command = [sys.executable, "-c", code]
    given = int(subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout)
    assert given > 150_000_000  # 180 MB are free between blocks of 20 MB
