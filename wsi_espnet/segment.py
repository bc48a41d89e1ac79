"""Segment one slide: from a file to a tissue-class mask, areas and an overview."""

from __future__ import annotations

import hashlib
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import zarr

from wsi_espnet.atomic import output_errors, write_bytes_atomic
from wsi_espnet.budget import Demand, plan_memory
from wsi_espnet.classes import ClassTable
from wsi_espnet.errors import ResumeError, ScaleError, UsageError
from wsi_espnet.geometry import ReadPlan
from wsi_espnet.grid import Grid, Window, core_of_window
from wsi_espnet.inference import schedule
from wsi_espnet.inference.predictor import Execution
from wsi_espnet.inference.schedule import Failure, Job
from wsi_espnet.inference.torch_backend import TorchPredictor, choose_execution, network_bytes
from wsi_espnet.models.card import ModelCard
from wsi_espnet.models.catalog import find_model, read_card
from wsi_espnet.outputs.areas import Areas, measure_areas, write_areas
from wsi_espnet.outputs.ome_zarr import ResultStore, write_image
from wsi_espnet.outputs.summary import overview_png
from wsi_espnet.resume import KEY, Claim, claim_folder, mark, read_mark
from wsi_espnet.slides.source import PixelSource, open_source
from wsi_espnet.slides.stored_tissue import tissue_digest, write_tissue
from wsi_espnet.slides.thumbnail import coarse_plan, thumbnail
from wsi_espnet.slides.tissue import TissueMask, everything, find_tissue, load_tissue
from wsi_espnet.slides.zarr_source import ZarrSource

KIND = "segment"
FORMAT = 1
"""Counted up when the same inputs give other bytes."""

OVERVIEW_PX = 2048
"""Longer side of the overview that a result carries as its image."""

BLEND_PX = 96
"""Px on each side of a border in which windows are averaged."""

