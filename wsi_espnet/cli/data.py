"""`wsi-espnet data list|check`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wsi_espnet.cli import say
from wsi_espnet.cli.values import options_of

if TYPE_CHECKING:
    from wsi_espnet.data.adapter import Dataset
    from wsi_espnet.data.check import Report

app = typer.Typer(help="Labelled data sets: list what can be read, check a folder.", no_args_is_help=True)


@app.command("list")
def list_adapters(as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False) -> None:
    """List the data sets that can be read, and the options of each."""
    from wsi_espnet.data.catalog import DATASETS

    if as_json:
        say.print_json(
            [{"name": name, "summary": a.summary, "options": dict(a.options)} for name, a in DATASETS.items()]
        )
        return
    rows = [
        (name, a.summary, "; ".join(f"{key}={value}" for key, value in a.options.items()))
        for name, a in DATASETS.items()
    ]
    say.print_table(["data set", "what it reads", "options (--set)"], rows)


@app.command()
def check(
    dataset: Annotated[str, typer.Argument(help="Kind of data set: see `wsi-espnet data list`.")],
    root: Annotated[Path, typer.Argument(help="Its folder.")],
    split: Annotated[str | None, typer.Option(help="Only this split [all].")] = None,
    sheet: Annotated[Path | None, typer.Option(help="Draw a contact sheet into this PNG file.")] = None,
    samples: Annotated[int, typer.Option(min=1, help="Samples on the contact sheet.")] = 12,
    limit: Annotated[int | None, typer.Option(min=1, help="Most samples read per split [all].")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Option of the data set.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a contact sheet that is there.")] = False,
) -> None:
    """Say what is missing or wrong in a data set, with counts and class shares; exit status 1 if there are errors."""
    from wsi_espnet.data.catalog import open_dataset
    from wsi_espnet.data.check import check as run_check
    from wsi_espnet.errors import DataError, OutputError

    if sheet is not None and sheet.exists() and not overwrite:
        raise OutputError(f"{sheet} is already there; choose another name, or replace it with --overwrite")
    opened = open_dataset(dataset, root, **options_of(settings or []))
    splits = [split] if split else list(opened.splits)
    with say.progress_bar("check") as progress:
        report = run_check(opened, splits=splits, limit=limit, progress=progress)
    if as_json:
        say.print_json(_as_json(report))
    else:
        _print(report)
    if sheet is not None:
        _draw(opened, splits, samples, sheet, quiet=as_json)
    if report.errors:
        raise DataError(
            f"{root} has {_counted(report.errors, 'error')}; mend the files that the findings name, or take them out"
        )


def _draw(dataset: Dataset, splits: list[str], samples: int, sheet: Path, *, quiet: bool) -> None:
    from wsi_espnet.atomic import write_bytes_atomic
    from wsi_espnet.data.contact_sheet import pick, sheet_png

    title = f"{dataset.name}: {', '.join(splits)}" + (f", {dataset.mpp:g} um per px" if dataset.mpp else "")
    write_bytes_atomic(sheet, sheet_png(title, pick(dataset, splits, samples), dataset.classes))
    if not quiet:
        say.out.print(f"contact sheet  {sheet}", markup=False)


def _print(report: Report) -> None:
    scale = "no scale" if report.mpp is None else f"{report.mpp:g} um per px"
    say.out.print(f"{report.dataset}: {len(report.classes)} classes ({report.classes.name}), {scale}", markup=False)
    say.print_table(
        ["split", "samples ", "read ", "ignored ", "width x height"],
        [
            (s.name, str(s.listed), str(s.read), f"{_ignored(s.px, s.ignored_px):.1%}", _sizes(s.sizes))
            for s in report.splits
        ],
    )
    say.print_table(
        ["class", *(f"{s.name} " for s in report.splits)],
        [(f"{c.id} {c.name}", *(f"{s.shares[c.id]:.2%}" for s in report.splits)) for c in report.classes.classes],
    )
    for finding in report.findings:
        say.out.print(str(finding), markup=False)
    say.out.print(f"{_counted(report.errors, 'error')}, {_counted(len(report.findings) - report.errors, 'warning')}")


def _counted(number: int, what: str) -> str:
    return f"{number} {what}" + ("" if number == 1 else "s")


def _ignored(px: tuple[int, ...], ignored: int) -> float:
    return ignored / max(sum(px) + ignored, 1)


def _sizes(sizes: Any) -> str:
    first = [f"{w} x {h}" + (f" ({n})" if len(sizes) > 1 else "") for (h, w), n in list(sizes.items())[:3]]
    return ", ".join(first) + (f" and {len(sizes) - 3} more" if len(sizes) > 3 else "")


def _as_json(report: Report) -> dict[str, Any]:
    return {
        "dataset": report.dataset,
        "classes": report.classes.names,
        "mpp": report.mpp,
        "splits": [
            {
                "name": s.name,
                "samples": s.listed,
                "read": s.read,
                "px": dict(zip(report.classes.names, s.px, strict=True)),
                "ignored_px": s.ignored_px,
                "sizes": [{"width": w, "height": h, "samples": n} for (h, w), n in s.sizes.items()],
            }
            for s in report.splits
        ],
        "findings": [{"severity": f.severity, "where": f.where, "what": f.what} for f in report.findings],
        "errors": report.errors,
    }
