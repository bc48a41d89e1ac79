"""Samples become batches: which image when, and in which look, follows from the seed, the epoch and the index alone.

So a run that was cut short goes on as if nothing had happened, and neither the number of loader processes nor their
speed changes a result.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler
from torch.utils.data import Dataset as TorchDataset

from wsi_espnet.classes import UNLABELLED
from wsi_espnet.data.adapter import Labelled, Sample
from wsi_espnet.errors import UsageError
from wsi_espnet.models.card import Normalisation
from wsi_espnet.training.augment import augmented, mosaic, paste
from wsi_espnet.training.augment_config import AugmentConfig
from wsi_espnet.training.blanks import add_blank
from wsi_espnet.training.config import RunConfig

PREFETCH = 4
"""Batches that each loader process keeps ready."""


class Place(NamedTuple):
    """Which look at which image: `look` counts those of an epoch, so it goes beyond the number of images."""

    epoch: int
    look: int


class Pair(NamedTuple):
    """(B, 3, H, W) float32 and (B, H, W) int64, 255 where ignored; without B for one image."""

    pixels: Tensor
    labels: Tensor


class Taught(NamedTuple):
    """As `Pair`, and `plain` of the same shape as `pixels`: the same crop in the colours it was taken in."""

    pixels: Tensor
    labels: Tensor
    plain: Tensor


class Images:
    """Samples that are read when they are asked for, or once at the start where `cache` is set."""

    def __init__(self, samples: Sequence[Sample], *, cache: bool) -> None:
        self.samples = samples
        self._cached = [sample.read() for sample in samples] if cache else None

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Labelled:
        return self.samples[index].read() if self._cached is None else self._cached[index]


class TrainingSet(TorchDataset[Pair | Taught]):
    """Random looks at the training images, by `Place`.

    Parameters
    ----------
    images, augment, normalisation, seed
        What is looked at, and how.
    glass
        Class id of what has no tissue; needed where `augment.blank` asks for some.
    plain
        Show each crop in its own colours as well.
    """

    def __init__(
        self,
        images: Images,
        augment: AugmentConfig,
        normalisation: Normalisation,
        *,
        seed: int,
        glass: int | None = None,
        plain: bool = False,
    ) -> None:
        assert glass is not None or not augment.blank  # `wsi_espnet.training.setup.open_data` sees to it
        self.glass = glass
        self.plain = plain
        self.images = images
        self.augment = augment
        self.normalisation = normalisation
        self.seed = seed
        mean = normalisation.mean if normalisation.order == "rgb" else normalisation.mean[::-1]
        red, green, blue = (round(value) for value in mean)
        self.fill = (red, green, blue)  # what the network sees as nothing

    def __getitem__(self, place: Place) -> Pair | Taught:
        seed = (self.seed, place.epoch, place.look)
        pixels, labels = self._crop(place, np.random.default_rng(seed), np.random.default_rng((*seed, 1)))
        if not self.plain:
            return Pair(pixels, labels)
        return Taught(pixels, labels, self._crop(place, np.random.default_rng(seed), None).pixels)

    def _crop(self, place: Place, rng: np.random.Generator, colours: np.random.Generator | None) -> Pair:
        index = place.look % len(self.images)
        if rng.random() < self.augment.mosaic:
            others = rng.integers(len(self.images), size=3)
            rgb, labels = mosaic([self._look(int(i), rng, colours) for i in (index, *others)], rng=rng)
        else:
            rgb, labels = self._look(index, rng, colours)
        if self.augment.paste and rng.random() < self.augment.paste:
            other = self._look(int(rng.integers(len(self.images))), rng, colours)
            rgb, labels = paste((rgb, labels), other, rng=rng)
        if self.glass is not None and rng.random() < self.augment.blank:
            rgb, labels = add_blank(rgb, labels, label=self.glass, rng=rng)
        return _pair(rgb, labels, self.normalisation)

    def _look(
        self, index: int, rng: np.random.Generator, colours: np.random.Generator | None
    ) -> tuple[np.ndarray, np.ndarray]:
        return augmented(*self.images[index], self.augment, fill=self.fill, rng=rng, colours=colours)


class ValidationSet(TorchDataset[Pair]):
    """Whole images as they are; one of the index -1 is all ignored, and fills a process's share up."""

    def __init__(self, images: Images, normalisation: Normalisation) -> None:
        self.images = images
        self.normalisation = normalisation

    def __getitem__(self, index: int) -> Pair:
        rgb, labels = self.images[max(0, index)]
        return _pair(rgb, labels if index >= 0 else np.full_like(labels, UNLABELLED), self.normalisation)


class EpochSampler(Sampler[Place]):
    """Every image `repeats` times an epoch, each time in an order of its own; incomplete steps are left out.

    Each of `world` processes takes its turn, so that together they see what one would have seen in larger batches.
    """

    def __init__(self, images: int, config: RunConfig, *, rank: int = 0, world: int = 1) -> None:
        self.images = images
        self.config = config
        self.rank = rank
        self.world = world
        self.epoch = 0
        self.per_step = config.batch * config.accumulate * world
        self.steps = images * config.repeats // self.per_step
        if self.steps == 0:
            raise UsageError(
                f"{images} training images, {config.repeats} times an epoch, do not fill one step of "
                f"{self.per_step} crops (run.batch x run.accumulate x devices); lower run.batch or raise run.repeats"
            )

    def set_epoch(self, epoch: int) -> None:
        """Called by the trainer before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.steps * self.per_step // self.world

    def __iter__(self) -> Iterator[Place]:
        rng = np.random.default_rng([self.config.seed, self.epoch])
        turns = [rng.permutation(self.images) + k * self.images for k in range(self.config.repeats)]
        order = np.concatenate(turns)[: self.steps * self.per_step]
        return (Place(self.epoch, int(index)) for index in order[self.rank :: self.world])


class ShareSampler(Sampler[int]):
    """Every world-th image from `rank` on, filled up with -1, so that all processes take equally many steps."""

    def __init__(self, images: int, *, rank: int = 0, world: int = 1) -> None:
        indices = [*range(images), *[-1] * (-images % world)]
        self.indices = indices[rank::world]

    def __len__(self) -> int:
        return len(self.indices)

    def __iter__(self) -> Iterator[int]:
        return iter(self.indices)


def training_loader(dataset: TrainingSet, sampler: EpochSampler) -> DataLoader[Pair | Taught]:
    """Batches of crops, one epoch after another."""
    run = sampler.config
    return DataLoader(
        dataset,
        batch_size=run.batch,
        sampler=sampler,
        drop_last=True,
        num_workers=run.workers,
        persistent_workers=run.workers > 0,
        prefetch_factor=PREFETCH if run.workers else None,
        pin_memory=torch.cuda.is_available(),
    )


def validation_loader(dataset: ValidationSet, sampler: ShareSampler, *, workers: int) -> DataLoader[Pair]:
    """Whole images one by one, because their sizes differ."""
    return DataLoader(
        dataset,
        batch_size=1,
        sampler=sampler,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available(),
    )


def _pair(rgb: np.ndarray, labels: np.ndarray, normalisation: Normalisation) -> Pair:
    return Pair(torch.from_numpy(normalisation.apply(rgb)), torch.from_numpy(labels.astype(np.int64)))
