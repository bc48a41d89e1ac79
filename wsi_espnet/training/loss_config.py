"""What is made small in training, as frozen values."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from wsi_espnet.settings import Count, NotNegative, Positive, Section, Share


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
    cross_entropy, dice, lovasz
        Weights of the three: the first counts px, the others overlap of classes, whatever their size.
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
    lovasz: NotNegative = 0.0
    class_weights: Literal["inverse-log", "none"] | tuple[Positive, ...] = "inverse-log"
    ohem_threshold: Annotated[float, Field(gt=0, le=1)] | None = None
    ohem_min_kept: Share = 0.0625
    auxiliary: NotNegative = 0.0
    distill: DistillConfig | None = None

    @model_validator(mode="after")
    def _ensure_some_loss(self) -> LossConfig:
        if self.cross_entropy == self.dice == self.lovasz == 0:
            raise ValueError("cross_entropy, dice and lovasz cannot all be 0")
        return self
