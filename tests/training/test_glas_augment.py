from __future__ import annotations

import numpy as np
import pytest

from wsi_espnet.training import glas_augment as augment


def image_with_its_mask(height: int = 90, width: int = 120) -> tuple[augment.Rgb, augment.Labels]:
    """Dark discs on bright ground, and where they are: the image tells its own mask."""
    y, x = np.mgrid[:height, :width]
    labels = ((y % 40 - 20) ** 2 + (x % 50 - 22) ** 2 < 150).astype(np.uint8) * 2
    rgb = np.where(labels[..., None] > 0, np.uint8(40), np.uint8(220)).repeat(3, axis=2)
    return rgb, labels


@pytest.mark.parametrize("seed", range(12))
def test_image_and_mask_move_together(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rgb, labels = augment.place_and_scale(*image_with_its_mask(), side_px=64, rng=rng)
    rgb, labels = augment.pose(rgb, labels, rng=rng)
    seen = rgb[..., 0] < 130
    assert rgb.shape == (64, 64, 3)
    assert labels.shape == (64, 64)
    # Bilinear against nearest differ by at most the px on an outline.
    assert (seen != (labels == 2)).mean() < 0.03
    assert 0 < seen.mean() < 0.5


def test_all_eight_poses_occur() -> None:
    rgb = np.arange(27, dtype=np.uint8).reshape(3, 3, 3)
    rng = np.random.default_rng(0)
    seen = set()
    for _ in range(200):
        turned, labels = augment.pose(rgb, rgb[..., 0], rng=rng)
        assert np.array_equal(turned[..., 0], labels)
        seen.add(turned.tobytes())
    assert len(seen) == 8


def test_an_image_smaller_than_the_crop_is_mirrored() -> None:
    rgb, labels = augment.place_and_scale(*image_with_its_mask(40, 50), side_px=72, rng=np.random.default_rng(0))
    assert rgb.shape == (72, 72, 3)
    assert ((rgb[..., 0] < 130) != (labels == 2)).mean() < 0.03


def test_stain_jitter_without_jitter_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(augment, "STAIN_GAIN", (1.0, 1.0))
    monkeypatch.setattr(augment, "STAIN_SHIFT", 0.0)
    rgb = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    same = augment.jitter_stain(rgb, rng=np.random.default_rng(0))
    assert np.abs(same.astype(int) - rgb).max() <= 1


def test_stain_jitter_changes_the_colour_of_tissue_and_little_of_glass() -> None:
    tissue = np.full((4, 4, 3), (170, 90, 160), np.uint8)
    white = np.full((4, 4, 3), 245, np.uint8)
    moved, still = [], []
    for seed in range(50):
        moved.append(augment.jitter_stain(tissue, rng=np.random.default_rng(seed))[0, 0])
        still.append(augment.jitter_stain(white, rng=np.random.default_rng(seed))[0, 0])
    assert np.std(moved, axis=0).min() > 5
    assert np.std(still, axis=0).max() < 5


@pytest.mark.parametrize("seed", range(20))
def test_glass_is_bright_and_background_and_the_rest_is_kept(seed: int) -> None:
    rgb = np.full((64, 64, 3), 60, np.uint8)
    labels = np.full((64, 64), 2, np.uint8)
    mixed, after = augment.add_glass(rgb, labels, rng=np.random.default_rng(seed))
    assert set(np.unique(after)) <= {0, 2}
    assert (after == 0).any()
    assert mixed[after == 0].min() >= 125  # at least half glass
    assert mixed[after == 2].max(initial=0) <= 160  # at most half glass


def test_some_crops_are_glass_all_over() -> None:
    rgb, labels = np.full((32, 32, 3), 60, np.uint8), np.full((32, 32), 2, np.uint8)
    rng = np.random.default_rng(0)
    bare = [not augment.add_glass(rgb, labels, rng=rng)[1].any() for _ in range(200)]
    assert 0.05 < np.mean(bare) < 0.2


def test_the_same_seed_gives_the_same_crop() -> None:
    rgb, labels = image_with_its_mask()
    first = augment.random_crop(rgb, labels, side_px=64, rng=np.random.default_rng(3))
    second = augment.random_crop(rgb, labels, side_px=64, rng=np.random.default_rng(3))
    assert np.array_equal(first[0], second[0])
    assert np.array_equal(first[1], second[1])


def test_a_mosaic_takes_image_and_mask_from_the_same_places() -> None:
    crops = [(np.full((48, 48, 3), 10 * k, np.uint8), np.full((48, 48), k, np.uint8)) for k in range(8)]
    mixed = augment.mosaic(crops, share=0.6, rng=np.random.default_rng(1))
    assert len(mixed) == len(crops)
    for rgb, labels in mixed:
        assert np.array_equal(rgb[..., 0], 10 * labels)
    assert max(len(np.unique(labels)) for _, labels in mixed) > 2
    assert any(len(np.unique(labels)) == 1 for _, labels in mixed)
    assert all((labels == k).all() for k, (_, labels) in enumerate(crops))
