"""Scores against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, balanced_accuracy_score, confusion_matrix, jaccard_score
from torchmetrics.classification import MulticlassConfusionMatrix

from wsi_espnet.training.scores import scores_of


def test_scores_are_those_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    truth, predicted = rng.integers(0, 4, 500), rng.integers(0, 4, 500)
    scores = scores_of(confusion_matrix(truth, predicted), ("a", "b", "c", "d"))
    assert scores.miou == pytest.approx(jaccard_score(truth, predicted, average="macro"))
    assert list(scores.iou.values()) == pytest.approx(jaccard_score(truth, predicted, average=None))
    assert scores.accuracy == pytest.approx(accuracy_score(truth, predicted))
    assert scores.class_accuracy == pytest.approx(balanced_accuracy_score(truth, predicted))


def test_the_matrix_of_torchmetrics_has_truth_in_its_rows_and_no_ignored_px() -> None:
    counted = MulticlassConfusionMatrix(3, ignore_index=255, validate_args=False)
    counted.update(torch.tensor([[0, 1, 2, 1]]), torch.tensor([[0, 2, 2, 255]]))
    counted.update(torch.tensor([[2]]), torch.tensor([[1]]))
    assert counted.compute().tolist() == [[1, 0, 0], [0, 0, 1], [0, 1, 1]]


def test_a_class_that_is_nowhere_is_in_no_mean_but_one_that_is_only_guessed_is_wrong() -> None:
    nowhere = scores_of(np.array([[8, 0, 0], [2, 6, 0], [0, 0, 0]]), ("a", "b", "c"))
    assert nowhere.iou == {"a": 0.8, "b": 0.75, "c": None}
    assert nowhere.miou == pytest.approx(0.775)
    guessed = scores_of(np.array([[8, 0, 1], [2, 6, 0], [0, 0, 0]]), ("a", "b", "c"))
    assert guessed.iou["c"] == 0
    assert guessed.class_accuracy == pytest.approx((8 / 9 + 6 / 8) / 2)
    assert scores_of(np.zeros((2, 2), np.int64), ("a", "b")).miou == 0
