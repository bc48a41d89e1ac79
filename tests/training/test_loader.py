"""Which image when, in which look."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

import numpy as np
import pytest
import torch

from wsi_espnet.data.adapter import Labelled
from wsi_espnet.errors import DataError, UsageError
from wsi_espnet.models.card import Normalisation
from wsi_espnet.training.augment_config import AugmentConfig
from wsi_espnet.training.config import RunConfig
from wsi_espnet.training.loader import (
    EpochSampler,
    Images,
    Pair,
    Place,
    ShareSampler,
    Taught,
    TrainingSet,
    ValidationSet,
    training_loader,
    validation_loader,
)
from wsi_espnet.training.survey import take_survey

PLAIN = Normalisation(mean=(100, 110, 120), std=(1, 2, 4))


class Noise(NamedTuple):
    """An image of noise from its name."""

    name: str
    height: int = 24

    def read(self) -> Labelled:
        rng = np.random.default_rng(int(self.name))
        labels = rng.integers(0, 3, (self.height, 32), dtype=np.uint8)
        labels[0] = 255
        return Labelled(rng.integers(0, 256, (self.height, 32, 3), dtype=np.uint8), labels)


SAMPLES = [Noise(str(i)) for i in range(7)]
AUGMENT = AugmentConfig(crop_px=(16, 24), brightness=0.2)


def batches(epoch: int, *, cache: bool = False, seed: int = 0, **run: int) -> list[Pair]:
    config = RunConfig.model_validate({"epochs": 9, "batch": 3, "seed": seed} | run)
    sampler = EpochSampler(len(SAMPLES), config)
    sampler.set_epoch(epoch)
    return list(training_loader(TrainingSet(Images(SAMPLES, cache=cache), AUGMENT, PLAIN, seed=seed), sampler))


def same(one: list[Pair], other: list[Pair]) -> bool:
    return all(torch.equal(a, b) for x, y in zip(one, other, strict=True) for a, b in zip(x, y, strict=True))


def test_batches_follow_from_seed_and_epoch_alone() -> None:
    first = batches(2)
    assert [tuple(pixels.shape) for pixels, _ in first] == [(3, 3, 16, 24)] * 2
    assert first[0][1].dtype == torch.int64
    assert same(first, batches(2))
    assert same(first, batches(2, cache=True))
    assert same(first, batches(2, workers=2))
    assert not same(first, batches(3))
    assert not same(first, batches(2, seed=1))


def test_an_epoch_takes_every_image_as_often_as_it_is_asked_to_and_each_look_once() -> None:
    sampler = EpochSampler(7, RunConfig(epochs=1, batch=7, repeats=3))
    places = list(sampler)
    assert Counter(place.look % 7 for place in places) == dict.fromkeys(range(7), 3)
    assert len({place.look for place in places}) == len(places) == len(sampler) == 21
    assert sampler.steps == 3


def test_processes_share_what_one_would_take() -> None:
    one = EpochSampler(23, RunConfig(epochs=1, batch=4, accumulate=2))
    two = [EpochSampler(23, RunConfig(epochs=1, batch=2, accumulate=2), rank=rank, world=2) for rank in range(2)]
    shares = [[place.look for place in sampler] for sampler in two]
    assert one.steps == two[0].steps == 2
    assert sorted(shares[0] + shares[1]) == sorted(place.look for place in one)
    for step in range(2):  # the same images in each optimiser step
        taken = {index for share in shares for index in share[4 * step : 4 * step + 4]}
        assert taken == {place.look for place in list(one)[8 * step : 8 * step + 8]}


def test_too_few_images_for_a_step_are_refused() -> None:
    with pytest.raises(UsageError, match=r"3 training images, 2 times an epoch, do not fill one step of 8 crops"):
        EpochSampler(3, RunConfig(epochs=1, batch=4, accumulate=2, repeats=2))


def test_validation_images_are_whole_and_shared_out_without_counting_one_twice() -> None:
    samples = [Noise("1", 10), Noise("2", 20), Noise("3", 30)]
    shares = [
        list(
            validation_loader(
                ValidationSet(Images(samples, cache=False), PLAIN), ShareSampler(3, rank=r, world=2), workers=0
            )
        )
        for r in range(2)
    ]
    assert [[pixels.shape[2] for pixels, _ in share] for share in shares] == [[10, 30], [20, 10]]
    assert (shares[1][1][1] == 255).all()
    px = sum(int((labels != 255).sum()) for share in shares for _, labels in share)
    assert px == 32 * (9 + 19 + 29)
    rgb, labels = samples[1].read()
    np.testing.assert_array_equal(shares[1][0][0][0], PLAIN.apply(rgb))
    np.testing.assert_array_equal(shares[1][0][1][0], labels)


@pytest.mark.parametrize("order", ["rgb", "bgr"])
def test_what_lies_outside_an_image_is_nothing_to_the_network(order: str) -> None:
    normalisation = Normalisation(order=order, mean=(100, 110, 120), std=(1, 2, 4))  # type: ignore[arg-type]
    config = AugmentConfig(crop_px=(64, 64), scale=(1, 1))
    pixels, labels = TrainingSet(Images(SAMPLES, cache=False), config, normalisation, seed=0)[Place(0, 3)]
    assert pixels[:, 0, 0].tolist() == [0, 0, 0] or pixels[:, -1, -1].tolist() == [0, 0, 0]
    assert (labels == 255).sum() > 64 * 64 - 24 * 32


def test_a_survey_counts_all_px_and_their_colours() -> None:
    images = [sample.read() for sample in SAMPLES]
    survey = take_survey(Images(SAMPLES, cache=False), 4)
    labels = np.concatenate([image.labels.ravel() for image in images])
    colours = np.concatenate([image.rgb.reshape(-1, 3) for image in images])
    assert survey.class_px == tuple(int((labels == c).sum()) for c in range(4))
    assert survey.images == 7
    np.testing.assert_allclose(survey.normalisation.mean, colours.mean(axis=0), atol=0.006)
    np.testing.assert_allclose(survey.normalisation.std, colours.std(axis=0), atol=0.006)


def test_images_without_a_label_are_refused() -> None:
    with pytest.raises(DataError, match="none of the 1 training images has a labelled px"):
        take_survey(Images([Noise("0", 1)], cache=False), 3)


def of(augment: AugmentConfig, *, glass: int | None = None) -> TrainingSet:
    return TrainingSet(Images(SAMPLES, cache=True), augment, PLAIN, seed=0, glass=glass)


def test_a_teacher_is_shown_the_same_crop_in_its_own_colours() -> None:
    moved = AugmentConfig(crop_px=(24, 24), pose=True, mosaic=0.4, paste=0.4, blank=0.4)
    colours = {"brightness": 0.3, "hue": 0.1, "stain_gain": (0.5, 1.5), "gamma": 1.5, "jpeg_quality": (30, 60)}
    recoloured = AugmentConfig.model_validate(moved.model_dump() | colours)
    images = Images(SAMPLES, cache=True)
    shown = TrainingSet(images, recoloured, PLAIN, seed=0, glass=0, plain=True)
    places = [Place(epoch, look) for epoch in range(2) for look in range(20)]
    differing = 0
    for place in places:
        taught, pair = shown[place], of(moved, glass=0)[place]
        assert isinstance(taught, Taught)
        assert torch.equal(taught.plain, pair.pixels)
        assert torch.equal(taught.labels, pair.labels)
        differing += not torch.equal(taught.plain, taught.pixels)
    assert differing > 30  # not where glass lies over all of it
    again = TrainingSet(images, recoloured, PLAIN, seed=0, glass=0)
    assert all(torch.equal(again[place].pixels, shown[place].pixels) for place in places)


def test_a_mosaic_takes_image_and_mask_from_the_same_places() -> None:
    class Plain(NamedTuple):
        name: str

        def read(self) -> Labelled:
            grey = np.uint8(int(self.name))
            return Labelled(np.full((24, 32, 3), grey * 10, np.uint8), np.full((24, 32), grey, np.uint8))

    augment = AugmentConfig(crop_px=(16, 24), scale=(1.0, 1.0), mosaic=0.6)
    images = Images([Plain(str(i)) for i in range(7)], cache=True)
    looks = [TrainingSet(images, augment, PLAIN, seed=0)[Place(0, look)] for look in range(40)]
    for look, pair in enumerate(looks):
        red = pair.pixels[0] * PLAIN.std[0] + PLAIN.mean[0]
        assert torch.equal(red.round().long(), pair.labels * 10)
        assert pair.labels[0, 0] == look % 7  # the upper left part is the image's own
    kinds = [len(pair.labels.unique()) for pair in looks]
    assert max(kinds) > 2
    assert 8 < kinds.count(1) < 28  # 0.4 of them, and mosaics that met themselves


def test_a_share_of_crops_is_pasted_on_and_the_others_stay_as_they_were() -> None:
    crop = {"crop_px": (16, 24), "scale": (1.0, 1.0), "flip": 0.0}
    bare = [of(AugmentConfig(**crop), glass=None)[Place(0, look)] for look in range(40)]
    pasted = [of(AugmentConfig(**crop, paste=0.5), glass=None)[Place(0, look)] for look in range(40)]
    same = [torch.equal(a.pixels, b.pixels) for a, b in zip(bare, pasted, strict=True)]
    assert 8 < sum(same) < 32
    assert all(torch.equal(a.labels, b.labels) for a, b, kept in zip(bare, pasted, same, strict=True) if kept)


def test_blanks_take_the_label_of_glass() -> None:
    blank = AugmentConfig(crop_px=(16, 24), blank=1.0)
    plain = AugmentConfig(crop_px=(16, 24))
    changed = 0
    for look in range(20):
        covered, bare = of(blank, glass=7)[Place(0, look)], of(plain, glass=7)[Place(0, look)]
        differ = covered.labels != bare.labels
        assert set(covered.labels[differ].tolist()) <= {7}
        changed += bool(differ.any())
    assert changed == 20
