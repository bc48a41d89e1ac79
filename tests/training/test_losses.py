"""Losses against numpy, and what ignored px may do to them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from wsi_espnet.errors import UsageError
from wsi_espnet.training.loss_config import LossConfig
from wsi_espnet.training.losses import (
    at_stride_8,
    class_weights,
    cross_entropy,
    dice_loss,
    inverse_log_weights,
    lovasz_loss,
    segmentation_loss,
)

WEIGHTS = torch.tensor([1.0, 2.0, 5.0])


@pytest.fixture
def logits() -> Tensor:
    return 3 * torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def labels() -> Tensor:
    made = torch.randint(0, 3, (2, 8, 8), generator=torch.Generator().manual_seed(1))
    made[0, :3] = 255
    return made


def parts(logits: Tensor, labels: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """(n, 3) probabilities and (n,) truth of the labelled px, computed in numpy."""
    z = logits.double().numpy().transpose(0, 2, 3, 1)[labels.numpy() != 255]
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True), labels.numpy()[labels.numpy() != 255]


def test_class_weights_are_the_rule_of_the_paper_over_all_px() -> None:
    counts = np.array([700, 200, 100, 0])
    wanted = [1 / np.log(1.10 + share) for share in (0.7, 0.2, 0.1, 0.0)]
    np.testing.assert_allclose(inverse_log_weights(counts), wanted, rtol=1e-12)
    np.testing.assert_allclose(class_weights(LossConfig(), counts).numpy(), wanted, rtol=1e-6)


def test_an_absent_first_class_does_not_shift_the_weights_of_the_others() -> None:
    # The original's histogram runs from the least label to the greatest, so it counts class 2 as class 0 here.
    weights = inverse_log_weights(np.bincount([2, 2, 2, 3], minlength=4))
    np.testing.assert_allclose(weights, [1 / np.log(1.10 + share) for share in (0, 0, 0.75, 0.25)])
    original = np.histogram([2, 2, 2, 3], 4)[0]
    assert original.tolist() == [3, 0, 0, 1]


def test_other_weights_are_taken_as_they_are() -> None:
    counts = np.array([3, 1])
    assert class_weights(LossConfig(class_weights="none"), counts).tolist() == [1, 1]
    assert class_weights(LossConfig(class_weights=(0.5, 4.0)), counts).tolist() == [0.5, 4]
    with pytest.raises(UsageError, match="lists 3 numbers, and there are 2 classes"):
        class_weights(LossConfig(class_weights=(1, 2, 3)), counts)


def test_cross_entropy_is_that_of_torch(logits: Tensor, labels: Tensor) -> None:
    wanted = F.cross_entropy(logits, labels, weight=WEIGHTS, ignore_index=255)
    torch.testing.assert_close(cross_entropy(logits, labels, WEIGHTS), wanted)


def test_hard_px_alone_are_kept(logits: Tensor, labels: Tensor) -> None:
    p, truth = parts(logits, labels)
    mine = p[np.arange(len(truth)), truth]
    hard = mine < 0.3
    w = WEIGHTS.numpy()[truth]
    wanted = (-np.log(mine) * w)[hard].sum() / w[hard].sum()
    assert 0 < hard.sum() < len(truth)
    assert cross_entropy(logits, labels, WEIGHTS, threshold=0.3).item() == pytest.approx(wanted, rel=1e-5)


def test_the_hardest_are_kept_where_few_are_hard(logits: Tensor, labels: Tensor) -> None:
    p, truth = parts(logits, labels)
    loss = -np.log(p[np.arange(len(truth)), truth])
    hardest = np.argsort(-loss)[: labels.numel() // 4]
    w = WEIGHTS.numpy()[truth]
    wanted = (loss * w)[hardest].sum() / w[hardest].sum()
    got = cross_entropy(logits, labels, WEIGHTS, threshold=1e-6, min_kept=0.25)
    assert got.item() == pytest.approx(wanted, rel=1e-5)


def test_dice_counts_labelled_px_alone(logits: Tensor, labels: Tensor) -> None:
    p, truth = parts(logits, labels)
    once = np.eye(3)[truth]
    wanted = np.mean(1 - (2 * (p * once).sum(0) + 1) / ((p + once).sum(0) + 1))
    assert dice_loss(logits, labels).item() == pytest.approx(wanted, rel=1e-5)


def iou_over_thresholds(p: np.ndarray, truth: np.ndarray) -> float:
    """1 - IoU of what errs by t or more, averaged over t between the errors of any two px, and over the classes."""
    losses = []
    for class_ in np.unique(truth):
        mine = truth == class_
        errors = np.where(mine, 1 - p[:, class_], p[:, class_])
        edges = np.concatenate([[0.0], np.sort(errors)])
        wrong = errors >= (edges[:-1, None] + edges[1:, None]) / 2  # (thresholds, px)
        iou = (mine & ~wrong).sum(axis=1) / (mine | wrong).sum(axis=1)
        losses.append(((1 - iou) * np.diff(edges)).sum())
    return float(np.mean(losses))


@pytest.mark.parametrize("absent", [None, 0, 2])
def test_lovasz_is_the_mean_of_the_iou_over_thresholds(logits: Tensor, labels: Tensor, absent: int | None) -> None:
    if absent is not None:
        labels[labels == absent] = 1
    p, truth = parts(logits, labels)
    assert lovasz_loss(logits, labels).item() == pytest.approx(iou_over_thresholds(p, truth), abs=1e-3)


def test_lovasz_slopes_as_the_iou_does(logits: Tensor, labels: Tensor) -> None:
    logits.requires_grad_()
    lovasz_loss(logits, labels).backward()
    assert logits.grad is not None
    way = torch.randn(logits.shape, generator=torch.Generator().manual_seed(2)).double()
    ahead, behind = (
        iou_over_thresholds(*parts(logits.detach().double() + step * way, labels)) for step in (1e-5, -1e-5)
    )
    assert (logits.grad * way).sum().item() == pytest.approx((ahead - behind) / 2e-5, rel=0.01)


def test_lovasz_of_sure_predictions_is_one_less_their_iou(logits: Tensor, labels: Tensor) -> None:
    p, truth = parts(logits, labels)
    said = p.argmax(axis=1)
    iou = [((said == c) & (truth == c)).sum() / ((said == c) | (truth == c)).sum() for c in range(3)]
    sure = 50 * F.one_hot(logits.argmax(dim=1), 3).permute(0, 3, 1, 2).float()
    assert lovasz_loss(sure, labels).item() == pytest.approx(1 - np.mean(iou), abs=1e-5)


@pytest.mark.parametrize(
    "config",
    [
        LossConfig(cross_entropy=2, dice=0.5),
        LossConfig(cross_entropy=0, dice=1),
        LossConfig(cross_entropy=0, lovasz=1),
        LossConfig(ohem_threshold=0.7, ohem_min_kept=0.25),
    ],
    ids=["both", "dice", "lovasz", "ohem"],
)
def test_logits_of_ignored_px_change_neither_loss_nor_gradient(
    logits: Tensor, labels: Tensor, config: LossConfig
) -> None:
    other = torch.where((labels == 255)[:, None], 50 * torch.randn_like(logits), logits)
    logits.requires_grad_()
    loss = segmentation_loss(logits, labels, WEIGHTS, config)
    loss.backward()
    torch.testing.assert_close(segmentation_loss(other, labels, WEIGHTS, config), loss.detach())
    assert logits.grad is not None
    assert not logits.grad[(labels == 255)[:, None].expand_as(logits)].any()
    assert logits.grad.any()
    nothing = segmentation_loss(logits, torch.full_like(labels, 255), WEIGHTS, config)
    assert nothing.item() == 0
    nothing.backward()


def test_parts_are_weighted_and_added(logits: Tensor, labels: Tensor) -> None:
    all_ = segmentation_loss(logits, labels, WEIGHTS, LossConfig(cross_entropy=2, dice=0.5, lovasz=0.25))
    wanted = 2 * cross_entropy(logits, labels, WEIGHTS) + 0.5 * dice_loss(logits, labels)
    torch.testing.assert_close(all_, wanted + 0.25 * lovasz_loss(logits, labels))


def test_labels_at_stride_8_are_those_of_the_middles() -> None:
    labels = torch.arange(24 * 16).reshape(1, 24, 16)
    assert at_stride_8(labels).tolist() == [[[(8 * y + 4) * 16 + 8 * x + 4 for x in range(2)] for y in range(3)]]
