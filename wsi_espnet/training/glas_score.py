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
from wsi_espnet.scores import Counts, confusion, iou, merge

CLASSES = 3


MOSAIC_PX = (512, 768)
"""(height, width) of each image's part of a mosaic; GlaS images are mostly 522 x 775 px."""


def score(module: nn.Module, images: Sequence[GlasImage], normalisation: Normalisation) -> dict[str, float]:
    """IoU per class, mean, and gland against background, from one confusion matrix of whole images."""
    module.eval()
    counts = np.zeros((CLASSES + 1, CLASSES + 1), np.int64)
    for image in images:
        counts += confusion(image.labels, predict(module, image.rgb, normalisation), CLASSES)
    return iou_scores(counts)


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


def iou_scores(counts: Counts) -> dict[str, float]:
    """Scores 0..1 from `wsi_espnet.scores.confusion`; a class that is nowhere counts as 1.

    Examples
    --------
    >>> iou_scores(np.array([[8, 0, 0, 0], [2, 3, 1, 0], [0, 1, 5, 0], [0, 0, 0, 0]]))["gland"]
    0.8333333333333334
    """
    per_class = np.nan_to_num(iou(counts), nan=1.0)
    scores = {f"IoU {name}": float(v) for name, v in zip(class_table("glas-grade").names, per_class, strict=True)}
    scores["mIoU"] = float(per_class.mean())
    scores["gland"] = float(np.nan_to_num(iou(merge(counts, [0, 1, 1]))[1]))
    return scores
