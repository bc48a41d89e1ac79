"""What Lightning's trainer is told about the network: its loss, its steps, its scores."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics.classification import MulticlassConfusionMatrix

from wsi_espnet.classes import UNLABELLED
from wsi_espnet.errors import UsageError
from wsi_espnet.models.baselines.units import UnitsNet
from wsi_espnet.models.card import Normalisation
from wsi_espnet.models.espnet import CoarseNet
from wsi_espnet.models.networks import Network
from wsi_espnet.models.weights import LoadedModel
from wsi_espnet.scores import Scores
from wsi_espnet.training.config import TrainConfig
from wsi_espnet.training.distill import agreed, logits_loss, pairwise_loss, renormalise
from wsi_espnet.training.loader import Pair, Taught
from wsi_espnet.training.losses import at_stride_8, segmentation_loss
from wsi_espnet.training.steps import average_decay, make_optimiser, move_average, rate_factor


@dataclass(frozen=True, slots=True)
class Teacher:
    """A network to learn from, what its input is made with, and which of its outputs the classes are."""

    network: Network
    normalisation: Normalisation
    classes: tuple[int, ...]

    @classmethod
    def of(cls, model: LoadedModel, names: Sequence[str]) -> Teacher:
        """For the classes of these names, of which it may know more.

        Raises
        ------
        UsageError
            It does not know them all.
        """
        known = model.card.classes.names
        if missing := [name for name in names if name not in known]:
            raise UsageError(
                f"the teacher {model.card.name} does not know {', '.join(missing)}, which the data set has; "
                f"it knows {', '.join(known)}; give another as loss.distill.teacher"
            )
        return cls(model.module, model.card.normalisation, tuple(known.index(name) for name in names))

    def fine_and_coarse(self, pixels: Tensor, given: Normalisation) -> tuple[Tensor | None, Tensor]:
        """As `fine_and_coarse`, of the classes alone; `pixels` were made with `given`."""
        fine, coarse = fine_and_coarse(self.network, renormalise(pixels, given, self.normalisation))
        asked = list(self.classes)
        return None if fine is None else fine[:, asked], coarse[:, asked]


class SegmentationModule(pl.LightningModule):
    """Training of one network.

    Parameters
    ----------
    network
        Trained in place.
    config
        All settings.
    names
        Of the classes.
    weights
        (C,) of the cross-entropy.
    normalisation
        What the batches are made with.
    steps_per_epoch
        Optimiser steps.
    teachers
        Where `config.loss.distill` asks for some.
    """

    class_weights: Tensor

    def __init__(
        self,
        network: Network,
        config: TrainConfig,
        *,
        names: tuple[str, ...],
        weights: Tensor,
        normalisation: Normalisation,
        steps_per_epoch: int,
        teachers: tuple[Teacher, ...] = (),
    ) -> None:
        super().__init__()
        self.network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average = copy.deepcopy(network).requires_grad_(False) if config.run.ema else None
        self.config = config
        self.names = names
        self.normalisation = normalisation
        self.steps_per_epoch = steps_per_epoch
        self.register_buffer("class_weights", weights, persistent=False)
        self.confusion = MulticlassConfusionMatrix(len(names), ignore_index=UNLABELLED, validate_args=False)
        self.scores: Scores | None = None
        self.losses: list[Tensor] = []  # of the parts of the step that is under way
        self.teachers = teachers  # no nn.Modules themselves, so they are in no checkpoint and never trained

    @property
    def best_network(self) -> nn.Module:
        """What is scored and kept: the running average, where there is one."""
        return self.network if self.average is None else self.average

    def on_fit_start(self) -> None:
        """Bring the teachers to where the network is."""
        for teacher in self.teachers:
            teacher.network.to(self.device).eval().requires_grad_(False)

    def on_train_epoch_start(self) -> None:
        """The average is never trained, whatever Lightning has put into training mode."""
        if self.average is not None:
            self.average.eval()

    def training_step(self, batch: Pair | Taught, batch_idx: int) -> Tensor:
        """The loss of one batch, a scalar."""
        pixels = batch.pixels.contiguous(memory_format=torch.channels_last)
        fine, coarse = fine_and_coarse(self.network, pixels)
        loss = self._loss(fine, coarse, batch.labels)
        if self.teachers:
            if isinstance(batch, Taught):
                pixels = batch.plain.contiguous(memory_format=torch.channels_last)
            loss = loss + self._distilled(fine, coarse, pixels, batch.labels)
        self.losses.append(loss.detach())
        return loss

    def _loss(self, fine: Tensor | None, coarse: Tensor, labels: Tensor) -> Tensor:
        config = self.config.loss
        small = at_stride_8(labels)
        if fine is None:
            return segmentation_loss(coarse, small, self.class_weights, config)
        loss = segmentation_loss(fine, labels, self.class_weights, config)
        if config.auxiliary:
            loss = loss + config.auxiliary * segmentation_loss(coarse, small, self.class_weights, config)
        return loss

    def _distilled(self, fine: Tensor | None, coarse: Tensor, pixels: Tensor, labels: Tensor) -> Tensor:
        config = self.config.loss.distill
        assert config is not None
        with torch.no_grad():
            theirs = [teacher.fine_and_coarse(pixels, self.normalisation) for teacher in self.teachers]
        loss = coarse.new_zeros(())
        if config.logits:
            got, truth = (coarse, at_stride_8(labels)) if fine is None else (fine, labels)
            seen = [
                their_coarse if fine is None or their_fine is None else their_fine
                for their_fine, their_coarse in theirs
            ]
            wanted = agreed(seen, got.shape[-2:], temperature=config.temperature)
            loss = loss + config.logits * logits_loss(got, wanted, truth, temperature=config.temperature)
        if config.pairwise:
            pairs = [pairwise_loss(coarse, their_coarse, pool=config.pool) for _, their_coarse in theirs]
            loss = loss + config.pairwise * torch.stack(pairs).mean()
        return loss

    def on_train_batch_end(self, outputs: Any, batch: Pair, batch_idx: int) -> None:
        """After an optimiser step, move the average."""
        if self.average is not None and (batch_idx + 1) % self.config.run.accumulate == 0:
            move_average(self.average, self.network, average_decay(self.global_step, self.config.run.ema))

    def validation_step(self, batch: Pair, batch_idx: int) -> None:
        """Count the px of whole images."""
        logits = full_size(self.best_network(batch[0]), batch[0])
        self.confusion.update(logits.argmax(dim=1), batch[1])

    def on_validation_epoch_end(self) -> None:
        """Scores of the whole set, over all processes."""
        counts = self.confusion.compute().cpu().numpy().astype(np.int64)
        self.scores = Scores(self.names, np.pad(counts, (0, 1)))  # void is counted nowhere
        self.confusion.reset()

    def configure_optimizers(self) -> Any:
        """The optimiser, and the schedule by steps."""
        optimiser = make_optimiser(self.network, self.config.optimiser)
        total = self.steps_per_epoch * self.config.run.epochs

        def factor(step: int) -> float:
            return rate_factor(step, self.config.schedule, steps_per_epoch=self.steps_per_epoch, total_steps=total)

        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, factor)
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def fine_and_coarse(network: Network, pixels: Tensor) -> tuple[Tensor | None, Tensor]:
    """Logits at full resolution (None without a decoder), and at stride 8."""
    if isinstance(network, CoarseNet | UnitsNet):
        return None, network(pixels)
    return network.fine_and_coarse(pixels)


def full_size(logits: Tensor, pixels: Tensor) -> Tensor:
    """Logits (B, C, h, w) at stride 1 or 8 as (B, C, H, W): enlarged by 8, and cut to the image."""
    if logits.shape[-2:] == pixels.shape[-2:]:
        return logits
    enlarged = F.interpolate(logits, scale_factor=8.0, mode="bilinear", align_corners=False)
    return enlarged[..., : pixels.shape[-2], : pixels.shape[-1]]
