"""Learning from other networks: their outputs, and which places they take to be alike."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from wsi_espnet.classes import UNLABELLED
from wsi_espnet.models.card import Normalisation


def agreed(teachers: Sequence[Tensor], size: Sequence[int], *, temperature: float) -> Tensor:
    """The mean of what several teachers say: logits (B, C, *size) with the mean of their softened probabilities.

    Parameters
    ----------
    teachers
        Logits (B, C, h, w), each of a size of its own.
    temperature
        At which they are softened, here and by whoever takes these logits.
    """
    enlarged = [F.interpolate(t.float(), tuple(size), mode="bilinear", align_corners=False) for t in teachers]
    softened = [F.log_softmax(logits / temperature, dim=1) for logits in enlarged]
    return temperature * (torch.logsumexp(torch.stack(softened), dim=0) - math.log(len(softened)))


def logits_loss(student: Tensor, teacher: Tensor, labels: Tensor, *, temperature: float) -> Tensor:
    """Mean over the labelled px of T^2 KL(teacher || student), both softened by T (Hinton et al. 2015).

    Parameters
    ----------
    student, teacher
        Logits (B, C, h, w).
    labels
        (B, h, w); px of the id 255 are left out, because padding says nothing.
    """
    wanted = F.log_softmax(teacher.float() / temperature, dim=1)
    got = F.log_softmax(student.float() / temperature, dim=1)
    divergence = F.kl_div(got, wanted, reduction="none", log_target=True).sum(dim=1)  # (B, h, w)
    labelled = labels != UNLABELLED
    return temperature**2 * (divergence * labelled).sum() / labelled.sum().clamp(min=1)


def pairwise_loss(student: Tensor, teacher: Tensor, *, pool: int) -> Tensor:
    """Mean squared difference of the cosine similarities between all pairs of places (Liu et al. 2019, equation 2).

    Parameters
    ----------
    student, teacher
        Maps (B, C, h, w) of the same h and w; the numbers of channels may differ.
    pool
        Places are means over pool x pool px of the map, because pairs grow with the fourth power of its side.
    """
    return F.mse_loss(_similarities(student, pool), _similarities(teacher, pool))


def _similarities(features: Tensor, pool: int) -> Tensor:
    """(B, C, h, w) -> (B, n, n), n = ceil(h / pool) * ceil(w / pool)."""
    pooled = F.avg_pool2d(features.float(), pool, ceil_mode=True)
    unit = F.normalize(pooled.flatten(2), dim=1)  # (B, C, n)
    return torch.matmul(unit.transpose(1, 2), unit)


def renormalise(pixels: Tensor, given: Normalisation, wanted: Normalisation) -> Tensor:
    """(B, 3, H, W) as `wanted` would have made it from the 8-bit image that `given` made it from."""
    if given == wanted:
        return pixels
    values = pixels * _channels(given.std, pixels) * given.divide + _channels(given.mean, pixels)
    if given.order != wanted.order:
        values = values.flip(1)
    return (values - _channels(wanted.mean, pixels)) / (_channels(wanted.std, pixels) * wanted.divide)


def _channels(values: tuple[float, float, float], like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=like.dtype, device=like.device).view(1, 3, 1, 1)
