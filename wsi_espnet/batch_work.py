"""What the workers of a batch do with a slide before its windows and after them.

    prepare --> windows, strips, cores, levels (`wsi_espnet.inference.schedule`) --> conclude

Everything here is done once more when a worker dies over it, so doing it twice is the same as doing it once.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from wsi_espnet.atomic import write_bytes_atomic
from wsi_espnet.budget import set_up_malloc
from wsi_espnet.cohort.settings import SegmentOptions
from wsi_espnet.errors import ResumeError
from wsi_espnet.inference.backends import shared_predictor
from wsi_espnet.inference.job import Job
from wsi_espnet.inference.predictor import Execution
from wsi_espnet.inference.schedule import Outcome
from wsi_espnet.outputs.areas import Areas
from wsi_espnet.outputs.result import Reports, ResultFolder
from wsi_espnet.segment import make_job, result_folder, scale_warning, told_apart
from wsi_espnet.segment_setup import Index, Setup, decide
from wsi_espnet.slides.source import PixelSource, open_source

PICTURE_PX = 480
"""Width of the picture of a slide on the contact sheet; about 20 kB as JPEG."""


@dataclass(frozen=True, slots=True)
class Machine:
    """What all workers have in common.

    Parameters
    ----------
    device, precision
        What the network runs on and in, decided once for the whole batch.
    threads
        Windows that one worker process computes at once.
    memory_bytes
        What one worker process may use.
    """

    device: str
    precision: str
    threads: int
    memory_bytes: int

    @property
    def has_gpu(self) -> bool:
        """Whether the network runs on a GPU."""
        return self.device != "cpu"


@dataclass(frozen=True, slots=True)
class Order:
    """One slide, as a worker is told about it.

    Parameters
    ----------
    token
        Names this attempt in the graph.
    slide, out, picture
        The slide, the folder of its result, and the JPEG for the contact sheet.
    options
        How it is segmented, with what the manifest says of this slide.
    machine
        What it is computed on.
    overwrite
        Replace the result of another slide, model or setting.
    """

    token: str
    slide: Path
    out: Path
    picture: Path
    options: SegmentOptions
    machine: Machine
    overwrite: bool


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """A slide that is ready for its windows.

    Parameters
    ----------
    job, setup
        What the tasks are told, and what it follows from.
    todo
        Cores that are still to be done.
    level_shapes
        (rows, columns) of shards on every level of the pyramid.
    notes
        Sentences for the log of the slide.
    """

    job: Job
    setup: Setup
    todo: list[Index]
    level_shapes: list[tuple[int, int]]
    notes: list[str]


def probe(device: str, precision: str) -> tuple[str, str]:
    """Device and precision that torch on this worker would take, where they are left to it.

    Raises
    ------
    UsageError
        The device is not there.
    """
    # Imported here: a batch that runs exported files needs no torch.
    from wsi_espnet.inference.torch_backend import choose_execution

    chosen = choose_execution(device=device, precision=precision, batch=1)
    return chosen.device, chosen.precision


def plan_slide(source: PixelSource, options: SegmentOptions, machine: Machine) -> Setup:
    """What would be computed of a slide; nothing is written.

    Raises
    ------
    ScaleError, TissueError, ModelError, GeometryError, BudgetError, UsageError, DependencyError
        See `wsi_espnet.segment_setup.decide`.
    """
    execution = None
    if machine.has_gpu and options.through_torch:
        # This worker may have no GPU; the one that runs the network has.
        execution = Execution(machine.device, machine.precision, options.batch)
    return decide(
        source,
        model=options.model,
        backend=options.backend,
        mpp=options.mpp,
        allow_upsampling=options.allow_upsampling,
        tissue=options.tissue,
        window=options.window,
        halo=options.halo,
        stitch=options.stitch,
        device="cpu" if options.through_torch else options.device,
        precision=machine.precision if options.through_torch else options.precision,
        batch=options.batch,
        workers=machine.threads,
        memory_bytes=machine.memory_bytes,
        probabilities=options.probabilities,
        execution=execution,
    )


def prepare(order: Order) -> Prepared:
    """Open a slide, decide how it is segmented, and make its result or find what is still to do in it.

    Raises
    ------
    SlideError, ScaleError, TissueError, ModelError, GeometryError, BudgetError, ResumeError, OutputError, UsageError
        See `wsi_espnet.errors`.
    """
    set_up_malloc()
    with open_source(order.slide, mpp=order.options.slide_mpp) as source:
        setup = plan_slide(source, order.options, order.machine)
        result = result_folder(source, order.out, setup)
        todo = _open(result, setup, overwrite=order.overwrite)
        job = make_job(source, setup, result.store, slide_mpp=order.options.slide_mpp)
    sha256 = result.fingerprint["model"]
    job = replace(
        job,
        token=order.token,
        open_predictor=partial(shared_predictor, setup.model.resolve(), sha256, setup.execution),
    )
    return Prepared(job, setup, todo, result.store.shard_counts, _notes(setup, todo))


def _open(result: ResultFolder, setup: Setup, *, overwrite: bool) -> list[Index]:
    try:
        return result.open(setup.windows, overwrite=False, resume=True)
    except ResumeError:
        if not overwrite:
            raise
    # Only now: a run that was cut short while it replaced results goes on with those that it had begun.
    return result.open(setup.windows, overwrite=True, resume=True)


def conclude(order: Order, prepared: Prepared, cores: Sequence[Outcome], _top: Sequence[Any]) -> dict[str, Any]:
    """Finish the pyramid, measure, draw, and close the result of a slide, once all its cores are there.

    Returns
    -------
    dict
        What the summary tells about the slide, JSON-able.

    Raises
    ------
    SlideError, OutputError
        The slide went away, or the result cannot be written.
    """
    failures, counts = told_apart(prepared.todo, cores)
    setup = prepared.setup
    with open_source(order.slide, mpp=order.options.slide_mpp) as source:
        result = result_folder(source, order.out, setup)
        result.complete(failures)
        reports = result.report(failures, counts)
        write_bytes_atomic(order.picture, _picture(reports))
        result.close(failures)
    return {
        "result": str(result.store.path),
        "model": setup.card.name,
        "mpp": list(setup.plan.mpp),
        "level": setup.plan.level.index,
        "width": setup.plan.shape[1],
        "height": setup.plan.shape[0],
        "device": setup.execution.device,
        "precision": setup.execution.precision,
        "windows": len(setup.windows),
        "failed_windows": len(failures),
        "first_failure": failures[0].cause if failures else "",
        **_areas(reports.areas),
    }


def _areas(areas: Areas) -> Mapping[str, Any]:
    return {
        "tissue_mm2": areas.tissue_mm2,
        "unlabelled_mm2": areas.unlabelled.mm2,
        "classes": [{"name": c.name, "mm2": c.mm2, "share": c.share_of_tissue} for c in areas.classes],
    }


def _picture(reports: Reports) -> bytes:
    with Image.open(reports.overview) as overview:
        small = overview.convert("RGB")
    small.thumbnail((PICTURE_PX, PICTURE_PX), reducing_gap=2.0)
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=80)
    return buffer.getvalue()


def _notes(setup: Setup, todo: Sequence[Index]) -> list[str]:
    warning = scale_warning(setup)
    plan, execution = setup.plan, setup.execution
    image = f"level {plan.level.index} at {plan.mpp[1]:.4g} um per px, {plan.shape[1]} x {plan.shape[0]} px"
    return [
        *([] if warning is None else [f"warning: {warning}"]),
        f"{image}; {len(setup.windows)} windows touch tissue, {len(todo)} to do",
        f"{setup.card.name} on {execution.device}, {execution.precision}",
    ]
