"""Scores against scikit-learn, and the conventions for void and for classes that are nowhere."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn import metrics

from wsi_espnet.scores import Scores, accuracy, confusion, dice, iou, mean, merge, pixel_accuracy

K = 4
NAMES = ("a", "b", "c", "d")
TRUTH = arrays(np.uint8, (6, 8), elements=st.sampled_from([0, 1, 2, 3, 255]))
LABELS = arrays(np.uint8, (6, 8), elements=st.sampled_from([0, 1, 2, 3, 255]))


@given(truth=TRUTH, labels=LABELS)
def test_the_matrix_is_that_of_scikit_learn_with_void_last(truth: np.ndarray, labels: np.ndarray) -> None:
    expected = metrics.confusion_matrix(truth.ravel(), labels.ravel(), labels=[0, 1, 2, 3, 255])
    np.testing.assert_array_equal(confusion(truth, labels, K), expected)


@given(truth=TRUTH, labels=LABELS)
def test_scores_are_those_of_scikit_learn_over_the_px_that_count(truth: np.ndarray, labels: np.ndarray) -> None:
    counts = confusion(truth, labels, K)
    labelled = truth != 255
    for convention, counted in ((False, labelled), (True, np.ones_like(labelled))):
        y, said = truth[counted], labels[counted]
        for c in range(K):
            if not ((y == c) | (said == c)).any():
                assert math.isnan(iou(counts, void_as_error=convention)[c])
                continue
            one = {"labels": [c], "average": None}
            assert iou(counts, void_as_error=convention)[c] == pytest.approx(metrics.jaccard_score(y, said, **one)[0])
            assert dice(counts, void_as_error=convention)[c] == pytest.approx(metrics.f1_score(y, said, **one)[0])
    if labelled.any():
        assert pixel_accuracy(counts) == pytest.approx(metrics.accuracy_score(truth[labelled], labels[labelled]))
    for c in set(truth[labelled].tolist()):
        assert accuracy(counts)[c] == pytest.approx((labels[truth == c] == c).mean())


@given(truth=TRUTH, labels=LABELS)
def test_merged_counts_are_those_of_merged_labels(truth: np.ndarray, labels: np.ndarray) -> None:
    table = np.full(256, 255, np.uint8)
    table[:4] = [0, 1, 0, 1]
    np.testing.assert_array_equal(
        merge(confusion(truth, labels, K), [0, 1, 0, 1]), confusion(table[truth], table[labels], 2)
    )


def test_counts_of_parts_add_up_to_those_of_the_whole() -> None:
    rng = np.random.default_rng(0)
    truth, labels = (rng.integers(0, K + 1, (30, 20)) for _ in range(2))
    parts = sum(confusion(truth[k::3], labels[k::3], K) for k in range(3))
    np.testing.assert_array_equal(parts, confusion(truth, labels, K))


def test_a_class_that_is_nowhere_is_left_out_and_said() -> None:
    scores = Scores(NAMES, confusion(np.array([0, 0, 1, 1]), np.array([0, 1, 1, 2]), K))
    assert scores.absent == ("d",)
    assert scores.means["mIoU"] == pytest.approx((1 / 2 + 1 / 3 + 0) / 3)
    assert scores.means["class accuracy"] == pytest.approx((1 / 2 + 1 / 2) / 2)
    facts = json.loads(json.dumps(scores.facts, allow_nan=False))
    assert facts["left out of the means"] == ["d"]
    assert facts["classes"]["d"]["IoU"] is None
    assert facts["classes"]["c"] == {"IoU": 0.0, "Dice": 0.0, "accuracy": None, "truth px": 0, "predicted px": 1}


def test_a_set_of_void_alone_has_no_scores() -> None:
    counts = confusion(np.full(5, 255), np.zeros(5, int), K)
    assert math.isnan(mean(iou(counts)))
    assert math.isnan(pixel_accuracy(counts))


def test_confusion_within_a_category_is_no_error_of_the_category() -> None:
    counts = confusion(np.array([0, 0, 1, 2, 3]), np.array([1, 0, 0, 3, 0]), K)
    scores = Scores(NAMES, counts, categories={"a": "x", "b": "x", "c": "y", "d": "y"})
    assert scores.category_iou == {"x": 3 / 4, "y": 1 / 2}
    assert scores.means["category mIoU"] == pytest.approx(5 / 8)
