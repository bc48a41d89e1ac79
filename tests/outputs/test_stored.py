"""What is said of damaged chunks, and when."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import zarr
from zarr.core.sync import sync

from wsi_espnet.errors import OutputError
from wsi_espnet.geometry import Region
from wsi_espnet.outputs.stored import read_labels


def test_a_damaged_chunk_is_said_when_nothing_is_read_any_more(tmp_path: Path) -> None:
    array = zarr.create_array(tmp_path / "labels", shape=(512, 512), chunks=(16, 16), dtype="uint8")
    array[...] = np.random.default_rng(0).integers(0, 3, array.shape, np.uint8)
    chunk = tmp_path / "labels" / "c" / "2" / "3"
    chunk.write_bytes(chunk.read_bytes()[:40])
    with pytest.raises(
        OutputError, match=r"rows 0\.\.512, columns 0\.\.512: a chunk is damaged .*segment the slide again"
    ):
        read_labels(array, Region(0, 0, 512, 512))

    async def reading() -> int:
        return len(asyncio.all_tasks()) - 1

    # A program may end now: what still ran in Zarr's loop would say so on stderr.
    assert sync(reading()) == 0


def test_threads_that_find_damage_together_do_not_wait_for_each_other(tmp_path: Path) -> None:
    array = zarr.create_array(tmp_path / "labels", shape=(256, 256), chunks=(16, 16), dtype="uint8")
    array[...] = 1
    for chunk in (tmp_path / "labels" / "c").glob("*/*"):
        chunk.write_bytes(b"damaged")
    with ThreadPoolExecutor(8) as pool:
        told = [pool.submit(read_labels, array, Region(16 * k, 0, 16, 256)) for k in range(16)]
        assert all(isinstance(each.exception(timeout=30), OutputError) for each in told)
