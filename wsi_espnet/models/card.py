"""Model cards: what a network is, what it was trained on and how far it may be trusted. No torch here."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, model_validator

from wsi_espnet.classes import ClassTable
from wsi_espnet.models.network_config import StoredNetwork

Triple = tuple[float, float, float]


class Normalisation(BaseModel):
    """How 8-bit colour becomes the numbers that a network was trained on: (value - mean) / std / divide.

    Parameters
    ----------
    order
        Channel order of the network's input, of `mean` and of `std`.
    mean, std
        Per channel, on the scale 0..255.
    divide
        Applied last; the authors' weights want a second division by 255.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    order: Literal["rgb", "bgr"] = "rgb"
    mean: Triple
    std: Triple
    divide: Annotated[float, Field(gt=0)] = 1.0

    @model_validator(mode="after")
    def _ensure_positive_std(self) -> Normalisation:
        if min(self.std) <= 0:
            raise ValueError(f"std must be above 0 in every channel, got {self.std}")
        return self

    def apply(self, rgb: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """The network's input for an image.

        Parameters
        ----------
        rgb
            (h, w, 3) uint8, channels always red, green, blue.

        Returns
        -------
        numpy.ndarray
            (3, h, w) float32, C-contiguous, channels in `order`.
        """
        channels = rgb if self.order == "rgb" else rgb[..., ::-1]
        scaled = channels.astype(np.float32)
        scaled -= np.asarray(self.mean, np.float32)
        scaled /= np.asarray(self.std, np.float32) * np.float32(self.divide)
        return np.ascontiguousarray(scaled.transpose(2, 0, 1))


class ModelCard(BaseModel):
    """All that goes with a set of weights; stored as JSON inside the file of weights.

    Parameters
    ----------
    format
        Version of the card's own layout.
    name
        Short name by which the model is asked for, such as ``glas-colon``.
    summary
        One sentence for a list of models.
    network
        What `wsi_espnet.models.networks.build` needs.
    classes
        One class per output channel of the network.
    mpp
        Um per px of the images it was trained on; None for pictures without a physical scale.
    normalisation
        From 8-bit RGB to the network's input.
    data, terms
        What it was trained on, and under what terms that may be used.
    split
        Which part trained it and which part selected and scored it.
    scores
        Numbers 0..1 on the held-out part, or tables of them (per class).
    limits
        What it must not be used for, and where it is known to fail.
    source
        Where the weights come from: the command, or repository, commit and sha256.
    core_px, halo_px
        Advice for windows over a slide, in px at `mpp`: side of the core and width of the halo around it.
    temperature
        What the trained logits were divided by, so that probabilities mean what they say; the weights hold it already.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    name: Annotated[str, Field(min_length=1)]
    summary: str
    network: StoredNetwork
    classes: ClassTable
    mpp: Annotated[float, Field(gt=0)] | None
    normalisation: Normalisation
    data: str
    terms: str
    split: str
    scores: dict[str, float | dict[str, float]]
    limits: str
    source: str
    core_px: Annotated[int, Field(gt=0, multiple_of=8)] = 2560
    halo_px: Annotated[int, Field(ge=0, multiple_of=8)] = 192
    temperature: Annotated[float, Field(gt=0)] = 1.0

    @model_validator(mode="after")
    def _ensure_one_class_per_output(self) -> ModelCard:
        if len(self.classes) != self.network.classes:
            raise ValueError(
                f"the class table {self.classes.name!r} has {len(self.classes)} classes, "
                f"the network {self.network.classes} outputs; they must be equal"
            )
        return self
