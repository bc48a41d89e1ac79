"""What training makes small: cross-entropy, its hard part, overlap; px of the id 255 count in none of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from wsi_espnet.classes import UNLABELLED
from wsi_espnet.errors import UsageError
from wsi_espnet.training.loss_config import LossConfig

STRIDE = 8
"""Px per px of the encoder's logits."""


def segmentation_loss(logits: Tensor, labels: Tensor, weights: Tensor, config: LossConfig) -> Tensor:
    """The weighted sum of cross-entropy and Dice loss that `config` asks for; 0 where nothing is labelled.

    Parameters
    ----------
    logits
        (B, C, H, W).
    labels
        (B, H, W) int64, 0..C-1 or 255.
    weights
        (C,) one per class.
    """
    loss = logits.new_zeros((), dtype=torch.float32)
    if config.cross_entropy:
        loss = loss + config.cross_entropy * cross_entropy(
            logits, labels, weights, threshold=config.ohem_threshold, min_kept=config.ohem_min_kept
        )
    if config.dice:
        loss = loss + config.dice * dice_loss(logits, labels)
    return loss


def cross_entropy(
    logits: Tensor, labels: Tensor, weights: Tensor, *, threshold: float | None = None, min_kept: float = 0.0
) -> Tensor:
    """Weighted mean of -ln p(true class) over the labelled px, or over the hard ones among them.

    With a threshold, px whose true class has at least that probability are left out; where fewer than the share
    `min_kept` of all px would remain, that many of the largest losses are taken (online hard example mining,
    Shrivastava et al. 2016, arXiv 1604.03540).
    """
    losses = F.cross_entropy(logits, labels, ignore_index=UNLABELLED, reduction="none")  # (B, H, W)
    kept = labels != UNLABELLED
    if threshold is not None:
        kept = _hard(losses.detach(), kept, threshold=threshold, least=int(min_kept * labels.numel()))
    share = weights[labels.clamp(max=len(weights) - 1)] * kept
    mean: Tensor = (losses * share).sum() / share.sum().clamp(min=torch.finfo(share.dtype).tiny)
    return mean


def _hard(losses: Tensor, labelled: Tensor, *, threshold: float, least: int) -> Tensor:
    """(B, H, W) bool: px with p(true) < threshold, or the `least` with the largest loss where that is more."""
    least = min(least, int(labelled.sum()))
    hard: Tensor = labelled & (losses > -np.log(threshold))
    if least == 0 or int(hard.sum()) >= least:
        return hard
    candidates = losses.masked_fill(~labelled, -1.0).flatten()
    chosen = torch.zeros_like(candidates, dtype=torch.bool)
    chosen[candidates.topk(least).indices] = True
    hardest: Tensor = chosen.view_as(labelled)
    return hardest


def dice_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """1 - soft Dice, averaged over the classes; one px is added to both sides, so that absent classes do little."""
    labelled = labels != UNLABELLED
    probabilities = F.softmax(logits, dim=1, dtype=torch.float32)
    losses = []
    for class_, probability in enumerate(probabilities.unbind(dim=1)):  # one by one: all masks at once are large
        truth = labels == class_
        shared, total = (probability * truth).sum(), (probability * labelled).sum() + truth.sum()
        losses.append(1 - (2 * shared + 1) / (total + 1))
    return torch.stack(losses).mean() * labelled.any()


def at_stride_8(labels: Tensor) -> Tensor:
    """(B, H, W) -> (B, H/8, W/8): the label at the middle of each 8 x 8 px, which is no mixture of classes."""
    return labels[:, STRIDE // 2 :: STRIDE, STRIDE // 2 :: STRIDE]


def class_weights(config: LossConfig, counts: NDArray[np.int64]) -> Tensor:
    """(C,) float32: what `config.class_weights` asks for, from the px of each class in the training split.

    Raises
    ------
    UsageError
        The configuration lists another number of weights than there are classes.
    """
    if config.class_weights == "inverse-log":
        return torch.from_numpy(inverse_log_weights(counts)).float()
    if config.class_weights == "none":
        return torch.ones(len(counts))
    if len(config.class_weights) != len(counts):
        raise UsageError(
            f"loss.class_weights lists {len(config.class_weights)} numbers, and there are {len(counts)} classes; "
            "give one for each, or inverse-log"
        )
    return torch.tensor(config.class_weights)


def inverse_log_weights(counts: Sequence[int] | NDArray[np.int64]) -> NDArray[np.float64]:
    """1 / ln(1.10 + p) of each class's share p of the labelled px: from 10.49 for the rarest to 1.35 for the only one.

    The rule of ESPNet's training code (`loadData.py`), which counts with `np.histogram(labels, C)` per picture: its
    bins run from the least to the greatest label of that picture, so classes are mixed up wherever one end is absent.
    Here the px of all pictures are counted per id, and ignored ones are not.

    Examples
    --------
    >>> inverse_log_weights([75, 25, 0]).round(2).tolist()
    [1.63, 3.33, 10.49]
    """
    counts = np.asarray(counts, dtype=np.float64)
    weights: NDArray[np.float64] = 1 / np.log(1.10 + counts / counts.sum())
    return weights
