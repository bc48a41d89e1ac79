"""Steps of augmentation, each against what it says."""

from __future__ import annotations

import colorsys

import numpy as np
import pytest

from wsi_espnet.training import augment
from wsi_espnet.training.augment_config import AugmentConfig

FILL = (10, 20, 30)


def discs(height: int = 90, width: int = 120) -> tuple[augment.Rgb, augment.Labels]:
    """Dark discs on bright ground, and where they are: the image tells its own mask."""
    y, x = np.mgrid[:height, :width]
    labels = ((y % 40 - 20) ** 2 + (x % 50 - 22) ** 2 < 150).astype(np.uint8) * 2
    return np.where(labels[..., None] > 0, np.uint8(40), np.uint8(220)).repeat(3, axis=2), labels


def cropped(
    rgb: augment.Rgb, labels: augment.Labels, size: tuple[int, int], scale: tuple[float, float], seed: int = 0
) -> tuple[augment.Rgb, augment.Labels]:
    rng = np.random.default_rng(seed)
    return augment.scale_and_crop(rgb, labels, size_px=size, scale=scale, fill=FILL, rng=rng)


def look(config: AugmentConfig, seed: int) -> tuple[augment.Rgb, augment.Labels]:
    rng, colours = np.random.default_rng(seed), np.random.default_rng(100 + seed)
    return augment.augmented(*discs(), config, fill=FILL, rng=rng, colours=colours)


@pytest.mark.parametrize("seed", range(12))
def test_image_and_labels_move_together(seed: int) -> None:
    config = AugmentConfig(crop_px=(64, 64), scale=(0.5, 2), flip=0.5, pose=True)
    rgb, labels = look(config, seed)
    assert rgb.shape == (64, 64, 3)
    assert labels.shape == (64, 64)
    assert rgb.flags.c_contiguous
    assert labels.flags.c_contiguous
    inside = labels != 255
    assert ((rgb[..., 0] < 130) != (labels == 2))[inside].mean() < 0.06


def test_a_crop_at_scale_1_is_part_of_the_image() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (40, 56, 3), dtype=np.uint8)
    crop, labels = cropped(rgb, rgb[..., 0], (16, 24), (1, 1))
    found = np.lib.stride_tricks.sliding_window_view(rgb[..., 0], (16, 24))
    places = np.argwhere((found == labels).all(axis=(2, 3)))
    assert len(places) == 1
    y, x = places[0]
    np.testing.assert_array_equal(crop, rgb[y : y + 16, x : x + 24])


def test_what_lies_outside_is_filled_and_ignored_and_the_image_is_whole_somewhere_in_it() -> None:
    rgb, labels = np.full((20, 30, 3), 200, np.uint8), np.full((20, 30), 4, np.uint8)
    places = set()
    for seed in range(20):
        crop, truth = cropped(rgb, labels, (48, 64), (1, 1), seed)
        assert set(np.unique(truth)) == {4, 255}
        assert (truth == 4).sum() == 20 * 30
        assert (crop[truth == 4] == 200).all()
        assert (crop[truth == 255] == FILL).all()
        places.add(tuple(np.argwhere(truth == 4)[0]))
    assert len(places) > 15


