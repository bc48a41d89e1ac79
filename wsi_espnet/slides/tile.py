"""A slide as an OME-Zarr on disk: at one mpp, with its pyramid, only the tissue if asked.

The unit of work is a shard, a file that is written whole or not at all. So a run may be killed at any
moment: the next one writes the shards that are missing, and ends with the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import zarr
from numpy.typing import NDArray

from wsi_espnet import ngff
from wsi_espnet.atomic import output_errors
from wsi_espnet.errors import TissueError, UsageError
from wsi_espnet.geometry import ReadPlan, Region
from wsi_espnet.resume import alone, claim_folder, ensure_apart, mark
from wsi_espnet.slides.source import PixelSource
from wsi_espnet.slides.stored_tissue import TISSUE_LABEL, tissue_digest, write_tissue
from wsi_espnet.slides.tile_level import CHUNK_PX, SHARD_PX, ZSTD_LEVEL, TileLevel

TASK_BYTES = 128 << 20
"""Most memory that one worker needs: a shard is held five times (13 MB each), and shrinking takes 60 MB."""

Progress = Callable[[int, int], None]
"""Called with (shards done, shards in all)."""


class TissueLike(Protocol):
    """Where a slide has tissue: cells that cover the plan's image evenly."""

    @property
    def cells(self) -> NDArray[np.uint8] | NDArray[np.bool_]:
        """(h, w), as those of a `TissueMask`."""
        ...

    def touches(self, region: Region) -> bool:
        """Whether a region in plan px meets a cell with tissue."""
        ...


def tile(
    source: PixelSource,
    out: Path,
    *,
    mpp: float | None,
    allow_upsampling: bool = False,
    tissue: TissueLike | None = None,
    whole: bool = False,
    overwrite: bool = False,
    resume: bool = True,
    workers: int = 1,
    progress: Progress | None = None,
) -> Path:
    """Write a slide as an OME-Zarr image (NGFF 0.5), in bounded memory; it may be interrupted and run again.

    Parameters
    ----------
    source
        The slide; `workers` threads read it at once.
    out
        The folder to write.
    mpp
        um per px of the largest level; None keeps the slide's level 0.
    allow_upsampling
        Whether a slide coarser than `mpp` may be enlarged.
    tissue
        Kept with the image as the label image ``tissue``. Chunks of the largest level that it does not touch are not
        stored, and read as white.
    whole
        Store chunks without tissue all the same.
    overwrite
        Replace a Zarr group that is there.
    resume
        Go on with a run of the same source and settings that was cut short.
    workers
        Threads, each of which needs up to `TASK_BYTES`, beside the slide's own cache.
    progress
        Told about every shard.

    Returns
    -------
    pathlib.Path
        `out`.

    Raises
    ------
    ScaleError
        The slide has no scale, or is coarser than `mpp`.
    ResumeError
        Something else lies at `out`, or another process is writing there.
    SlideReadError
        A part of the slide is damaged; what is written stays, and a later run goes on from there.
    OutputError
        The disk is full or read-only.
    """
    if workers < 1:
        raise UsageError(f"workers must be at least 1, got {workers}")
    ensure_apart(source.path, out)
    plan = source.plan(mpp, allow_upsampling=allow_upsampling)
    if tissue is not None and tissue.cells.ndim != 2:
        raise TissueError(f"a tissue mask has two axes, got the shape {tissue.cells.shape}")
    fingerprint = _fingerprint(source, plan, tissue, whole=whole)
    with output_errors(out), alone(out):
        claim = claim_folder(out, fingerprint, kind="tile", overwrite=overwrite, resume=resume)
        if claim == "done":
            return out
        shapes = ngff.pyramid_shapes(plan.shape)
        group = _open_group(source, out, plan, shapes, fingerprint, new=claim == "new")
        if tissue is not None:
            labels = group.require_group("labels")
            labels.update_attributes(ngff.labels_group_attributes([TISSUE_LABEL]))
            write_tissue(labels, plan, tissue.cells, levels=len(shapes), in_um=source.mpp is not None)
        levels = [TileLevel.open(group, out, index, shape) for index, shape in enumerate(shapes)]
        _write_levels(
            levels, partial(_write_base, source, plan, None if whole else tissue, levels[0]), workers, progress
        )
        group.update_attributes(mark(fingerprint, kind="tile", state="done"))
    return out


