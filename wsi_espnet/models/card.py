"""Model cards: what a network is, what it was trained on and how far it may be trusted. No torch here."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, model_validator

from wsi_espnet.classes import ClassTable

ENCODER = "encoder"
ESPNET_C = "espnet-c"
ESPNET = "espnet"
UNITS = "espnet-c-units"
ESP_PSP = "esp-psp"
ENET = "enet"
ERFNET = "erfnet"
PSPNET = "pspnet"
UNET = "unet"
EFFICIENTNET = "efficientnet-lite"

YARDSTICKS = (UNITS, ESP_PSP, ENET, ERFNET, PSPNET, UNET, EFFICIENTNET)
"""Networks beside the ESPNet family: to measure it against, to teach it, or for breast biopsies."""

EXPORTED = (ENCODER, ESPNET_C, ESPNET, UNITS, ERFNET, UNET)
"""Networks that leave as ONNX. ENet's unpooling and the averages of PSPNet and ESP-PSP have no form there for every
size, and EfficientNet-Lite's padding has none in half precision."""

Unit = Literal["mobilenet", "shufflenet", "resnet"]

Triple = tuple[float, float, float]


class EspNetConfig(BaseModel):
    """Which member of the ESPNet family a network is.

    Parameters
    ----------
    architecture
        ``encoder``, ``espnet-c`` (the encoder with input reinforcement, logits at stride 8) or ``espnet``
        (with the light-weight decoder, logits at full resolution).
    p, q
        Pyramids with a residual at stride 4 and at stride 8: alpha2 and alpha3 of the paper (Mehta et al.,
        ECCV 2018), which uses p = 2 and q = 3, 5 or 8.
    classes
        Number of output channels, at least 2.
    skip
        Channels of the stride-2 map that the decoder is given: 16 (first convolution alone, the authors'
        published Cityscapes weights) or 19 (with the halved image, what the authors' training code builds).
        Only ``espnet`` has this skip; the others ignore it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    architecture: Literal["encoder", "espnet-c", "espnet"] = "espnet"
    p: Annotated[int, Field(ge=0, le=64)] = 2
    q: Annotated[int, Field(ge=0, le=64)] = 8
    classes: Annotated[int, Field(ge=2, le=255)]
    skip: Literal[16, 19] = 19

    @property
    def stride(self) -> int:
        """Input px per output px and axis: 1 with the decoder, 8 without."""
        return 1 if self.architecture == ESPNET else 8

    def __str__(self) -> str:
        skip = f", detail skip {self.skip}" if self.architecture == ESPNET else ""
        return f"{self.architecture}, p {self.p}, q {self.q}, {self.classes} classes{skip}"


class UnitsConfig(BaseModel):
    """ESPNet-C with another convolution unit in place of its pyramids: the paper's ablation.

    Parameters
    ----------
    architecture
        ``espnet-c-units``.
    unit
        Whose.
    p, q
        How many at stride 4 and at stride 8, as in `EspNetConfig`.
    classes
        Number of output channels, at least 2.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    architecture: Literal["espnet-c-units"] = "espnet-c-units"
    unit: Unit
    p: Annotated[int, Field(ge=0, le=64)] = 2
    q: Annotated[int, Field(ge=0, le=64)] = 8
    classes: Annotated[int, Field(ge=2, le=255)]

    @property
    def stride(self) -> int:
        """Input px per output px and axis."""
        return 8

    def __str__(self) -> str:
        return f"{self.architecture} of {self.unit}, p {self.p}, q {self.q}, {self.classes} classes"


class BaselineConfig(BaseModel):
    """A published network that has one form.

    Parameters
    ----------
    architecture
        ``enet``, ``erfnet`` and ``pspnet``, which the paper compares ESPNet with, or ``esp-psp``, its sister for breast
        biopsies.
    classes
        Number of output channels, at least 2.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    architecture: Literal["enet", "erfnet", "pspnet", "esp-psp"]
    classes: Annotated[int, Field(ge=2, le=255)]

    @property
    def stride(self) -> int:
        """Input px per output px and axis."""
        return 1

    def __str__(self) -> str:
        return f"{self.architecture}, {self.classes} classes"


class UNetConfig(BaseModel):
    """U-Net, which the ESPNet family is measured against.

    Parameters
    ----------
    architecture
        ``unet``.
    width
        Channels of the first level; 64 is the original's, with 31 M parameters.
    classes
        Number of output channels, at least 2.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    architecture: Literal["unet"] = "unet"
    width: Annotated[int, Field(ge=1, le=256)] = 64
    classes: Annotated[int, Field(ge=2, le=255)]

    @property
    def stride(self) -> int:
        """Input px per output px and axis."""
        return 1

    def __str__(self) -> str:
        return f"{self.architecture}, width {self.width}, {self.classes} classes"


class EfficientNetConfig(BaseModel):
    """EfficientNet-Lite with a decoder, a teacher that the ESPNet family learns from.

    Parameters
    ----------
    architecture
        ``efficientnet-lite``.
    size
        0 to 4, as in the names of EfficientNet-Lite0 to Lite4.
    classes
        Number of output channels, at least 2.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    architecture: Literal["efficientnet-lite"] = "efficientnet-lite"
    size: Annotated[int, Field(ge=0, le=4)] = 2
    classes: Annotated[int, Field(ge=2, le=255)]

    @property
    def stride(self) -> int:
        """Input px per output px and axis."""
        return 1

    def __str__(self) -> str:
        return f"{self.architecture}{self.size}, {self.classes} classes"


NetworkConfig = EspNetConfig | UnitsConfig | BaselineConfig | UNetConfig | EfficientNetConfig
"""Any network that a model file may hold."""

StoredNetwork = Annotated[NetworkConfig, Field(discriminator="architecture")]
"""The same as pydantic reads it: by its architecture."""


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
