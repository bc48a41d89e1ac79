"""What a training split holds: px of each class, and its colours, in one pass over its images."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from wsi_espnet.classes import UNLABELLED
from wsi_espnet.errors import DataError
from wsi_espnet.models.card import Normalisation, Triple
from wsi_espnet.training.loader import Images

VALUES = 256


class Survey(BaseModel):
    """Numbers of a split.

    Parameters
    ----------
    images
        How many there are.
    class_px
        Px of each class; ignored ones are not among them.
    mean, std
        Of R, G, B over all px, 0..255, to two decimals.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    images: Annotated[int, Field(ge=1)]
    class_px: tuple[int, ...]
    mean: Triple
    std: Triple

    @property
    def counts(self) -> NDArray[np.int64]:
        """(C,) px of each class."""
        return np.asarray(self.class_px, np.int64)

    @property
    def normalisation(self) -> Normalisation:
        """(rgb - mean) / std; a channel that never varies is left as it is."""
        red, green, blue = (value if value > 0 else 1.0 for value in self.std)
        return Normalisation(order="rgb", mean=self.mean, std=(red, green, blue))


def take_survey(images: Images, classes: int) -> Survey:
    """Read every image once and count.

    Raises
    ------
    DataError
        There are no images, or no px has a label.
    """
    labels = np.zeros(VALUES, np.int64)
    colours = np.zeros((3, VALUES), np.int64)
    for index in range(len(images)):
        image = images[index]
        labels += np.bincount(image.labels.ravel(), minlength=VALUES)
        colours += np.stack([np.bincount(image.rgb[..., c].ravel(), minlength=VALUES) for c in range(3)])
    if not labels[:UNLABELLED].any():
        raise DataError(f"none of the {len(images)} training images has a labelled px")
    mean, std = _moments(colours)
    return Survey(
        images=len(images), class_px=tuple(int(n) for n in labels[:classes]), mean=_rounded(mean), std=_rounded(std)
    )


def _moments(histograms: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and standard deviation of each row's values 0..255; sums of integers, so the order of images is nothing."""
    values = np.arange(VALUES)
    count = histograms.sum(axis=1)
    mean = histograms @ values / count
    return mean, np.sqrt(np.maximum(0, histograms @ values**2 / count - mean**2))


def _rounded(values: NDArray[np.float64]) -> Triple:
    red, green, blue = (round(float(v), 2) for v in values)
    return red, green, blue
