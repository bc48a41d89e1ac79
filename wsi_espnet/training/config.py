"""Everything that decides a training run, as frozen values.

One section per table of the file; unknown keys are refused by name. `pipelines/*.toml` are examples.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

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

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
Quality = Annotated[int, Field(ge=1, le=100)]
Side = Annotated[int, Field(ge=16, multiple_of=8)]


class Section(BaseModel):
    """What all tables have in common: frozen, and no key but those listed."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


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
    options: dict[str, Any] = {}
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
    init_classes: dict[str, str] = {}
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


class AugmentConfig(Section):
    """What differs between two looks at an image.

    Parameters
    ----------
    crop_px
        (height, width) of what the network is given.
    scale
        Smallest and largest enlargement, drawn log-uniformly.
    flip
        Share of crops that are mirrored left to right.
    pose
        Turn by quarters and mirror at random: for tissue, which has no up. It needs square crops.
    brightness, contrast, saturation, hue
        Largest change, as a share (of the circle of hues for the last).
    white_balance
        Largest change of each of R, G and B for itself, as a share: light of another colour, another camera.
    gamma
        Largest power of the values 0..1, at least 1, and the inverse of the smallest: deeper and paler shadows.
    noise
        Largest standard deviation of noise in each value, of 255.
    jpeg_quality
        (lowest, highest) quality at which the crop is compressed as JPEG, as slides are; None leaves it as it is.
    stain_gain, stain_shift
        For H&E: the range by which each stain is scaled, and the largest shift in optical density.
    blank
        For tissue: share of crops of which a part is covered by glass, ink or black, in the class of glass.
    mosaic
        Share of crops that are put together from parts of four images, so that neighbours of another class are met.
    paste
        Share of crops that are given half the classes of another one, where they stand there: for streets.
    """

    crop_px: tuple[Side, Side]
    scale: tuple[Positive, Positive] = (0.5, 2.0)
    flip: Share = 0.5
    pose: bool = False
    brightness: Annotated[float, Field(ge=0, lt=1)] = 0.0
    contrast: Annotated[float, Field(ge=0, lt=1)] = 0.0
    saturation: Share = 0.0
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    white_balance: Annotated[float, Field(ge=0, lt=1)] = 0.0
    gamma: Annotated[float, Field(ge=1, le=4)] = 1.0
    noise: NotNegative = 0.0
    jpeg_quality: tuple[Quality, Quality] | None = None
    stain_gain: tuple[Positive, Positive] | None = None
    stain_shift: NotNegative = 0.0
    blank: Share = 0.0
    mosaic: Share = 0.0
    paste: Share = 0.0

    @model_validator(mode="after")
    def _ensure_rising_ranges(self) -> AugmentConfig:
        for name, span in (
            ("scale", self.scale),
            ("stain_gain", self.stain_gain),
            ("jpeg_quality", self.jpeg_quality),
        ):
            if span is not None and span[0] > span[1]:
                raise ValueError(f"{name} must be (smallest, largest), got {span}")
        return self

    @model_validator(mode="after")
    def _ensure_poses_are_square(self) -> AugmentConfig:
        if self.pose and self.crop_px[0] != self.crop_px[1]:
            raise ValueError(f"pose turns by quarters and needs a square crop_px, got {self.crop_px}")
        return self


class DistillConfig(Section):
    """Other networks to learn from beside the ground truth.

    Parameters
    ----------
    teacher
        A `.safetensors` file or bundled name that knows the data set's classes, by name, among its own; or several,
        whose probabilities are averaged.
    plain
        Show it each crop before colours, light and stains are changed, and before it is compressed: a teacher that
        errs in another light then teaches the network not to.
    logits, temperature
        Weight of the divergence between the softened outputs, and the softening (Hinton et al. 2015, arXiv 1503.02531).
    pairwise, pool
        Weight of the difference in similarity between places of the map at stride 8, averaged over pool x pool
        (Liu et al. 2019, arXiv 1903.04197).
    """

    teacher: str | Annotated[tuple[str, ...], Field(min_length=1)]
    plain: bool = False
    logits: NotNegative = 1.0
    temperature: Positive = 1.0
    pairwise: NotNegative = 0.0
    pool: Count = 2

    @property
    def teachers(self) -> tuple[str, ...]:
        """All of them, be it one."""
        return (self.teacher,) if isinstance(self.teacher, str) else self.teacher


class LossConfig(Section):
    """Weighted sum of what is made small.

    Parameters
    ----------
    cross_entropy, dice
        Weights of the two.
    class_weights
        ``inverse-log`` is 1 / ln(1.10 + p) of each class's share p of the training px (the authors' rule), ``none``
        is 1, or one number per class.
    ohem_threshold, ohem_min_kept
        Px whose true class has at least this probability are left out of the cross-entropy, but never so many that
        fewer than that share of the px of a batch is kept. None keeps all.
    auxiliary
        Weight of the same loss on the encoder's own logits at stride 8; of use with ``espnet`` alone.
    distill
        A teacher, or None.
    """

    cross_entropy: NotNegative = 1.0
    dice: NotNegative = 0.0
    class_weights: Literal["inverse-log", "none"] | tuple[Positive, ...] = "inverse-log"
    ohem_threshold: Annotated[float, Field(gt=0, le=1)] | None = None
    ohem_min_kept: Share = 0.0625
    auxiliary: NotNegative = 0.0
    distill: DistillConfig | None = None

    @model_validator(mode="after")
    def _ensure_some_loss(self) -> LossConfig:
        if self.cross_entropy == self.dice == 0:
            raise ValueError("cross_entropy and dice cannot both be 0")
        return self


class OptimiserConfig(Section):
    """How a gradient becomes a step; gains, biases and leaks are never decayed unless `decay_all`.

    `decay_all` decays everything, as the authors did, which killed channels (see `wsi_espnet.training.revive`).
    """

    name: Literal["adam", "adamw", "sgd"] = "adamw"
    learning_rate: Positive = 1e-3
    weight_decay: NotNegative = 1e-4
    decay_all: bool = False
    betas: tuple[Share, Share] = (0.9, 0.999)
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    nesterov: bool = False
    clip: Positive | None = None


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
    batch: Annotated[int, Field(ge=1)] = 8
    accumulate: Count = 1
    repeats: Count = 1
    seed: Annotated[int, Field(ge=0)] = 0
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    devices: Count = 1
    workers: Annotated[int, Field(ge=0)] = 0
    threads: Count | None = None
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.999
    validate_every: Count = 1
    pictures: Annotated[int, Field(ge=0)] = 4


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