Index = tuple[int, int]
Stitch = Literal["blend", "crop"]


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is.

    Parameters
    ----------
    done, total
        Windows finished and windows to compute in this run.
    done_px, total_px
        Px that the network computed and will compute in this run, halos included.
    """

    done: int
    total: int
    done_px: int
    total_px: int


@dataclass(frozen=True, slots=True)
class SegmentResult:
    """What a run left behind.

    Parameters
    ----------
    path
        The OME-Zarr with the mask.
    overview, areas_csv, areas_json
        Files beside it.
    areas
        What each class covers.
    plan, grid, execution
        How it was computed.
    windows
        Windows that touch tissue.
    computed
        Windows computed in this run; the others were there already.
    work_px
        Px that the network computed in this run, halos included.
    failures
        Windows that could not be read; their tissue is unlabelled (255) in the mask.
    seconds
        Wall time of this run.
    """

    path: Path
    overview: Path
    areas_csv: Path
    areas_json: Path
    areas: Areas
    plan: ReadPlan
    grid: Grid
    execution: Execution
    windows: int
    computed: int
    work_px: int
    failures: tuple[Failure, ...]
    seconds: float


def segment(
    slide: str | Path,
    out: str | Path,
    *,
    model: str | Path = "glas-colon",
    slide_mpp: float | None = None,
    mpp: float | None = None,
    allow_upsampling: bool = False,
    tissue: str | Path = "auto",
    window: int | None = None,
    halo: int | None = None,
    stitch: Stitch = "blend",
    device: str = "auto",
    precision: str = "auto",
    compiled: bool | None = None,
    batch: int = 1,
    workers: int | None = None,
    memory_bytes: int | None = None,
    probabilities: bool = False,
    overwrite: bool = False,
    resume: bool = True,
    scheduler: str | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> SegmentResult:
    """Segment a slide into the classes of a model, in bounded memory; it may be killed and run again.

    Parameters
    ----------
    slide
        A file that OpenSlide reads, or an OME-Zarr image.
    out
        Folder for the result: ``<slide>.ome.zarr``, ``areas.csv``, ``areas.json``, ``overview.png``.
    model
        Bundled name or path of a ``.safetensors`` file.
    slide_mpp
        um per level-0 px; replaces what the file says, needed where it says nothing.
    mpp
        um per px that the network is given; None takes the model's own.
    allow_upsampling
        Whether a slide coarser than that may be enlarged.
    tissue
        ``auto``, ``none`` (all of the slide), or a mask image or GeoJSON file.
    window, halo
        Side of what the network is given, and px of it on each side that are context only; None takes the model's.
    stitch
        ``blend`` averages windows where they meet, ``crop`` takes each core as it is.
    device, precision, compiled, batch
        See `wsi_espnet.inference.torch_backend.choose_execution`.
    workers
        Windows computed at once, each on one thread; None takes as many as there are cores and memory for.
    memory_bytes
        What the run may use; None takes 80 % of what is free.
    probabilities
        Whether they are kept too.
    overwrite
        Replace a result that is there.
    resume
        Go on with a run of the same slide, model and settings that was cut short.
    scheduler
        Address of a running `distributed` scheduler; None computes in this process.
    progress
        Told about every finished window.

    Raises
    ------
    SlideError, ScaleError, TissueError, ModelError, GeometryError, BudgetError, ResumeError, OutputError, UsageError
        See `wsi_espnet.errors`; each message says what to do.
    """
    started = time.monotonic()
    out = Path(out)
    card = read_card(find_model(model))
    with open_source(slide, mpp=slide_mpp) as source:
        plan = source.plan(_wanted_mpp(card, mpp), allow_upsampling=allow_upsampling)
        grid = _grid(plan, card, window=window, halo=halo, stitch=stitch)
        mask = _tissue(tissue, source, plan)
        windows = {w.index: w for w in grid.windows(mask.box)}
        work_px = sum(w.work_px for w in windows.values())
        execution = choose_execution(
            device=device, precision=precision, compiled=compiled, batch=batch, work_px=work_px
        )
        memory = plan_memory(
            _demand(windows.values(), grid, mask, card, execution, probabilities),
            workers=workers,
            budget_bytes=memory_bytes,
        )
        store = ResultStore(
            path=out / f"{slide_name(source.path)}.ome.zarr",
            shape=plan.shape,
            core_px=grid.core_px,
            classes=len(card.classes),
            glass=glass_id(card.classes),
            probabilities=probabilities,
        )
        job = Job(
            token=uuid.uuid4().hex,
            open_source=partial(open_source, source.path.resolve(), mpp=slide_mpp),
            open_predictor=partial(TorchPredictor, find_model(model).resolve(), execution),
            plan=plan,
            tissue=mask,
            sink=store,
            blend_px=grid.blend_px,
            glass=store.glass,
            classes=len(card.classes),
            keep_probabilities=probabilities,
            slots=memory.workers,
        )
        fingerprint = _fingerprint(source, plan, find_model(model), grid, execution, mask, probabilities)
        claim = _claim(store, fingerprint, overwrite=overwrite, resume=resume)
        todo = _open_result(claim, store, source, plan, card, mask, fingerprint, windows)
        failures = _run(job, store, windows, todo, memory.threads, scheduler, batch, progress) if todo else ()
        areas = measure_areas(
            store.open_labels(0),
            mask,
            card.classes,
            plan.um2_per_px,
            block=grid.core_px,
            has_block=store.has_block,
        )
        files = _write_reports(out, store, source, plan, card, mask, areas, failures)
        _close_result(store, fingerprint, failures)
    return SegmentResult(
        path=store.path,
        overview=files[0],
        areas_csv=files[1],
        areas_json=files[2],
        areas=areas,
        plan=plan,
        grid=grid,
        execution=execution,
        windows=len(windows),
        computed=len(todo) - len(failures),
        work_px=sum(windows[index].work_px for index in todo),
        failures=failures,
        seconds=time.monotonic() - started,
    )


def slide_name(path: Path) -> str:
    """What a slide's result is called: its file name without what says that it is a slide or a Zarr."""
    return path.name.removesuffix(".ome.zarr") if path.name.endswith(".ome.zarr") else path.stem


