"""What the tasks of a slide do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsi_espnet.errors import SlideReadError
from wsi_espnet.geometry import ReadPlan, Region
from wsi_espnet.grid import Span, Window, within
from wsi_espnet.inference.columns import wanted_columns
from wsi_espnet.inference.job import Index, Job, Resources, opened
from wsi_espnet.inference.stitch import Own, Packed, Piece, Strip, blend, split
from wsi_espnet.scores import count_ids
from wsi_espnet.slides.source import PixelSource

RETRIES = 2
"""Further attempts at a window that cannot be read, each with the slide opened anew, before it is given up."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A window that could not be read: its index on the grid, its core in plan px, and why."""

    index: Index
    core: Region
    cause: str


@dataclass(frozen=True, slots=True)
class Written:
    """A core that is written.

    Parameters
    ----------
    counts
        Px of the tissue in each class.
    half
        Labels at half the scale, for the pyramid.
    """

    counts: tuple[int, ...]
    half: Packed


def compute(
    job: Job, windows: tuple[Window, ...], meets: tuple[dict[Index, Window], ...]
) -> list[tuple[Own, dict[Index, Piece]] | Failure]:
    """Read and segment windows of one size; a window that cannot be read becomes a Failure."""
    return predict(job, windows, meets, read(job, windows))


def read(job: Job, windows: tuple[Window, ...]) -> list[NDArray[np.uint8] | Failure]:
    """Px of windows, (h, w, 3) uint8 each; a window that cannot be read becomes a Failure."""
    with opened(job) as resources:
        return [_read(job, resources, window) for window in windows]


def predict(
    job: Job,
    windows: tuple[Window, ...],
    meets: tuple[dict[Index, Window], ...],
    read: list[NDArray[np.uint8] | Failure],
) -> list[tuple[Own, dict[Index, Piece]] | Failure]:
    """Segment windows of one size that have been read; a Failure stays one."""
    with opened(job) as resources:
        if all(isinstance(px, Failure) for px in read):
            return [px for px in read if isinstance(px, Failure)]
        # Failed windows keep their place: a batch of another size might round differently.
        batch = [_blank(w) if isinstance(px, Failure) else px for w, px in zip(windows, read, strict=True)]
        columns = [wanted_columns(window, job.tissue) for window in windows]
        predictor = resources.get_predictor()
        with resources.slots:
            said = predictor.predict(batch[0][None] if len(batch) == 1 else np.stack(batch), columns)
        resources.tidy()
    return [
        px
        if isinstance(px, Failure)
        else split(window, near, labels, probabilities, blend_px=job.blend_px, keep_all=job.keep_probabilities)
        for window, near, px, labels, probabilities in zip(windows, meets, read, *said, strict=True)
    ]


def _blank(window: Window) -> NDArray[np.uint8]:
    return np.zeros((window.read[0].length, window.read[1].length, 3), np.uint8)


def _read(job: Job, resources: Resources, window: Window) -> NDArray[np.uint8] | Failure:
    for attempt in range(1 + RETRIES):
        try:
            return read_window(resources.get_source(), job.plan, window.read)
        except SlideReadError as exc:
            if attempt == RETRIES:
                return Failure(window.index, window.core, str(exc))
    raise AssertionError("unreachable")


def read_window(source: PixelSource, plan: ReadPlan, read: tuple[Span, Span]) -> NDArray[np.uint8]:
    """Px of a window, mirrored where it leaves the image: uint8 (h, w, 3).

    Raises
    ------
    SlideReadError
        A part of it cannot be read.
    """
    region, beyond = within(read, plan.shape)
    px = source.read(plan, region)
    return np.pad(px, (*beyond, (0, 0)), mode="symmetric") if np.any(beyond) else px


def item(results: list[Any], place: int) -> Any:
    """One window's result out of a group's."""
    return results[place]


def own(result: tuple[Own, dict[Index, Piece]] | Failure) -> Own | Failure:
    """What a window keeps for itself."""
    return result if isinstance(result, Failure) else result[0]


def strip(result: tuple[Own, dict[Index, Piece]] | Failure, index: Index) -> Piece | Failure | None:
    """What a window says about its neighbour at `index`; None where it does not reach it."""
    return result if isinstance(result, Failure) else result[1].get(index)


def finish(
    job: Job,
    window: Window,
    others: tuple[Window, ...],
    own: Own | Failure,
    pieces: list[Piece | Failure | None],
) -> Written | Failure:
    """Blend, put glass outside the tissue and no probability of anything, write.

    Failures are noted first, so that a resume knows what lacks them.
    """
    for failure in (own, *pieces):
        if isinstance(failure, Failure):
            job.sink.note_failure(failure.index, failure.core, failure.cause)
    if isinstance(own, Failure):
        return own
    strips = [Strip(other, piece) for other, piece in zip(others, pieces, strict=True) if isinstance(piece, Piece)]
    labels, probabilities = blend(
        window, own, strips, blend_px=job.blend_px, classes=job.classes, keep_all=job.keep_probabilities
    )
    rows, columns = (
        slice(window.box.y - window.core.y, window.box.y - window.core.y + window.box.h),
        slice(window.box.x - window.core.x, window.box.x - window.core.x + window.box.w),
    )
    full = np.full(window.core.shape, job.glass, np.uint8)
    inside = job.tissue.sample(window.box)
    full[rows, columns] = np.where(inside, labels, np.uint8(job.glass))
    kept = None
    if probabilities is not None:
        kept = np.zeros((job.classes, *window.core.shape), np.uint8)
        kept[:, rows, columns] = np.where(inside, probabilities, np.uint8(0))
    half = job.sink.write(window.core, full, kept)
    counted = job.tissue.counted(window.box, labels, glass=job.glass)
    return Written(tuple(count_ids(labels, counted, job.classes)[: job.classes].tolist()), Packed.of(half))


def counts(written: Written | Failure) -> tuple[int, ...] | Failure:
    """What a run remembers of a core: px of the tissue in each class."""
    return written if isinstance(written, Failure) else written.counts


def reduce(
    job: Job,
    level: int,
    row: int,
    column: int,
    places: Sequence[Index],
    below: Sequence[Written | Failure | Packed | None],
) -> Packed | None:
    """Make one shard of the pyramid, once everything below it is there; its own half, for the next."""
    halves = [part.half if isinstance(part, Written) else part for part in below]
    known = {place: half.array() for place, half in zip(places, halves, strict=True) if isinstance(half, Packed)}
    half = job.sink.reduce(level, row, column, known)
    return None if half is None else Packed.of(half)
