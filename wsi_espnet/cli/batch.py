"""`wsi-espnet batch` and `wsi-espnet batch status`."""

from __future__ import annotations

import time
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from wsi_espnet.cli import say
from wsi_espnet.cli.segment import Backend, Precision, Stitch
from wsi_espnet.cli.values import options_of, shard_of

if TYPE_CHECKING:
    from wsi_espnet.cohort.ledger import Row
    from wsi_espnet.cohort.settings import BatchConfig

WATCH_EVERY_S = 2.0


class _Run(TyperGroup):
    """A group whose first word is a slide unless it is the name of a command."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands:
            args = ["run", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=_Run,
    help="Segment many slides, on this machine or a cluster.",
    no_args_is_help=True,
    add_completion=False,
)


class Cluster(StrEnum):
    """Where the work is done."""

    LOCAL = "local"
    SLURM = "slurm"
    PBS = "pbs"
    LSF = "lsf"
    SGE = "sge"
    HTCONDOR = "htcondor"


@app.command(epilog="What a batch has done so far: wsi-espnet batch status OUT.")
def run(
    slides: Annotated[
        list[str] | None, typer.Argument(help="Folders, patterns, slides, or tables (.csv, .tsv) of slides.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder for all results.")] = None,
    config: Annotated[Path | None, typer.Option(help="Settings as TOML; pipelines/ holds some to start from.")] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a setting, such as cluster.queue=gpu."),
    ] = None,
    cluster: Annotated[Cluster | None, typer.Option(help="Where the work is done [local].")] = None,
    scheduler: Annotated[str | None, typer.Option(help="Address of a running Dask scheduler.")] = None,
    workers: Annotated[int | None, typer.Option(help="Worker processes, or jobs at most [one per core].")] = None,
    memory: Annotated[
        str | None, typer.Option(help="What all workers here, or one job, may use [80 % of what is free].")
    ] = None,
    model: Annotated[str | None, typer.Option("--model", "-m", help="Bundled name or file [glas-colon].")] = None,
    backend: Annotated[Backend | None, typer.Option(help="What runs it [onnx for an .onnx file, else torch].")] = None,
    tissue: Annotated[str | None, typer.Option(help="auto or none; a table names files [auto].")] = None,
    mpp: Annotated[float | None, typer.Option(help="um per px given to the network [the model's own].")] = None,
    slide_mpp: Annotated[float | None, typer.Option(help="um per px of all slides, whatever they say.")] = None,
    allow_upsampling: Annotated[
        bool, typer.Option("--allow-upsampling", help="Enlarge slides that are too coarse.")
    ] = False,
    stitch: Annotated[Stitch | None, typer.Option(help="Average windows where they meet, or cut them [blend].")] = None,
    window: Annotated[int | None, typer.Option(help="Side of a window in px, halo included [the model's].")] = None,
    halo: Annotated[int | None, typer.Option(help="Px of context on each side of a window [the model's].")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda or cuda:N [auto].")] = None,
    precision: Annotated[
        Precision | None, typer.Option(help="auto takes bf16 where the machine has it [auto].")
    ] = None,
    probabilities: Annotated[bool, typer.Option("--probabilities", help="Keep the probabilities too.")] = False,
    limit: Annotated[int | None, typer.Option(help="Begin at most that many slides.")] = None,
    shard: Annotated[str | None, typer.Option(metavar="I/N", help="Every N-th slide, from the I-th on.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and what it takes.")] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace results of other slides, models or settings.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Segment many slides: each as `segment` does, and tables and a contact sheet of them all."""
    from wsi_espnet.cohort.settings import read_config
    from wsi_espnet.errors import UsageError

    given = {
        "cluster.kind": cluster and cluster.value,
        "cluster.scheduler": scheduler,
        "cluster.workers": workers,
        "cluster.memory": memory,
        "segment.model": model,
        "segment.backend": backend and backend.value,
        "segment.tissue": tissue,
        "segment.mpp": mpp,
        "segment.slide_mpp": slide_mpp,
        "segment.allow_upsampling": allow_upsampling or None,
        "segment.stitch": stitch and stitch.value,
        "segment.window": window,
        "segment.halo": halo,
        "segment.device": device,
        "segment.precision": precision and precision.value,
        "segment.probabilities": probabilities or None,
        "slides": slides or None,
        "out": out,
    }
    said = options_of(changes or []) | {key: value for key, value in given.items() if value is not None}
    settings = read_config(config, said)
    if not settings.slides or settings.out is None:
        missing = "slides" if not settings.slides else "a folder for the results: --out OUT"
        raise UsageError(f"a batch needs {missing}; name it on the command line or in the file of --config")
    part = None if shard is None else shard_of(shard)
    if dry_run:
        _plan(settings, part, limit, as_json=as_json)
    else:
        _run(settings, part, limit, overwrite=overwrite, as_json=as_json)


