"""The data and the network of a run, from its settings."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch.utils.data import DataLoader

from wsi_espnet.data.adapter import Dataset
from wsi_espnet.data.catalog import open_dataset
from wsi_espnet.errors import UsageError
from wsi_espnet.models.card import Normalisation
from wsi_espnet.models.weights import load_model
from wsi_espnet.training.config import TrainConfig
from wsi_espnet.training.loader import (
    EpochSampler,
    Images,
    Pair,
    ShareSampler,
    Taught,
    TrainingSet,
    ValidationSet,
    training_loader,
    validation_loader,
)
from wsi_espnet.training.losses import class_weights
from wsi_espnet.training.module import SegmentationModule, Teacher
from wsi_espnet.training.start import start
from wsi_espnet.training.survey import Survey, take_survey


@dataclass(frozen=True, slots=True)
class Setup:
    """What is trained, and on what.

    Parameters
    ----------
    dataset, training, validation
        The data set, and the images of the two splits.
    survey
        What the training split holds.
    module
        The network with its loss.
    normalisation
        Of the network's input.
    note
        Where the weights start.
    sampler
        Which images make up the epochs.
    """

    dataset: Dataset
    training: Images
    validation: Images
    survey: Survey
    module: SegmentationModule
    normalisation: Normalisation
    note: str
    sampler: EpochSampler

    def loaders(self, config: TrainConfig) -> tuple[DataLoader[Pair | Taught], DataLoader[Pair]]:
        """Batches of training crops, and whole validation images."""
        crops = TrainingSet(
            self.training,
            config.augment,
            self.normalisation,
            seed=config.run.seed,
            glass=self.dataset.classes.glass,
            plain=config.loss.distill is not None and config.loss.distill.plain,
        )
        share = ShareSampler(len(self.validation), rank=self.sampler.rank, world=self.sampler.world)
        whole = ValidationSet(self.validation, self.normalisation)
        return training_loader(crops, self.sampler), validation_loader(whole, share, workers=config.run.workers)


def open_data(config: TrainConfig) -> Dataset:
    """The data set of `config`, which has images in both splits.

    Raises
    ------
    UsageError
        Its folder is not said, a split is absent or empty, or no class is that of glass where `augment.blank` needs it.
    DataError
        It is of another layout.
    """
    if config.data.root is None:
        raise UsageError("the folder of the data set is not said; give it as --data, or as data.root in the settings")
    dataset = open_dataset(config.data.adapter, config.data.root, **config.data.options)
    for split in (config.data.train, config.data.validation):
        if split not in dataset.splits or not dataset.samples(split):
            raise UsageError(
                f"{config.data.root} has no images for {split!r}; its splits are {', '.join(dataset.splits)} "
                "(data.train and data.validation name those to use)"
            )
    if config.augment.blank and dataset.classes.glass is None:
        raise UsageError("augment.blank needs a class that glass belongs to, and the data set's table names none")
    return dataset


def set_up(config: TrainConfig, dataset: Dataset, *, survey: Path | None, rank: int) -> Setup:
    """Count the classes, make the network; random weights are drawn from `run.seed`.

    Parameters
    ----------
    survey
        File with what was counted when the run was started, because counting reads every image.
    rank
        Number of this process among those that train together.

    Raises
    ------
    UsageError
        Settings that do not fit the data set.
    DataError, ModelError
        The data set, or a file of weights, is damaged or of another kind.
    """
    training = Images(dataset.samples(config.data.train), cache=config.data.cache)
    validation = Images(dataset.samples(config.data.validation), cache=config.data.cache)
    counted = _survey(survey, training, len(dataset.classes))
    torch.manual_seed(config.run.seed)
    begun = start(config.model, dataset.classes)
    normalisation = config.model.normalisation or begun.normalisation or counted.normalisation
    sampler = EpochSampler(len(training), config.run, rank=rank, world=config.run.devices)
    module = SegmentationModule(
        begun.network,
        config,
        names=dataset.classes.names,
        weights=class_weights(config.loss, counted.counts),
        normalisation=normalisation,
        steps_per_epoch=sampler.steps,
        teachers=_teachers(config, dataset),
    )
    return Setup(dataset, training, validation, counted, module, normalisation, begun.note, sampler)


def _survey(file: Path | None, images: Images, classes: int) -> Survey:
    if file is None:
        return take_survey(images, classes)
    survey = Survey.model_validate_json(file.read_text(encoding="utf-8"))
    if survey.images != len(images):
        raise UsageError(
            f"the data set has {len(images)} training images, and had {survey.images} when this run was started; "
            "start anew with --overwrite or in another folder"
        )
    return survey


def _teachers(config: TrainConfig, dataset: Dataset) -> tuple[Teacher, ...]:
    if config.loss.distill is None:
        return ()
    names = dataset.classes.names
    return tuple(Teacher.of(load_model(file), names) for file in config.loss.distill.teachers)
