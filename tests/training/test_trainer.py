"""What training changes in the process that it runs in, and puts back."""

from __future__ import annotations

import pytest
import torch

from wsi_espnet.training.trainer import arithmetic

SMALLEST = torch.finfo(torch.float32).smallest_normal


def half_of_the_smallest() -> float:
    return (torch.tensor(SMALLEST) / 2).item()


@pytest.mark.parametrize("raises", [False, True])
def test_denormals_are_nought_while_training_and_threads_as_asked_and_both_as_before_afterwards(raises: bool) -> None:
    threads = torch.get_num_threads()
    assert half_of_the_smallest() == SMALLEST / 2
    try:
        with arithmetic(threads + 1):
            assert half_of_the_smallest() == 0
            assert torch.get_num_threads() == threads + 1
            if raises:
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass
    assert half_of_the_smallest() == SMALLEST / 2
    assert torch.get_num_threads() == threads


def test_a_process_that_flushed_denormals_before_goes_on_doing_so() -> None:
    torch.set_flush_denormal(True)
    try:
        with arithmetic(None):
            assert half_of_the_smallest() == 0
        assert half_of_the_smallest() == 0
    finally:
        torch.set_flush_denormal(False)
