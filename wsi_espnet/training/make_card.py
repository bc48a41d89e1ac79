"""The card of a network that a run has made."""

from __future__ import annotations

from wsi_espnet.classes import ClassTable
from wsi_espnet.models.card import ModelCard, NetworkConfig, Normalisation
from wsi_espnet.training.config import TrainConfig

DIGITS = 4
"""Decimals of scores: a px more or less is not told."""


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
    iou = {name: round(float(row[f"IoU {name}"]), DIGITS) for name in classes.names if row[f"IoU {name}"]}
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
        scores={
            "mIoU": round(float(row["mIoU"]), DIGITS),
            "pixel accuracy": round(float(row["pixel accuracy"]), DIGITS),
            "class accuracy": round(float(row["class accuracy"]), DIGITS),
            "IoU": iou,
        },
        limits=f"{said.limits} The epoch was selected on the images that are scored; expect somewhat less.",
        source=f"{command}; from {start}; seed {config.run.seed}, epoch {row['epoch']} of {config.run.epochs}",
    )
