"""Everything that decides a training run, as frozen values.

One section per table of the file; unknown keys are refused by name. `pipelines/*.toml` are examples.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from wsi_espnet.models.card import Normalisation
from wsi_espnet.models.network_config import (
    ESPNET,
    PSPNET,
    BaselineConfig,
    EfficientNetConfig,
    EspNetConfig,
    NetworkConfig,
    UNetConfig,
    Unit,
    UnitsConfig,
)
from wsi_espnet.settings import BelowOne, Count, NotNegative, Positive, Section, Whole, change, parse, read_toml
from wsi_espnet.training.augment_config import AugmentConfig
from wsi_espnet.training.loss_config import LossConfig


class DataConfig(Section):
    """Where the samples come from.

    Parameters
    ----------
    adapter, root, options
        What `wsi_espnet.data.catalog.open_dataset` is asked for; `--data` replaces the root.
    train, validation
        Names of splits: the first is learned, the second selects the epoch and is scored.
    cache
        Keep all decoded images in memory.
    """

    adapter: str
    root: Path | None = None
    options: dict[str, Any] = Field(default_factory=dict)
    train: str = "train"
    validation: str = "val"
    cache: bool = False


class ModelConfig(Section):
    """The network and where its weights start.

    Parameters
    ----------
    architecture, p, q, skip
        As in `EspNetConfig`; the number of classes is the data set's. ``espnet-c-units`` takes p and q too;
        ``esp-psp``, ``enet``, ``erfnet``, ``pspnet``, ``unet`` and ``efficientnet-lite`` have none of these.
    unit
        Of ``espnet-c-units``, as in `UnitsConfig`.
    width
        Of a ``unet``, as in `UNetConfig`.
    size
        Of an ``efficientnet-lite``, as in `EfficientNetConfig`.
    init
        A `.safetensors` file or bundled name, or an authors' `.pth`; for an ``efficientnet-lite`` also ``imagenet``.
        None starts from random weights.
    init_part
        ``all`` of it where the classes are the same, or its ``encoder`` alone.
    init_classes
        Names of this data set's classes and what the file calls them, where the names differ.
    revive
        Give the dead channels of the authors' weights a start of their own, and fold the convention of their input
        (BGR, divided by 255 once more) into the weights, so that the network takes plain RGB and learns sooner.
    normalisation
        From 8-bit RGB to the input; None takes that of `init`, or else what is measured on the training split.
    """

    architecture: Literal[
        "encoder",
        "espnet-c",
        "espnet",
        "espnet-c-units",
        "esp-psp",
        "enet",
        "erfnet",
        "pspnet",
        "unet",
        "efficientnet-lite",
    ] = "espnet"
    p: Annotated[int, Field(ge=0, le=64)] = 2
    q: Annotated[int, Field(ge=0, le=64)] = 8
    skip: Literal[16, 19] = 19
    unit: Unit = "mobilenet"
    width: Annotated[int, Field(ge=1, le=256)] = 64
    size: Annotated[int, Field(ge=0, le=4)] = 2
    init: str | None = None
    init_part: Literal["all", "encoder"] = "all"
    init_classes: dict[str, str] = Field(default_factory=dict)
    revive: bool = False
    normalisation: Normalisation | None = None

    def network(self, classes: int) -> NetworkConfig:
        """The network for that many classes."""
        match self.architecture:  # the words themselves, which a type checker follows
            case "espnet-c-units":
                return UnitsConfig(unit=self.unit, p=self.p, q=self.q, classes=classes)
            case "esp-psp" | "enet" | "erfnet" | "pspnet":
                return BaselineConfig(architecture=self.architecture, classes=classes)
            case "unet":
                return UNetConfig(width=self.width, classes=classes)
            case "efficientnet-lite":
                return EfficientNetConfig(size=self.size, classes=classes)
            case "encoder" | "espnet-c" | "espnet":
                return EspNetConfig(architecture=self.architecture, p=self.p, q=self.q, classes=classes, skip=self.skip)


class OptimiserConfig(Section):
    """How a gradient becomes a step; gains, biases and leaks are never decayed unless `decay_all`.

    `decay_all` decays everything, as the authors did, which killed channels (see `wsi_espnet.training.revive`).
    """

    name: Literal["adam", "adamw", "sgd"] = "adamw"
    learning_rate: Positive = 1e-3
    weight_decay: NotNegative = 1e-4
    decay_all: bool = False
    betas: tuple[BelowOne, BelowOne] = (0.9, 0.999)
    momentum: BelowOne = 0.9
    nesterov: bool = False
    clip: Positive | None = None

    @model_validator(mode="after")
    def _ensure_momentum(self) -> Self:
        if self.name == "sgd" and self.nesterov and not self.momentum:
            raise ValueError("nesterov needs a momentum above 0")
        return self


class ScheduleConfig(Section):
    """How the learning rate goes over the run.

    Parameters
    ----------
    name
        ``poly`` falls as (1 - t)^power, ``cosine`` as half a cosine, ``step`` is multiplied by `gamma` every
        `step_epochs`, ``constant`` stays.
    warm_up_epochs
        Of a linear rise before that.
    """

    name: Literal["poly", "cosine", "step", "constant"] = "poly"
    power: Positive = 0.9
    step_epochs: Count = 100
    gamma: Annotated[float, Field(gt=0, le=1)] = 0.5
    warm_up_epochs: NotNegative = 0.0


class EncoderStage(Section):
    """A first run on the encoder alone, with labels at stride 8, whose weights the decoder is then put on.

    What is None is as in the second run.
    """

    epochs: Count
    batch: Count | None = None
    learning_rate: Positive | None = None


class RunConfig(Section):
    """How long, on what, and from which chance.

    Parameters
    ----------
    epochs, repeats
        One epoch looks at every image `repeats` times.
    batch, accumulate
        Crops per step of one device, and steps whose gradients are added up.
    seed
        All chance is drawn from it, the epoch and the index of the crop.
    precision
        ``auto`` is bf16 on CUDA and fp32 on the CPU.
    device, devices
        ``auto``, ``cpu`` or ``cuda``, and how many; more than one train together (DDP).
    workers
        Processes that read and augment; they change no result.
    threads
        CPU threads of the network; None leaves torch's choice. Another number rounds differently.
    ema
        Decay of the running average of the weights, which is what is scored and kept; 0 keeps none.
    validate_every
        Epochs between two scores.
    pictures
        Validation images in `predictions.png`.
    """

    epochs: Count
    batch: Count = 8
    accumulate: Count = 1
    repeats: Count = 1
    seed: Whole = 0
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    devices: Count = 1
    workers: Whole = 0
    threads: Count | None = None
    ema: BelowOne = 0.999
    validate_every: Count = 1
    pictures: Whole = 4


class CardConfig(Section):
    """What the model card says beyond what the run knows."""

    summary: str = ""
    data: str = ""
    terms: str = "not stated"
    limits: str = "Not measured on other data. Not for diagnosis."


class TrainConfig(Section):
    """All settings of a run; `name` becomes the model's."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    data: DataConfig
    model: ModelConfig = ModelConfig()
    augment: AugmentConfig
    loss: LossConfig = LossConfig()
    optimiser: OptimiserConfig = OptimiserConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    run: RunConfig
    encoder_stage: EncoderStage | None = None
    card: CardConfig = CardConfig()

    @model_validator(mode="after")
    def _ensure_a_decoder_for_two_stages(self) -> TrainConfig:
        if self.encoder_stage is not None and (self.model.architecture != ESPNET or self.model.init is not None):
            raise ValueError(
                "encoder_stage trains the start of an espnet: it needs that architecture and no model.init"
            )
        return self

    @model_validator(mode="after")
    def _ensure_batches_for_batch_norm(self) -> TrainConfig:
        if self.run.batch * self.augment.crop_px[0] * self.augment.crop_px[1] <= 64:
            raise ValueError("a batch has one px at stride 8, too little for batch normalisation")
        if self.model.architecture == PSPNET and self.run.batch < 2:
            raise ValueError("a pspnet normalises one px of each image's coarsest map and needs run.batch of 2 or more")
        return self


def read_config(
    path: str | Path, *, data: str | Path | None = None, changes: Mapping[str, Any] | None = None
) -> TrainConfig:
    """The settings of a TOML file.

    Parameters
    ----------
    path
        The file.
    data
        Takes the place of `data.root`.
    changes
        Values by dotted key, such as ``run.epochs``, which take the place of the file's.

    Raises
    ------
    UsageError
        The file is missing or not TOML, or a key is unknown, missing or of a wrong value; the message names it.
    """
    values = read_toml(Path(path))
    change(values, changes or {})
    if data is not None:
        change(values, {"data.root": str(data)})
    return parse(TrainConfig, values, str(path))
