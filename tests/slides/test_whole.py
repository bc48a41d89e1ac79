"""A coarse plan, read in blocks."""

from __future__ import annotations

import numpy as np
import pytest

from wsi_espnet.errors import SlideReadError
from wsi_espnet.geometry import Level, ReadPlan, Region
from wsi_espnet.slides.whole import BLOCK_PX, each_block


def plan(height: int, width: int) -> ReadPlan:
    level = Level(index=0, shape=(height, width), downsample=1.0)
    return ReadPlan(level, (1.0, 1.0), (height, width), (0.0, 0.0), (1.0, 1.0), (0.0, 0.0))


@pytest.mark.parametrize("shape", [(1, 1), (BLOCK_PX, BLOCK_PX), (3 * BLOCK_PX - 5, 2 * BLOCK_PX + 1)])
def test_blocks_cover_each_px_once(shape: tuple[int, int]) -> None:
    seen = np.zeros(shape, int)

    def read(block: Region) -> None:
        seen[block.slices] += 1

    each_block(plan(*shape), read)
    assert (seen == 1).all()


def test_what_reading_raises_is_raised() -> None:
    def read(block: Region) -> None:
        raise SlideReadError("gone")

    with pytest.raises(SlideReadError, match="gone"):
        each_block(plan(10, 10), read)