@pytest.mark.parametrize("scale", [0.5, 2.0])
def test_scale_is_the_enlargement(scale: float) -> None:
    x = np.mgrid[:128, :128][1]
    labels = (x // 8 % 2).astype(np.uint8)
    _, truth = cropped(np.zeros((128, 128, 3), np.uint8), labels, (64, 64), (scale, scale))
    edges = np.flatnonzero(np.diff(truth[32].astype(int)))
    assert np.diff(edges).tolist() == [8 * scale] * (len(edges) - 1)
    assert len(edges) >= 2


def test_halvings_are_as_frequent_as_doublings() -> None:
    y, x = np.mgrid[:256, :256]
    labels = ((y // 2 + x // 2) % 2).astype(np.uint8)
    larger = 0
    for seed in range(200):
        _, truth = cropped(np.zeros((256, 256, 3), np.uint8), labels, (64, 64), (0.5, 2.0), seed)
        larger += np.abs(np.diff(truth.astype(int), axis=1)).mean() < 0.5
    assert 75 < larger < 125


def test_a_flip_is_left_to_right() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    always = augment.flip(rgb, rgb[..., 0], share=1, rng=np.random.default_rng(0))
    never = augment.flip(rgb, rgb[..., 0], share=0, rng=np.random.default_rng(0))
    np.testing.assert_array_equal(always[0], np.fliplr(rgb))
    np.testing.assert_array_equal(always[1], np.fliplr(rgb[..., 0]))
    np.testing.assert_array_equal(never[0], rgb)


def colour(rgb: augment.Rgb, seed: int = 0, **changes: float) -> augment.Rgb:
    settings = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0} | changes
    return augment.jitter_colour(rgb, **settings, rng=np.random.default_rng(seed))


def test_colour_jitter_of_nothing_changes_nothing() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    np.testing.assert_array_equal(colour(rgb), rgb)


@pytest.mark.parametrize("seed", range(5))
def test_each_part_of_colour_jitter_changes_its_own(seed: int) -> None:
    rgb = np.random.default_rng(1).integers(60, 180, (16, 16, 3), dtype=np.uint8)
    light = colour(rgb, seed, brightness=0.3) / rgb
    assert light.std() < 0.01
    assert 0.7 <= light.mean() <= 1.3
    stretched = colour(rgb, seed, contrast=0.3)
    assert (stretched @ augment.GREY).mean() == pytest.approx((rgb @ augment.GREY).mean(), abs=0.5)
    factor = np.diff(stretched[..., 0].astype(float), axis=0).std() / np.diff(rgb[..., 0].astype(float), axis=0).std()
    assert 0.7 <= factor <= 1.3
    changed = [not np.array_equal(colour(rgb, s, **{what: 0.3}), rgb) for s in range(9) for what in ("contrast", "hue")]
    assert np.mean(changed) > 0.8
    paler = colour(rgb, seed, saturation=0.3)
    np.testing.assert_allclose(paler @ augment.GREY, rgb @ augment.GREY, atol=1)


def test_hue_turns_by_no_more_than_it_may() -> None:
    rgb = np.full((2, 2, 3), (200, 60, 40), np.uint8)
    before = colorsys.rgb_to_hsv(*(rgb[0, 0] / 255))
    turns = []
    for seed in range(40):
        h, s, v = colorsys.rgb_to_hsv(*(colour(rgb, seed, hue=0.1)[0, 0] / 255))
        turns.append((h - before[0] + 0.5) % 1 - 0.5)
        assert (s, v) == pytest.approx(before[1:], abs=0.02)
    assert max(map(abs, turns)) < 0.11
    assert min(turns) < -0.05 < 0.05 < max(turns)


def test_white_balance_gives_each_channel_a_gain_of_its_own() -> None:
    rgb = np.random.default_rng(0).integers(100, 180, (16, 16, 3), dtype=np.uint8)
    gains = []
    for seed in range(40):
        changed = augment.jitter_camera(rgb, white_balance=0.3, gamma=1, noise=0, rng=np.random.default_rng(seed)) / rgb
        assert changed.std(axis=(0, 1)).max() < 0.01
        gains.append(changed.mean(axis=(0, 1)))
    assert np.min(gains) > 0.69
    assert np.max(gains) < 1.31
    assert np.ptp(gains, axis=1).mean() > 0.2


def test_gamma_bends_the_curve_both_ways_and_keeps_black_and_white() -> None:
    rgb = np.repeat(np.array([0, 127.5, 255]).round().astype(np.uint8)[None, :, None], 3, axis=2)
    powers = []
    for seed in range(60):
        black, grey, white = augment.jitter_camera(
            rgb, white_balance=0, gamma=2, noise=0, rng=np.random.default_rng(seed)
        )[0, :, 0]
        assert (black, white) == (0, 255)
        powers.append(np.log(grey / 255) / np.log(128 / 255))
    assert 0.49 < min(powers) < 0.6
    assert 1.7 < max(powers) < 2.02
    assert np.median(powers) == pytest.approx(1, abs=0.25)


def test_noise_has_no_more_than_its_deviation_and_no_bias() -> None:
    grey = np.full((64, 64, 3), 128, np.uint8)
    deviations = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        noisy = augment.jitter_camera(grey, white_balance=0, gamma=1, noise=10, rng=rng).astype(float)
        assert noisy.mean() == pytest.approx(128, abs=0.5)
        deviations.append(noisy.std())
    assert 5 < max(deviations) < 10.5
    assert min(deviations) < 3


def test_jpeg_loses_more_at_a_lower_quality_and_keeps_the_scene() -> None:
    rgb, _ = discs()
    losses = [np.abs(augment.compress(rgb, quality=quality).astype(int) - rgb).mean() for quality in (95, 60, 30)]
    assert 0 < losses[0] < losses[1] < losses[2] < 20


def test_jpeg_is_drawn_from_the_whole_range_of_qualities(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []

    def compress(rgb: augment.Rgb, *, quality: int) -> augment.Rgb:
        drawn.append(quality)
        return rgb

    monkeypatch.setattr(augment, "compress", compress)
    config = AugmentConfig(crop_px=(48, 48), jpeg_quality=(30, 33))
    for seed in range(60):
        look(config, seed)
    assert set(drawn) == {30, 31, 32, 33}


def test_all_steps_together_draw_from_the_given_generator_alone() -> None:
    config = AugmentConfig(
        crop_px=(48, 48),
        pose=True,
        brightness=0.2,
        contrast=0.2,
        saturation=0.2,
        hue=0.05,
        stain_gain=(0.7, 1.4),
        white_balance=0.2,
        gamma=1.5,
        noise=5.0,
        jpeg_quality=(30, 95),
    )
    first, again, other = (look(config, seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[1], again[1])
    assert not np.array_equal(first[0], other[0])


def test_stains_that_are_left_as_they_are_change_nothing() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    same = augment.jitter_stain(rgb, gains=np.ones(3), shifts=np.zeros(3))
    assert np.abs(same.astype(int) - rgb).max() <= 1


def test_stain_changes_the_colour_of_tissue_and_little_of_glass() -> None:
    tissue, glass = np.full((1, 1, 3), (170, 90, 160), np.uint8), np.full((1, 1, 3), 245, np.uint8)
    rng = np.random.default_rng(0)
    gains = rng.uniform(0.75, 1.3, size=(50, 3))
    moved, still = (
        [augment.jitter_stain(px, gains=g, shifts=np.zeros(3))[0, 0] for g in gains] for px in (tissue, glass)
    )
    assert np.std(moved, axis=0).min() > 5
    assert np.std(still, axis=0).max() < 5


@pytest.mark.parametrize("seed", range(8))
def test_pasting_moves_whole_classes_and_their_px_together(seed: int) -> None:
    rng = np.random.default_rng(seed)
    onto = np.zeros((20, 30, 3), np.uint8), np.full((20, 30), 9, np.uint8)
    labels = rng.choice(np.array([0, 1, 2, 3, 255], np.uint8), size=(20, 30))
    rgb, got = augment.paste(onto, (np.repeat(labels[..., None] + np.uint8(1), 3, axis=2), labels), rng=rng)
    taken = np.unique(got[got != 9])
    assert len(taken) == 2
    assert 255 not in taken
    where = np.isin(labels, taken)
    np.testing.assert_array_equal(got, np.where(where, labels, 9))
    np.testing.assert_array_equal(rgb, np.where(where, labels + 1, 0)[..., None].repeat(3, axis=2))
    assert onto[1].min() == 9  # what was given is left as it was


def test_nothing_is_pasted_from_a_crop_without_labels() -> None:
    onto = discs()
    other = np.zeros_like(onto[0]), np.full_like(onto[1], 255)
    rgb, labels = augment.paste(onto, other, rng=np.random.default_rng(0))
    np.testing.assert_array_equal(rgb, onto[0])
    np.testing.assert_array_equal(labels, onto[1])