def glass_id(classes: ClassTable) -> int:
    """Id of px outside the tissue: the class that glass belongs to, or the unlabelled id where there is none."""
    return 255 if classes.glass is None else classes.glass


def _wanted_mpp(card: ModelCard, mpp: float | None) -> float:
    wanted = card.mpp if mpp is None else mpp
    if wanted is None:
        raise ScaleError(
            f"the model {card.name!r} was not trained on slides and has no scale of its own; say at which one it is "
            "to run, for example --mpp 0.5"
        )
    return wanted


def _grid(plan: ReadPlan, card: ModelCard, *, window: int | None, halo: int | None, stitch: Stitch) -> Grid:
    if stitch not in ("blend", "crop"):
        raise UsageError(f"--stitch must be blend or crop, got {stitch!r}")
    halo_px = card.halo_px if halo is None else halo
    window_px = card.core_px + 2 * halo_px if window is None else window
    return Grid(
        shape=plan.shape,
        core_px=core_of_window(window_px, halo_px),
        halo_px=halo_px,
        blend_px=min(BLEND_PX, halo_px) if stitch == "blend" else 0,
    )


def _tissue(tissue: str | Path, source: PixelSource, plan: ReadPlan) -> TissueMask:
    if tissue == "none":
        return everything(plan)
    if tissue != "auto":
        return load_tissue(tissue, source, plan)
    stored = source.stored_tissue() if isinstance(source, ZarrSource) else None
    if stored is not None and stored.any():
        return TissueMask(stored, plan.shape, "auto")
    return find_tissue(source, plan)


def _demand(
    windows: Any, grid: Grid, mask: TissueMask, card: ModelCard, execution: Execution, probabilities: bool
) -> Demand:
    largest = max(w.work_px for w in windows)
    classes = len(card.classes)
    on_cpu = execution.device == "cpu"
    return Demand(
        network_bytes=network_bytes(largest, classes=classes, execution=execution) if on_cpu else 0,
        window_bytes=largest * execution.batch * (2 * 3 + 2 * (1 + classes)),
        waiting_bytes=2 * grid.counts[1] * classes * 8 * grid.blend_px * grid.core_px // 4,
        fixed_bytes=mask.nbytes + (grid.core_px**2 * classes * 2 if probabilities else 0),
    )


def _fingerprint(
    source: PixelSource,
    plan: ReadPlan,
    model: Path,
    grid: Grid,
    execution: Execution,
    mask: TissueMask,
    probabilities: bool,
) -> dict[str, Any]:
    """Everything that the bytes of a result depend on, JSON-able."""
    return {
        "format": FORMAT,
        "source": source.identity(),
        "mpp": list(plan.mpp),
        "shape": list(plan.shape),
        "model": hashlib.sha256(model.read_bytes()).hexdigest(),
        "core": grid.core_px,
        "halo": grid.halo_px,
        "blend": grid.blend_px,
        "device": execution.device.partition(":")[0],
        "precision": execution.precision,
        "compiled": execution.compiled,
        "batch": execution.batch,
        "tissue": {"origin": mask.origin, "sha256": tissue_digest(mask.mask)},
        "probabilities": probabilities,
    }


def _claim(store: ResultStore, fingerprint: dict[str, Any], *, overwrite: bool, resume: bool) -> Claim:
    folder = store.path.parent
    with output_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    others = [p for p in folder.glob("*.ome.zarr") if p != store.path and (read_mark(p) or {}).get("kind") == KIND]
    if others:
        raise ResumeError(
            f"{folder} already holds the result of another slide, {others[0].name}; give each slide a folder of its "
            f"own, for example -o {folder / slide_name(store.path)}"
        )
    return claim_folder(store.path, fingerprint, kind=KIND, overwrite=overwrite, resume=resume)


