"""Segment one slide: from a file to a tissue-class mask, areas and an overview."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from wsi_espnet.budget import set_up_malloc
from wsi_espnet.geometry import ReadPlan
from wsi_espnet.grid import Grid
from wsi_espnet.inference import schedule
from wsi_espnet.inference.backends import open_predictor
from wsi_espnet.inference.job import Job
from wsi_espnet.inference.predictor import Execution
from wsi_espnet.inference.tasks import Failure
from wsi_espnet.outputs.areas import Areas
from wsi_espnet.outputs.ome_zarr import ResultStore
from wsi_espnet.outputs.result import FailedCore, ResultFolder, slide_name
from wsi_espnet.segment_setup import Index, Setup, Stitch, decide
from wsi_espnet.slides.source import PixelSource, open_source

SCALE_TOLERANCE = 1.4
"""How many times coarser or finer than its model a run may be before it is warned about; scale jitter in training
commonly ends there (`pipelines/glas.toml`)."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is.

    Parameters
    ----------
    done, total
        Windows finished and windows to compute in this run.
    done_px, total_px
        Px that the network computed for them and will compute in this run, halos included.
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
        Px of the windows computed in this run, halos included; some of them may be left out, far from tissue.
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
    failures: tuple[FailedCore, ...]
    seconds: float


