"""Whether a probability means what it says: the error of calibration, and the temperature that mends it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

BINS = 15
"""As in Guo et al. 2017 (arXiv 1706.04599), section 4.1."""

COOLEST, HOTTEST = 0.05, 20.0
"""Between which a temperature is looked for."""

Logits = NDArray[np.floating[Any]]
"""(N, C): what a network says of each of N px."""

Truth = NDArray[np.integer[Any]]
"""(N,): the class of each, 0 .. C - 1."""


def calibration_error(logits: Logits, truth: Truth) -> float:
    """Mean distance, 0..1, between how sure a network is of its answers and how often they are right.

    The expected calibration error: px are sorted into 15 bins of equal width by the probability of their answer; each
    bin counts by its px (Guo et al. 2017, arXiv 1706.04599, equation 3).

    Examples
    --------
    >>> sure = np.array([[9.0, -9.0], [9.0, -9.0]])
    >>> round(calibration_error(sure, np.array([0, 0])), 3), round(calibration_error(sure, np.array([0, 1])), 3)
    (0.0, 0.5)
    """
    answers = logits.argmax(axis=1)
    confidence = np.exp(_log_probability(logits, answers))
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    gaps = np.bincount(bins, weights=confidence - (answers == truth), minlength=BINS)
    return float(np.abs(gaps).sum() / len(truth))


def fit_temperature(logits: Logits, truth: Truth) -> float:
    """What the logits are to be divided by so that the truth is likeliest (section 4.2 of the same paper).

    The order of the classes stays, so no label changes. Above 1 where a network is surer than it should be.
    """

    def surprise(log_temperature: float) -> float:
        return -float(_log_probability(logits / np.exp(log_temperature), truth).mean())

    found = minimize_scalar(surprise, bounds=(np.log(COOLEST), np.log(HOTTEST)), method="bounded")
    return float(np.exp(found.x))


def _log_probability(logits: Logits, classes: Truth) -> NDArray[np.float64]:
    """(N,): of one class of each px."""
    high = logits.max(axis=1)
    total = np.log(np.exp(logits - high[:, None]).sum(axis=1, dtype=np.float64))
    chosen: NDArray[np.float64] = np.take_along_axis(logits, classes[:, None], axis=1)[:, 0] - high - total
    return chosen
