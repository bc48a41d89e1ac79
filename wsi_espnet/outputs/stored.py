"""Px of a result that are read back from its chunks, and what is said where one is damaged."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from zarr.core.sync import sync

from wsi_espnet.errors import OutputError, WsiEspnetError
from wsi_espnet.geometry import Region


class LabelImage(Protocol):
    """Class ids (h, w) uint8 that are read by slices: a Zarr array or a NumPy array."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(h, w)."""
        ...

    def __getitem__(self, key: tuple[slice, slice], /) -> Any: ...


def read_labels(labels: LabelImage, region: Region) -> NDArray[np.uint8]:
    """Class ids of a region: (h, w) uint8.

    Raises
    ------
    OutputError
        A chunk is damaged.
    """
    with chunk_errors(region):
        return np.asarray(labels[region.slices])


@contextlib.contextmanager
def chunk_errors(region: Region) -> Iterator[None]:
    """Turn what reading a region of a result raises into an `OutputError` that names the region.

    Raises
    ------
    OutputError
        A chunk is damaged.
    """
    try:
        yield
    except WsiEspnetError:
        raise
    except (OSError, ValueError, RuntimeError) as exc:  # what stores and codecs raise for damaged bytes
        # Zarr reads chunks side by side and raises for the first, while others go on: a program that ends before they
        # do shows tracebacks of them.
        sync(_others_end())
        raise OutputError(
            f"the mask cannot be read at rows {region.y}..{region.y + region.h}, columns {region.x}.."
            f"{region.x + region.w}: a chunk is damaged ({type(exc).__name__}: {exc}); segment the slide again, "
            "with --overwrite"
        ) from exc


async def _others_end() -> None:
    # Threads that find damage at the same time do not wait for each other.
    own = asyncio.current_task()
    if own is not None:
        own.set_name(_others_end.__name__)
    if others := {task for task in asyncio.all_tasks() if task.get_name() != _others_end.__name__}:
        await asyncio.wait(others)