def _run(
    settings: BatchConfig, part: tuple[int, int] | None, limit: int | None, *, overwrite: bool, as_json: bool
) -> None:
    from wsi_espnet.batch import batch as job
    from wsi_espnet.batch_notes import BatchProgress
    from wsi_espnet.cohort.clusters import quiet_dask

    assert settings.out is not None
    quiet_dask()
    started = time.monotonic()
    with say.progress_bar("slides") as update:

        def progress(p: BatchProgress) -> None:
            rate = p.windows / max(1e-9, time.monotonic() - started)
            update(p.ended, p.total, f"{p.running} in flight, {rate:.1f} windows/s")

        result = job(
            settings.slides,
            settings.out,
            config=settings,
            shard=part,
            limit=limit,
            overwrite=overwrite,
            progress=progress,
        )
    counts = _counts(result.rows)
    if as_json:
        say.print_json(
            {
                "out": str(result.folder),
                "states": counts,
                "tried": list(result.tried),
                "failures": {row.name: row.cause for row in result.failures},
                "seconds": round(result.seconds, 3),
            }
        )
    else:
        say.out.print(_sentence(counts), markup=False)
        say.out.print(f"summary   {result.folder / 'summary.csv'}", markup=False)
        say.out.print(f"pictures  {result.folder / 'index.html'}", markup=False)
    if result.failures:
        if not as_json:
            say.print_table(["failed", "why"], [(row.name, row.cause) for row in result.failures])
        from wsi_espnet.cli.main import fail

        fail(
            f"error: {len(result.failures)} of {len(result.rows)} slides failed, see "
            f"{result.folder / 'failures.csv'}; the same command tries them again",
            1,
        )


def _plan(settings: BatchConfig, part: tuple[int, int] | None, limit: int | None, *, as_json: bool) -> None:
    from wsi_espnet.batch_plan import plan_batch

    with say.progress_bar("slides") as update:
        plan = plan_batch(settings, shard=part, limit=limit, progress=lambda done, total: update(done, total, ""))
    if as_json:
        say.print_json(plan.as_json())
        return
    rows = [
        (
            slide.name,
            "" if slide.level is None else str(slide.level),
            "" if slide.mpp is None else f"{slide.mpp:.4g}",
            "" if slide.windows is None else str(slide.windows),
            "" if slide.mpx is None else f"{slide.mpx:.1f}",
            slide.note,
        )
        for slide in plan.slides
    ]
    say.print_table(["slide", "level ", "um per px ", "windows ", "Mpx ", ""], rows)
    for line in plan.sentences():
        say.out.print(line, markup=False)


@app.command()
def status(
    out: Annotated[Path, typer.Argument(help="Folder of a batch.")],
    watch: Annotated[bool, typer.Option("--watch", help="Show it anew until the batch has ended.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """Say what became of each slide of a batch, also while it runs."""
    from wsi_espnet.cohort.folder import BatchFolder

    folder = BatchFolder(out.absolute())
    while True:
        running = folder.is_running()
        rows = folder.read()
        if as_json:
            say.print_json({"running": running, "states": _counts(rows), "slides": [_facts(row) for row in rows]})
        else:
            if watch and say.out.is_terminal:
                say.out.clear()
            _table(rows, running=running, brief=watch)
        if not (watch and running):
            return
        time.sleep(WATCH_EVERY_S)


def _table(rows: list[Row], *, running: bool, brief: bool) -> None:
    shown = [row for row in rows if row.state in ("running", "failed")] if brief else rows
    say.print_table(
        ["slide", "state", "windows ", "Mpx ", "time ", "why"],
        [
            (
                row.name,
                row.state if running or row.state != "running" else "cut short",
                f"{row.windows_done}/{row.windows}" if row.windows else "",
                f"{row.mpx:.1f}" if row.mpx else "",
                "" if row.seconds is None else f"{row.seconds:.0f} s",
                row.cause,
            )
            for row in shown
        ],
    )
    say.out.print(f"{_sentence(_counts(rows))}; {'a batch runs now' if running else 'no batch runs'}", markup=False)


def _facts(row: Row) -> dict[str, Any]:
    return {name: getattr(row, name) for name in row.__slots__ if name != "key"}


def _counts(rows: list[Row] | tuple[Row, ...]) -> dict[str, int]:
    from wsi_espnet.cohort.ledger import STATES

    return {state: sum(row.state == state for row in rows) for state in STATES}


def _sentence(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {state}" for state, count in counts.items() if count) or "no slides"
