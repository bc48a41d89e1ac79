"""Which network a model file holds: a frozen value for each family. No torch here."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

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

ESPNETS = (ENCODER, ESPNET_C, ESPNET)
"""The family itself; the others are what it is measured against or taught by, and ESP-PSP."""

EXPORTED = (*ESPNETS, UNITS, ERFNET)
"""Networks that leave as ONNX: all that halve the sides three times, but ENet, whose unpooling has no form there, and
ESP-PSP and PSPNet, whose averages over grids have none for every size. Exported graphs take sides of multiples of 8."""

Unit = Literal["mobilenet", "shufflenet", "resnet"]


class _Config(BaseModel):
    """What all have in common: frozen, no key but those listed, and at least two outputs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    classes: Annotated[int, Field(ge=2, le=255)]


class EspNetConfig(_Config):
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

    architecture: Literal["encoder", "espnet-c", "espnet"] = "espnet"
    p: Annotated[int, Field(ge=0, le=64)] = 2
    q: Annotated[int, Field(ge=0, le=64)] = 8
    skip: Literal[16, 19] = 19

    def __str__(self) -> str:
        skip = f", detail skip {self.skip}" if self.architecture == ESPNET else ""
        return f"{self.architecture}, p {self.p}, q {self.q}, {self.classes} classes{skip}"


class UnitsConfig(_Config):
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

    architecture: Literal["espnet-c-units"] = "espnet-c-units"
    unit: Unit
    p: Annotated[int, Field(ge=0, le=64)] = 2
    q: Annotated[int, Field(ge=0, le=64)] = 8

    def __str__(self) -> str:
        return f"{self.architecture} of {self.unit}, p {self.p}, q {self.q}, {self.classes} classes"


class BaselineConfig(_Config):
    """A published network that has one form.

    Parameters
    ----------
    architecture
        ``enet``, ``erfnet`` and ``pspnet``, which the paper compares ESPNet with, or ``esp-psp``, its sister for breast
        biopsies.
    classes
        Number of output channels, at least 2.
    """

    architecture: Literal["enet", "erfnet", "pspnet", "esp-psp"]

    def __str__(self) -> str:
        return f"{self.architecture}, {self.classes} classes"


class UNetConfig(_Config):
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

    architecture: Literal["unet"] = "unet"
    width: Annotated[int, Field(ge=1, le=256)] = 64

    def __str__(self) -> str:
        return f"{self.architecture}, width {self.width}, {self.classes} classes"


class EfficientNetConfig(_Config):
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

    architecture: Literal["efficientnet-lite"] = "efficientnet-lite"
    size: Annotated[int, Field(ge=0, le=4)] = 2

    def __str__(self) -> str:
        return f"{self.architecture}{self.size}, {self.classes} classes"


NetworkConfig = EspNetConfig | UnitsConfig | BaselineConfig | UNetConfig | EfficientNetConfig
"""Any network that a model file may hold."""

StoredNetwork = Annotated[NetworkConfig, Field(discriminator="architecture")]
"""The same as pydantic reads it: by its architecture."""
