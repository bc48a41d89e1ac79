"""Scores of a network on whole GlaS images, from one confusion matrix."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from wsi_espnet.data.glas import GlasImage
from wsi_espnet.models.card import Normalisation
from wsi_espnet.models.catalog import class_table

CLASSES = 3


MOSAIC_PX = (512, 768)
"""(height, width) of each image's part of a mosaic; GlaS images are mostly 522 x 775 px."""


def score(module: nn.Module, images: Sequence[GlasImage], normalisation: Normalisation) -> dict[str, float]:
    """IoU per class, mean, and gland against background, from one confusion matrix of whole images."""
    module.eval()
    confusion = np.zeros((CLASSES, CLASSES), np.int64)
    for image in images:
        labels = predict(module, image.rgb, normalisation)
        pairs = image.labels.astype(np.int64) * CLASSES + labels
        confusion += np.bincount(pairs.ravel(), minlength=CLASSES**2).reshape(CLASSES, CLASSES)
    return iou_scores(confusion)


def mosaics_of(images: Sequence[GlasImage]) -> list[GlasImage]:
    """Images put together two by two by two, each cut to 512 x 768 px: tissue among tissue of others, as on a slide.

    Neighbours are taken from across the list, so that patients and grades meet; images that are too small are left
    out, and so are up to three that remain.
    """
    large = [
        image for image in images if image.labels.shape[0] >= MOSAIC_PX[0] and image.labels.shape[1] >= MOSAIC_PX[1]
    ]
    step = len(large) // 4
    return [_side_by_side([large[k + i * step] for i in range(4)]) for k in range(step)]


def _side_by_side(images: Sequence[GlasImage]) -> GlasImage:
    h, w = MOSAIC_PX
    rgb = [image.rgb[:h, :w] for image in images]
    labels = [image.labels[:h, :w] for image in images]
    return GlasImage(
        name="+".join(image.name for image in images),
        patient="",
        grade="",
        rgb=np.vstack([np.hstack(rgb[:2]), np.hstack(rgb[2:])]),
        labels=np.vstack([np.hstack(labels[:2]), np.hstack(labels[2:])]),
    )


def predict(module: nn.Module, rgb: npt.NDArray[np.uint8], normalisation: Normalisation) -> npt.NDArray[np.int64]:
    """(h, w) class of each px of a whole (h, w, 3) image, by the largest logit."""
    with torch.inference_mode():
        logits = module(torch.from_numpy(normalisation.apply(rgb))[None])
    return logits[0].argmax(dim=0).numpy()  # type: ignore[no-any-return]


def iou_scores(confusion: npt.NDArray[np.int64]) -> dict[str, float]:
    """Scores 0..1 from a (truth, prediction) matrix of px counts; a class that is nowhere counts as 1.

    Examples
    --------
    >>> iou_scores(np.array([[8, 0, 0], [2, 3, 1], [0, 1, 5]]))["gland"]
    0.8333333333333334
    """
    names = class_table("glas-grade").names
    either = confusion.sum(axis=0) + confusion.sum(axis=1) - confusion.diagonal()
    per_class = np.where(either > 0, confusion.diagonal() / np.maximum(either, 1), 1.0)
    gland = confusion[1:, 1:].sum()
    scores = {f"IoU {name}": float(v) for name, v in zip(names, per_class, strict=True)}
    scores["mIoU"] = float(per_class.mean())
    scores["gland"] = float(gland / max(1, confusion.sum() - confusion[0, 0]))
    return scores
