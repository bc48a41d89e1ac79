"""Glass, ink and black over part of an image."""

from __future__ import annotations

import numpy as np
import pytest

from wsi_espnet.training.blanks import add_blank

SIDE = 64


@pytest.mark.parametrize("seed", range(40))
def test_what_is_labelled_glass_is_mostly_covered_and_the_rest_is_mostly_kept(seed: int) -> None:
    rgb, labels = np.full((SIDE, SIDE, 3), 128, np.uint8), np.full((SIDE, SIDE), 2, np.uint8)
    mixed, after = add_blank(rgb, labels, label=1, rng=np.random.default_rng(seed))
    assert set(np.unique(after)) <= {1, 2}
    assert (after == 1).any()
    change = np.abs(mixed.astype(int) - 128).max(axis=-1)
    assert change[after == 1].mean() > 20
    assert change[after == 1].mean() > 2 * change[after == 2].mean() if (after == 2).any() else True
    assert (rgb == 128).all()
    assert (labels == 2).all()


def test_glass_ink_and_black_all_occur_and_some_crops_are_blank_all_over() -> None:
    rgb, labels = np.full((SIDE, SIDE, 3), (170, 90, 160), np.uint8), np.full((SIDE, SIDE), 2, np.uint8)
    rng = np.random.default_rng(0)
    kinds, bare = [], []
    for _ in range(400):
        mixed, after = add_blank(rgb, labels, label=0, rng=rng)
        blank = mixed[after == 0].mean(axis=0)
        kinds.append("glass" if blank.min() > 150 else "black" if blank.max() < 60 else "ink")
        bare.append(not after.any())
    assert 0.55 < kinds.count("glass") / 400 < 0.85
    assert 0.04 < kinds.count("black") / 400 < 0.2
    assert 0.08 < kinds.count("ink") / 400 < 0.3
    assert 0.04 < np.mean(bare) < 0.15


def test_the_same_seed_gives_the_same_blank() -> None:
    rgb, labels = np.full((SIDE, 48, 3), 128, np.uint8), np.zeros((SIDE, 48), np.uint8)
    one, other = (add_blank(rgb, labels, label=0, rng=np.random.default_rng(5)) for _ in range(2))
    np.testing.assert_array_equal(one[0], other[0])
    np.testing.assert_array_equal(one[1], other[1])
