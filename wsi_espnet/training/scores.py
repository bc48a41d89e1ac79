"""Scores of a validation set from its one confusion matrix."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict


class Scores(BaseModel):
    """Shares 0..1 of whole images; a class that occurs neither in truth nor in prediction is None and in no mean.

    Parameters
    ----------
    miou
        Mean over the classes of `iou`.
    accuracy, class_accuracy
        Share of px that are right, and its mean over the classes of the truth.
    iou
        Intersection over union of each class, by name.
    """

    model_config = ConfigDict(frozen=True)

    miou: float
    accuracy: float
    class_accuracy: float
    iou: dict[str, float | None]


def scores_of(confusion: NDArray[np.int64], names: tuple[str, ...]) -> Scores:
    """Scores from a (truth, prediction) matrix of px counts.

    Examples
    --------
    >>> scores_of(np.array([[8, 0, 0], [2, 6, 0], [0, 0, 0]]), ("a", "b", "c")).iou
    {'a': 0.8, 'b': 0.75, 'c': None}
    """
    right = confusion.diagonal().astype(np.float64)
    truth, either = confusion.sum(axis=1), confusion.sum(axis=0) + confusion.sum(axis=1) - confusion.diagonal()
    iou = right[either > 0] / either[either > 0]
    recall = right[truth > 0] / truth[truth > 0]
    there = iter(iou.tolist())
    return Scores(
        miou=_mean(iou),
        accuracy=float(right.sum() / max(1, confusion.sum())),
        class_accuracy=_mean(recall),
        iou={name: next(there) if n > 0 else None for name, n in zip(names, either, strict=True)},
    )


def _mean(values: NDArray[np.float64]) -> float:
    return float(values.mean()) if values.size else 0.0
