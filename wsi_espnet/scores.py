"""What a segmentation scores, from one confusion matrix over a whole set, never averaged over images or batches.

Void is one row and one column of the matrix, so that both conventions for it come from the same counts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.int64]
"""(K + 1, K + 1): px of each true class (row) by what they were called (column), for K classes.

The last row is void truth, the last column whatever was said that is no class.
"""

_IDS = 256

_FEW = 8
"""Classes up to which counting one after the other is quicker than all at once."""

Values = NDArray[np.float64]
"""(K,): a number 0..1 of each class, nan for a class that it is not defined for."""


def confusion(truth: NDArray[np.integer[Any]], labels: NDArray[np.integer[Any]], classes: int) -> Counts:
    """Counts of all px of one image, or of a part of it; those of several are added up.

    Parameters
    ----------
    truth, labels
        Class ids of one shape; ids from `classes` on (such as 255) are void in truth and no class in labels.
    classes
        Their number K.

    Examples
    --------
    >>> confusion(np.array([0, 0, 1, 255]), np.array([0, 1, 1, 0]), 2).tolist()
    [[1, 1, 0], [0, 1, 0], [1, 0, 0]]
    """
    rows = np.minimum(truth.ravel(), classes).astype(np.int64)
    columns = np.minimum(labels.ravel(), classes)
    found = np.bincount(rows * (classes + 1) + columns, minlength=(classes + 1) ** 2)
    return found.reshape(classes + 1, classes + 1)


def count_ids(ids: NDArray[np.uint8], inside: NDArray[np.bool_], classes: int) -> NDArray[np.int64]:
    """Px of each id, (256,), where `inside`; `classes` of them, from 0 on, are expected.

    Examples
    --------
    >>> count_ids(np.array([0, 1, 1, 7], np.uint8), np.array([True, True, True, False]), 2)[:3].tolist()
    [1, 2, 0]
    """
    if classes <= _FEW:  # one takes a sixteenth of the time that `bincount` takes for all, which copies px as int64
        counts = np.zeros(_IDS, dtype=np.int64)
        for known in range(classes):
            counts[known] = np.count_nonzero((ids == known) & inside)
        if counts.sum() == np.count_nonzero(inside):
            return counts
    return np.bincount(ids[inside], minlength=_IDS)


def merge(counts: Counts, groups: Sequence[int]) -> Counts:
    """Counts of groups of classes; class i belongs to the group `groups[i]` of 0 .. G - 1.

    Examples
    --------
    >>> merge(np.array([[3, 2, 0, 0], [1, 4, 0, 0], [0, 1, 5, 1], [0, 0, 2, 0]]), [0, 0, 1]).tolist()
    [[10, 0, 0], [1, 5, 1], [0, 2, 0]]
    """
    index = np.array([*groups, max(groups) + 1])  # void stays last
    merged = np.zeros((index[-1] + 1,) * 2, np.int64)
    np.add.at(merged, (index[:, None], index[None, :]), counts)
    return merged


def iou(counts: Counts, *, void_as_error: bool = False) -> Values:
    """Intersection over union of each class; nan for a class that is neither in the truth nor said of a px that counts.

    A class px that is called no class is an error in either convention.

    Parameters
    ----------
    counts
        From `confusion`.
    void_as_error
        Whether a void px counts against the class that it is called; otherwise void px do not count.

    Examples
    --------
    >>> counts = confusion(np.array([0, 0, 0, 0, 1, 255]), np.array([0, 0, 0, 1, 1, 1]), 2)
    >>> iou(counts).tolist(), iou(counts, void_as_error=True).round(3).tolist()
    ([0.75, 0.5], [0.75, 0.333])
    """
    both, true, said = _sums(counts, void_as_error)
    return _ratio(both, true + said - both)


def dice(counts: Counts, *, void_as_error: bool = False) -> Values:
    """Twice the intersection over the sum of both areas, of each class; nan and void as in `iou`."""
    both, true, said = _sums(counts, void_as_error)
    return _ratio(2 * both, true + said)


def accuracy(counts: Counts) -> Values:
    """Share of the true px of each class that are found (recall); nan for a class that is not in the truth."""
    both, true, _ = _sums(counts, False)
    return _ratio(both, true)


def pixel_accuracy(counts: Counts) -> float:
    """Share of all px that are not void in the truth whose class is right; nan if there are none."""
    labelled = int(counts[:-1].sum())
    return int(np.diagonal(counts)[:-1].sum()) / labelled if labelled else math.nan


def mean(values: Values) -> float:
    """Mean over the classes that have a value; nan if none has."""
    there = values[~np.isnan(values)]
    return float(there.mean()) if there.size else math.nan


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """All scores of one set.

    Parameters
    ----------
    names
        Of the K classes.
    counts
        Over the whole set.
    void_as_error
        Convention for void px in IoU and Dice; the accuracies leave them out in both.
    categories
        Category of each class by name; None where the classes have none.
    """

    names: tuple[str, ...]
    counts: Counts
    void_as_error: bool = False
    categories: Mapping[str, str] | None = None

    @property
    def iou(self) -> Values:
        """Of each class."""
        return iou(self.counts, void_as_error=self.void_as_error)

    @property
    def dice(self) -> Values:
        """Of each class."""
        return dice(self.counts, void_as_error=self.void_as_error)

    @property
    def accuracy(self) -> Values:
        """Of each class: its recall."""
        return accuracy(self.counts)

    @property
    def absent(self) -> tuple[str, ...]:
        """Classes that no px has and no px was called; they are left out of the means."""
        return tuple(name for name, value in zip(self.names, self.iou, strict=True) if math.isnan(value))

    @property
    def category_iou(self) -> dict[str, float]:
        """IoU of each category, after its classes were taken for one; empty where there are none."""
        if self.categories is None:
            return {}
        of_class = [self.categories[name] for name in self.names]
        names = list(dict.fromkeys(of_class))
        values = iou(merge(self.counts, [names.index(c) for c in of_class]), void_as_error=self.void_as_error)
        return {name: float(value) for name, value in zip(names, values, strict=True)}

    @property
    def means(self) -> dict[str, float]:
        """The figures that a set is known by, 0..1."""
        found = {
            "mIoU": mean(self.iou),
            "pixel accuracy": pixel_accuracy(self.counts),
            "class accuracy": mean(self.accuracy),
            "mean Dice": mean(self.dice),
        }
        if self.categories is not None:
            found["category mIoU"] = mean(np.array([*self.category_iou.values()]))
        return found

    @property
    def facts(self) -> dict[str, Any]:
        """JSON-able; None stands for what is not defined."""
        columns = {"IoU": self.iou, "Dice": self.dice, "accuracy": self.accuracy}
        return {
            **{name: _known(value) for name, value in self.means.items()},
            "void": "error" if self.void_as_error else "ignored",
            "left out of the means": list(self.absent),
            "classes": {
                name: {column: _known(values[i]) for column, values in columns.items()}
                | {"truth px": int(self.counts[i].sum()), "predicted px": int(self.counts[:-1, i].sum())}
                for i, name in enumerate(self.names)
            },
            "categories": {name: _known(value) for name, value in self.category_iou.items()},
            "confusion": {"rows": [*self.names, "(void)"], "columns": [*self.names, "(no class)"]}
            | {"px": self.counts.tolist()},
        }


def _sums(counts: Counts, void_as_error: bool) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Px of each class that are right, that are true, and that are said."""
    classes = len(counts) - 1
    rows = classes + 1 if void_as_error else classes
    return np.diagonal(counts)[:classes], counts[:classes].sum(axis=1), counts[:rows, :classes].sum(axis=0)


def _ratio(part: NDArray[np.int64], whole: NDArray[np.int64]) -> Values:
    return np.where(whole > 0, part / np.maximum(whole, 1), np.nan)


def _known(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