def _open_result(
    claim: Claim,
    store: ResultStore,
    source: PixelSource,
    plan: ReadPlan,
    card: ModelCard,
    mask: TissueMask,
    fingerprint: dict[str, Any],
    windows: dict[Index, Window],
) -> list[Index]:
    """Make the result's arrays, or look what is in them; the cores that are still to be done, in order."""
    if claim == "done":
        return []
    failed = [tuple(f["index"]) for f in (read_mark(store.path) or {}).get("failures", [])]
    coarse = coarse_plan(source, plan, longest_px=OVERVIEW_PX)
    name = slide_name(source.path)
    write_image(
        store.path,
        thumbnail(source, coarse),
        coarse,
        levels=len(store.shapes),
        name=name,
        marks=mark(fingerprint, kind=KIND, state="writing"),
    )
    store.create(plan, card.classes, name=name)
    with output_errors(store.path):
        write_tissue(zarr.open_group(store.path / "labels", mode="r+"), plan, mask.mask, levels=len(store.shapes))
    # A core next to one that failed was finished without its neighbour's word: both are done again.
    for row, column in failed:
        for index in ((r, c) for r in (row - 1, row, row + 1) for c in (column - 1, column, column + 1)):
            if index in windows:
                store.discard(index)
    return [index for index in windows if not store.has(index)]


def _run(
    job: Job,
    store: ResultStore,
    windows: dict[Index, Window],
    todo: Sequence[Index],
    threads: int,
    scheduler: str | None,
    batch: int,
    progress: Callable[[Progress], None] | None,
) -> tuple[Failure, ...]:
    """Compute the cores in `todo`, then mark those that failed."""
    shards = [(-(-h // store.core_px), -(-w // store.core_px)) for h, w in store.shapes]
    graph, cores, top = schedule.build_graph(job, windows, todo, batch=batch, level_shapes=shards)
    total_px = sum(windows[index].work_px for index in todo)
    done = 0

    def on_core() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(Progress(done, len(todo), total_px * done // len(todo), total_px))

    try:
        if scheduler is None:
            schedule.prepare(job)
            results = schedule.run_threads(graph, [*cores, *top], threads=threads, on_core=on_core)
        else:
            results = schedule.run_cluster(graph, [*cores, *top], address=scheduler, on_core=on_core)
    finally:
        schedule.release(job)
    failures = tuple(f for f in results[: len(cores)] if f is not None)
    _mark_failed(job, store, failures)
    return failures


def _mark_failed(job: Job, store: ResultStore, failures: Sequence[Failure]) -> None:
    for failure in failures:
        store.write_failed(failure.index, failure.core, job.tissue.sample(failure.core))
    for level in range(1, len(store.shapes)):
        for row, column in sorted({(f.index[0] >> level, f.index[1] >> level) for f in failures}):
            store.reduce(level, row, column)


def _write_reports(
    out: Path,
    store: ResultStore,
    source: PixelSource,
    plan: ReadPlan,
    card: ModelCard,
    mask: TissueMask,
    areas: Areas,
    failures: Sequence[Failure],
) -> tuple[Path, Path, Path]:
    facts = {
        "slide": source.path.name,
        "model": card.name,
        "mpp": list(plan.mpp),
        "tissue": mask.origin,
        "failed_windows": len(failures),
    }
    csv, json = write_areas(areas, out, facts=facts)
    coarse = coarse_plan(source, plan, longest_px=OVERVIEW_PX)
    overview = out / "overview.png"
    small = np.moveaxis(np.asarray(zarr.open_array(store.path / "0", mode="r")[...]), 0, -1)
    png = overview_png(store, small, coarse, plan, mask, card.classes, areas, title=f"{source.path.name}: {card.name}")
    write_bytes_atomic(overview, png)
    return overview, csv, json


def _close_result(store: ResultStore, fingerprint: dict[str, Any], failures: Sequence[Failure]) -> None:
    """Say in the result that it is complete; with failures it is not, and the next run tries them again."""
    attributes = mark(fingerprint, kind=KIND, state="writing" if failures else "done")
    if failures:
        attributes[KEY]["failures"] = [
            {"index": list(f.index), "core": [f.core.y, f.core.x, f.core.h, f.core.w], "cause": f.cause}
            for f in failures
        ]
    with output_errors(store.path):
        zarr.open_group(store.path, mode="r+", zarr_format=3).update_attributes(attributes)
