"""Resizing beside torch's own."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from wsi_espnet.inference.resize import resize

SIZES = [
    ((40, 56), (80, 112)),
    ((40, 56), (41, 55)),
    ((40, 56), (25, 56)),
    ((64, 96), (32, 48)),
    ((64, 96), (31, 20)),
    ((100, 30), (9, 45)),
    ((1, 1), (8, 8)),
    ((7, 300), (1, 1)),
]


@pytest.mark.parametrize(("old", "new"), SIZES, ids=str)
def test_it_is_that_of_torch(old: tuple[int, int], new: tuple[int, int]) -> None:
    x = np.random.default_rng(0).uniform(0, 255, (2, 3, *old)).astype(np.float32)
    averaging = max(a / b for a, b in zip(old, new, strict=True)) > 2
    wanted = F.interpolate(torch.from_numpy(x), size=new, mode="bilinear", align_corners=False, antialias=averaging)
    # Torch places px in float32, which is off by some 1e-6 of a px.
    np.testing.assert_allclose(resize(x, *new), wanted.numpy(), atol=2e-3)
    assert resize(x, *new).dtype == np.float32


def test_nothing_is_copied_where_nothing_changes() -> None:
    x = np.zeros((1, 3, 8, 8), np.float32)
    assert resize(x, 8, 8) is x
