"""The overview picture of a result, from what is on disk."""

from __future__ import annotations

import io
import math

import numpy as np
from numpy.typing import NDArray

from wsi_espnet.classes import ClassTable
from wsi_espnet.geometry import ReadPlan, Region
from wsi_espnet.outputs.areas import Areas
from wsi_espnet.outputs.ome_zarr import ResultStore
from wsi_espnet.outputs.overview import draw_overview
from wsi_espnet.outputs.stored import read_labels
from wsi_espnet.slides.tissue_mask import GLASS, TissueMask

COMPRESS_LEVEL = 2
"""Of the PNG: a third of the time of Pillow's 6, which is half of what a tiny slide takes, for a tenth more bytes."""


def overview_png(
    store: ResultStore,
    thumbnail: NDArray[np.uint8],
    coarse: ReadPlan,
    plan: ReadPlan,
    tissue: TissueMask,
    classes: ClassTable,
    areas: Areas,
    *,
    title: str,
) -> bytes:
    """PNG of slide and classes side by side; `thumbnail` (h, w, 3) is the image of the plan `coarse`."""
    rows, columns = (_nearest(coarse, plan, axis) for axis in (0, 1))
    level = _level(store, coarse, plan)
    small = read_labels(store.open_labels(level), Region(0, 0, *store.shapes[level]))
    labels = small[np.ix_(_clipped(rows >> level, small.shape[0]), _clipped(columns >> level, small.shape[1]))]
    inside = _sample(tissue, rows, columns)
    image = draw_overview(
        thumbnail,
        labels,
        inside,
        classes,
        title=title,
        um_per_px=math.sqrt(coarse.um2_per_px),
        areas=areas,
    )
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=COMPRESS_LEVEL)
    return buffer.getvalue()


def _nearest(coarse: ReadPlan, plan: ReadPlan, axis: int) -> NDArray[np.int64]:
    """The plan px under the centre of each px of the coarse plan, along one axis."""
    centres_l0 = coarse.origin_l0[axis] + (np.arange(coarse.shape[axis]) + 0.5) * coarse.l0_per_px[axis]
    px = np.floor((centres_l0 - plan.origin_l0[axis]) / plan.l0_per_px[axis]).astype(np.int64)
    return _clipped(px, plan.shape[axis])


def _level(store: ResultStore, coarse: ReadPlan, plan: ReadPlan) -> int:
    """The coarsest level of the labels that is not coarser than the thumbnail."""
    factor = min(c / p for c, p in zip(coarse.l0_per_px, plan.l0_per_px, strict=True))
    return max(0, min(len(store.shapes) - 1, math.floor(math.log2(factor) + 1e-6)))


def _sample(tissue: TissueMask, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> NDArray[np.bool_]:
    cells = tissue.cells.shape
    at = (
        np.minimum(px * n // extent, n - 1) for px, n, extent in zip((rows, columns), cells, tissue.shape, strict=True)
    )
    inside: NDArray[np.bool_] = tissue.cells[np.ix_(*at)] != GLASS
    return inside


def _clipped(index: NDArray[np.int64], extent: int) -> NDArray[np.int64]:
    return np.clip(index, 0, extent - 1)