def segment(
    slide: str | Path,
    out: str | Path,
    *,
    model: str | Path = "glas-colon",
    backend: str | None = None,
    slide_mpp: float | None = None,
    mpp: float | None = None,
    allow_upsampling: bool = False,
    tissue: str | Path = "auto",
    window: int | None = None,
    halo: int | None = None,
    stitch: Stitch = "blend",
    device: str = "auto",
    precision: str = "auto",
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
        Bundled name, or path of a ``.safetensors`` or exported ``.onnx`` file.
    backend
        ``torch``, ``onnx`` or ``openvino``; None takes what the file is for. See `wsi_espnet.inference.backends`.
    slide_mpp
        um per level-0 px; replaces what the file says, needed where it says nothing.
    mpp
        um per px that the network is given; None takes the model's own.
    allow_upsampling
        Whether a slide coarser than that may be enlarged.
    tissue
        ``auto``, ``none`` (all of the slide), or a mask image or GeoJSON file.
    window, halo
        Side of what the network is given, and px of it on each side that are context only, both multiples of 8;
        None takes the model's.
    stitch
        ``blend`` averages windows where they meet, ``crop`` takes each core as it is.
    device, precision, batch
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
        Told when the windows begin and about every finished one. What it raises ends the run; what is finished is
        kept, and the next run goes on from there.

    Raises
    ------
    SlideError, ScaleError, TissueError, ModelError, GeometryError, BudgetError, ResumeError, OutputError, ClusterError,
    UsageError
        See `wsi_espnet.errors`; each message says what to do.
    """
    started = time.monotonic()
    set_up_malloc()
    with open_source(slide, mpp=slide_mpp) as source:
        setup = decide(
            source,
            model=model,
            backend=backend,
            mpp=mpp,
            allow_upsampling=allow_upsampling,
            tissue=tissue,
            window=window,
            halo=halo,
            stitch=stitch,
            device=device,
            precision=precision,
            batch=batch,
            workers=workers,
            memory_bytes=memory_bytes,
            probabilities=probabilities,
        )
        result = result_folder(source, Path(out), setup)
        # Connected before anything that is there is touched.
        with schedule.connect(scheduler) as client, result.alone():
            todo = result.open(setup.windows, overwrite=overwrite, resume=resume)
            _say(source, setup, todo)
            job = make_job(source, setup, result.store, slide_mpp=slide_mpp)
            outcomes = _compute(job, setup, result.store, todo, client, progress) if todo else []
            failures, counts = told_apart(todo, outcomes)
            result.complete(failures)
            reports = result.report(failures, counts)
            result.close(failures)
    return SegmentResult(
        path=result.store.path,
        overview=reports.overview,
        areas_csv=reports.areas_csv,
        areas_json=reports.areas_json,
        areas=reports.areas,
        plan=setup.plan,
        grid=setup.grid,
        execution=setup.execution,
        windows=len(setup.windows),
        computed=len(todo) - len(failures),
        work_px=sum(setup.windows[index].work_px for index in todo),
        failures=failures,
        seconds=time.monotonic() - started,
    )


def result_folder(source: PixelSource, out: Path, setup: Setup) -> ResultFolder:
    """The result of a run in the folder `out`; nothing is touched yet."""
    store = ResultStore(
        path=out / f"{slide_name(source.path)}.ome.zarr",
        shape=setup.plan.shape,
        core_px=setup.grid.core_px,
        classes=len(setup.card.classes),
        glass=setup.glass,
        probabilities=setup.probabilities,
    )
    return ResultFolder(
        store=store,
        source=source,
        plan=setup.plan,
        tissue=setup.tissue,
        classes=setup.card.classes,
        model=setup.card.name,
        fingerprint=setup.fingerprint(source),
    )


def make_job(source: PixelSource, setup: Setup, store: ResultStore, *, slide_mpp: float | None) -> Job:
    """What the tasks of a run are told, under a name that no other run has."""
    return Job(
        token=uuid.uuid4().hex,
        open_source=partial(open_source, source.path.resolve(), mpp=slide_mpp),
        open_predictor=partial(open_predictor, setup.model.resolve(), setup.execution),
        plan=setup.plan,
        tissue=setup.tissue,
        sink=store,
        blend_px=setup.grid.blend_px,
        glass=setup.glass,
        classes=len(setup.card.classes),
        keep_probabilities=setup.probabilities,
        slots=setup.memory.workers,
    )


def _compute(
    job: Job,
    setup: Setup,
    store: ResultStore,
    todo: Sequence[Index],
    client: schedule.Client | None,
    progress: Callable[[Progress], None] | None,
) -> list[schedule.Outcome]:
    """Finish the cores in `todo`; what came of each."""
    graph = schedule.build_graph(job, setup.windows, todo, batch=setup.execution.batch, level_shapes=store.shard_counts)
    done_px = 0
    total_px = sum(setup.windows[index].work_px for index in todo)

    def on_core(index: Index, done: int) -> None:
        nonlocal done_px
        done_px += setup.windows[index].work_px
        if progress is not None:
            progress(Progress(done, len(todo), done_px, total_px))

    if progress is not None:
        progress(Progress(0, len(todo), 0, total_px))
    if client is None:
        return schedule.run_threads(job, graph, threads=setup.memory.threads, on_core=on_core)
    return schedule.run_cluster(graph, client, on_core=on_core)


def told_apart(
    todo: Sequence[Index], outcomes: Sequence[schedule.Outcome]
) -> tuple[tuple[FailedCore, ...], dict[Index, tuple[int, ...]]]:
    """Cores that could not be computed, and px of the tissue in each class of the others, from what came of `todo`."""
    found = list(zip(todo, outcomes, strict=True))
    failures = tuple(FailedCore(f.index, f.core, f.cause) for _, f in found if isinstance(f, Failure))
    return failures, {index: counts for index, counts in found if not isinstance(counts, Failure)}


def scale_warning(setup: Setup) -> str | None:
    """A sentence for a run far from the scale of its model; None for one near it."""
    trained, mpp = setup.card.mpp, setup.plan.mpp[1]
    if trained is None or 1 / SCALE_TOLERANCE <= mpp / trained <= SCALE_TOLERANCE:
        return None
    return (
        f"{setup.card.name} was trained at {trained:.4g} um per px and runs at {mpp:.4g} here; "
        "what it says may mean little"
    )


def _say(source: PixelSource, setup: Setup, todo: Sequence[Index]) -> None:
    plan, execution = setup.plan, setup.execution
    warning = scale_warning(setup)
    if warning is not None:
        log.warning("warning: %s", warning)
    log.info(
        "%s: level %d at %.4g um per px, %d x %d px; %d of %d windows touch tissue, %d to do",
        source.path.name,
        plan.level.index,
        plan.mpp[1],
        plan.shape[1],
        plan.shape[0],
        len(setup.windows),
        setup.grid.counts[0] * setup.grid.counts[1],
        len(todo),
    )
    log.info(
        "%s on %s, %s%s, %d windows at once, at most %.1f GiB",
        setup.card.name,
        execution.device,
        execution.precision,
        "" if execution.backend == "torch" else f" through {execution.backend}",
        setup.memory.workers,
        setup.memory.needed_bytes / (1 << 30),
    )
