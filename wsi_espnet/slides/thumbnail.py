"""A small picture of a whole slide."""

from __future__ import annotations

import contextlib
import math

import numpy as np
from numpy.typing import NDArray

from wsi_espnet.errors import SlideReadError
from wsi_espnet.geometry import ReadPlan, Region, plan_read
from wsi_espnet.slides.source import PixelSource
from wsi_espnet.slides.whole import each_block


def coarse_plan(source: PixelSource, plan: ReadPlan, *, longest_px: int) -> ReadPlan:
    """The plan of the same image with at most about `longest_px` px along its longer side; never finer than `plan`."""
    factor = max(plan.shape) / longest_px
    if factor <= 1:
        return plan
    mpp = source.mpp or (1.0, 1.0)  # a source without a scale is read at one um per px
    return plan_read(
        source.levels,
        slide_mpp=mpp,
        bounds_l0=source.bounds_l0,
        mpp=math.sqrt(plan.um2_per_px) * factor,
        allow_upsampling=True,
        origin_um=plan.origin_um,
    )


def thumbnail(source: PixelSource, plan: ReadPlan) -> NDArray[np.uint8]:
    """The whole image of a (coarse) plan: uint8 (h, w, 3); blocks that cannot be read are white."""
    rgb = np.full((*plan.shape, 3), 255, np.uint8)

    def read(block: Region) -> None:
        # The overview marks what could not be segmented; its background need not.
        with contextlib.suppress(SlideReadError):
            rgb[block.slices] = source.read(plan, block)

    each_block(plan, read)
    return rgb