def _fingerprint(source: PixelSource, plan: ReadPlan, tissue: TissueLike | None, *, whole: bool) -> dict[str, Any]:
    """Everything that the bytes depend on."""
    return {
        "format": 1,  # counted up when the same inputs give other bytes
        "source": source.identity(),
        "mpp": list(plan.mpp),
        "shape": list(plan.shape),
        "tissue": None if tissue is None else tissue_digest(tissue.cells),
        "whole": whole or tissue is None,
        "layout": {"chunk": CHUNK_PX, "shard": SHARD_PX, "zstd": ZSTD_LEVEL},
    }


def _open_group(
    source: PixelSource,
    out: Path,
    plan: ReadPlan,
    shapes: list[tuple[int, int]],
    fingerprint: dict[str, Any],
    *,
    new: bool,
) -> zarr.Group:
    if not new:
        return zarr.open_group(out, mode="r+", zarr_format=3)
    multiscale = ngff.multiscales(
        name=source.path.stem,
        axes="cyx",
        levels=[ngff.placement(plan, 2**index) for index in range(len(shapes))],
        method="mean",
        in_um=source.mpp is not None,
    )
    attributes = ngff.image_attributes(multiscale) | mark(fingerprint, kind="tile", state="writing")
    return zarr.create_group(out, zarr_format=3, attributes=attributes)


def _write_levels(
    levels: list[TileLevel], write_base: Callable[[Region], None], workers: int, progress: Progress | None
) -> None:
    """Level after level, each from the one before, its shards side by side."""
    total = sum(len(level.shards) for level in levels)
    done = 0
    pool = ThreadPoolExecutor(workers)
    try:
        for index, level in enumerate(levels):
            write = write_base if index == 0 else partial(level.write_halved, levels[index - 1])
            for future in as_completed([pool.submit(write, shard) for shard in level.shards]):
                future.result()
                done += 1
                if progress is not None:
                    progress(done, total)
    finally:
        pool.shutdown(cancel_futures=True)


def _write_base(
    source: PixelSource, plan: ReadPlan, tissue: TissueLike | None, level: TileLevel, shard: Region
) -> None:
    """Write a shard of the largest level, unless it is there or has no tissue."""
    if level.has(shard):
        return
    chunks = [chunk for chunk in shard.squares(CHUNK_PX) if tissue is None or tissue.touches(chunk)]
    if not chunks:
        return
    px = np.full((3, *shard.shape), 255, np.uint8)
    for region in _joined(chunks):
        y, x = region.y - shard.y, region.x - shard.x
        px[:, y : y + region.h, x : x + region.w] = np.moveaxis(source.read(plan, region), -1, 0)
    level.write(shard, px)


def _joined(chunks: list[Region]) -> Iterator[Region]:
    """Chunks side by side in a row, or a whole rectangle of them, as one region: fewer and larger reads."""
    y, x = min(c.y for c in chunks), min(c.x for c in chunks)
    box = Region(y, x, max(c.y + c.h for c in chunks) - y, max(c.x + c.w for c in chunks) - x)
    if sum(chunk.area for chunk in chunks) == box.area:
        yield box
        return
    run = chunks[0]
    for chunk in chunks[1:]:
        if chunk.y == run.y and chunk.x == run.x + run.w:
            run = Region(run.y, run.x, run.h, run.w + chunk.w)
        else:
            yield run
            run = chunk
    yield run
