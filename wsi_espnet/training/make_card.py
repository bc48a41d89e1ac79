"""The card of a network that a run has made."""

from __future__ import annotations

from collections.abc import Mapping
from math import isnan

from wsi_espnet.classes import ClassTable
from wsi_espnet.models.card import ModelCard, Normalisation
from wsi_espnet.models.network_config import NetworkConfig
from wsi_espnet.scores import Scores
from wsi_espnet.training.config import TrainConfig

DIGITS = 4
"""Decimals of scores: a px more or less is not told."""

MEANS = ("mIoU", "pixel accuracy", "class accuracy")
"""Of `wsi_espnet.scores.Scores.means`: what a card tells, and columns of `log.csv`."""


def told_scores(scores: Scores) -> dict[str, float | dict[str, float]]:
    """The scores of a card: three means, and the IoU of each class that occurs."""
    iou = {name: value for name, value in zip(scores.names, scores.iou.tolist(), strict=True) if not isnan(value)}
    return _told({name: scores.means[name] for name in MEANS}, iou)


def _told(means: Mapping[str, float], iou: Mapping[str, float]) -> dict[str, float | dict[str, float]]:
    rounded = {name: round(value, DIGITS) for name, value in means.items()}
    return {**rounded, "IoU": {name: round(value, DIGITS) for name, value in iou.items()}}


def make_card(
    config: TrainConfig,
    *,
    network: NetworkConfig,
    classes: ClassTable,
    mpp: float | None,
    normalisation: Normalisation,
    images: tuple[int, int],
    row: dict[str, str],
    start: str,
    command: str,
) -> ModelCard:
    """All that the run knows, and what its settings say.

    Parameters
    ----------
    images
        Numbers of training and of validation images.
    row
        Line of `log.csv` of the epoch that is kept.
    start
        Where the weights started.
    command
        How the run was started.
    """
    data, said = config.data, config.card
    iou = {name: float(row[f"IoU {name}"]) for name in classes.names if row[f"IoU {name}"]}
    return ModelCard(
        name=config.name,
        summary=said.summary or f"{network} ({classes.name})",
        network=network,
        classes=classes,
        mpp=mpp,
        normalisation=normalisation,
        data=said.data or data.adapter,
        terms=said.terms,
        split=f"trained on the {images[0]} images of {data.train}; "
        f"selected and scored on the {images[1]} of {data.validation}",
        scores=_told({name: float(row[name]) for name in MEANS}, iou),
        limits=f"{said.limits} The epoch was selected on the images that are scored; expect somewhat less.",
        source=f"{command}; from {start}; seed {config.run.seed}, epoch {row['epoch']} of {config.run.epochs}",
    )
