"""What a data set is to this package: labelled samples in splits, one class table, one scale or none.

A data set is added by a class with the members of `Dataset`, in one file beside this one, and a line in
`wsi_espnet.data.catalog`. Whoever trains or evaluates knows nothing else about it. Data sets made of picture files
get most of these members from `wsi_espnet.data.files.FileDataset`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from wsi_espnet.classes import ClassTable
from wsi_espnet.errors import DataError


class Labelled(NamedTuple):
    """An image with its ground truth: RGB (h, w, 3) uint8, and class ids (h, w) uint8 with 255 where ignored."""

    rgb: NDArray[np.uint8]
    labels: NDArray[np.uint8]


class Sample(Protocol):
    """One image with its ground truth, not read yet; small and picklable, so that loader processes can be told."""

    @property
    def name(self) -> str:
        """Unique within its split; what findings and pictures call it."""
        ...

    def read(self) -> Labelled:
        """Read both.

        Raises
        ------
        DataError
            A file is missing or damaged, sizes differ, or the mask holds a value outside the class table.
        """
        ...


class Severity(StrEnum):
    """How bad a finding is: an error keeps a sample from being used, a warning does not."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True, slots=True, order=True)
class Finding:
    """One thing that is wrong with a data set.

    Parameters
    ----------
    severity
        Whether it must be mended.
    where
        The file, folder, sample or split that it is about.
    what
        A sentence: what is wrong, what was got and wanted, what to do.
    """

    severity: Severity
    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.severity:<7}  {self.where}: {self.what}"


@dataclass(frozen=True, slots=True)
class Listing:
    """What there is of a split: the samples that can be read or tried, and what was found wrong on the way."""

    samples: tuple[Sample, ...]
    findings: tuple[Finding, ...] = ()

    def complete(self) -> tuple[Sample, ...]:
        """The samples, of which none may be left out.

        Raises
        ------
        DataError
            An error was found; the message tells the first and how many there are.
        """
        errors = [finding for finding in self.findings if finding.severity is Severity.ERROR]
        if errors:
            more = f" (and {len(errors) - 1} more findings; list them with `wsi-espnet data check`)"
            raise DataError(f"{errors[0].where}: {errors[0].what}{more if len(errors) > 1 else ''}")
        return self.samples


class Dataset(Protocol):
    """Samples of one data set.

    A class that implements it is constructed with the root folder (and what else it needs, keyword-only), and looks
    at the disk then; it raises `DataError` where the folder is not of its layout.
    """

    @property
    def name(self) -> str:
        """As in the catalog, such as ``camvid``, with the map of classes where there is a choice."""
        ...

    @property
    def classes(self) -> ClassTable:
        """What the ids in `Labelled.labels` mean; 255 is ignored in training and in scores."""
        ...

    @property
    def mpp(self) -> float | None:
        """Um per px of every sample; None for photographs."""
        ...

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits that are there, such as ``train`` and ``val``."""
        ...

    @property
    def unions(self) -> Mapping[str, tuple[str, ...]]:
        """Splits that hold the samples of others by design, such as VOC's ``trainval``: ``train`` and ``val``."""
        ...

    def samples(self, split: str) -> Sequence[Sample]:
        """All samples of a split, in a fixed order.

        Raises
        ------
        DataError
            There is no such split, and the message lists those that there are; or a sample of it is incomplete.
        """
        ...

    def listing(self, split: str) -> Listing:
        """The same with what is wrong, for a check that goes on after the first finding.

        Raises
        ------
        DataError
            There is no such split.
        """
        ...
