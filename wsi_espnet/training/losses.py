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

LEVELS = 2048
"""Steps from 0 to 1 in which `lovasz_loss` tells apart how far px err."""


def segmentation_loss(logits: Tensor, labels: Tensor, weights: Tensor, config: LossConfig) -> Tensor:
    """The weighted sum of cross-entropy, Dice and Lovasz loss that `config` asks for; 0 where nothing is labelled.

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
    if config.lovasz:
        loss = loss + config.lovasz * lovasz_loss(logits, labels)
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


def lovasz_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """1 - IoU as a surface that slopes everywhere, averaged over the classes that `labels` hold (Lovasz-Softmax).

    A px errs by e = 1 - p where it is of the class and by e = p where it is not. Those that err by t or more, taken
    for wrong, make an IoU; the mean of 1 - IoU over all t in 0..1 is its Lovasz extension (Berman et al. 2018, arXiv
    1705.08790, section 2): the sum of each px's e times what the px adds to 1 - IoU when it joins those that err more.
    With n px of the class, m of them missed and f others false, that is 1 / (n + f) for a px of the class, and
    (n - m) / ((n + f) (n + g)) for each of g - f others. Nothing needs sorting for these counts: a histogram of e
    tells them, to 1 / `LEVELS`.
    """
    ignored = labels == UNLABELLED
    losses = []
    for class_, probability in enumerate(F.softmax(logits, dim=1, dtype=torch.float32).unbind(dim=1)):
        truth = labels == class_
        if not truth.any():
            continue
        with torch.no_grad():
            errors = torch.where(truth, 1 - probability, probability)
            bins = (errors * LEVELS).int().clamp_(max=LEVELS - 1).add_(truth, alpha=LEVELS)
            bins[ignored] = 2 * LEVELS
            counts = torch.bincount(bins.flatten(), minlength=2 * LEVELS + 1)[:-1].view(2, LEVELS)
            false, missed = counts.flip(1).cumsum(1).flip(1)  # that err as much, or more
            n, fewer = missed[0], false - counts[0]  # of those that tie, px of the class come first
            others = (n - missed) / ((n + fewer) * (n + false))
            slopes = torch.cat([others, -1 / (n + fewer), n.new_zeros(1)])[bins]  # of p; that of e is positive
        losses.append((probability * slopes).sum() - slopes[truth].sum())
    return torch.stack(losses).mean() if losses else logits.sum() * 0.0


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
