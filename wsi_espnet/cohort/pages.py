"""Pages about all slides of a batch: summary.csv, failures.csv and index.html, written whole from the ledger."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

from wsi_espnet.atomic import write_bytes_atomic
from wsi_espnet.cohort.contact_sheet import contact_sheet
from wsi_espnet.cohort.folder import BatchFolder
from wsi_espnet.cohort.ledger import Row


def write_pages(folder: BatchFolder) -> None:
    """Write the three files anew, over the slides of all shards.

    Raises
    ------
    OutputError
        One cannot be written.
    """
    with folder.reporting():
        rows = folder.read()
        write_bytes_atomic(folder.out / "summary.csv", summary_csv(rows).encode())
        write_bytes_atomic(folder.out / "failures.csv", failures_csv(rows).encode())
        write_bytes_atomic(folder.out / "index.html", contact_sheet(rows, title=folder.out.name).encode())


def summary_csv(rows: Sequence[Row]) -> str:
    """A line per slide: what became of it, scale, model, time, and mm2 of each class of any model used.

    Areas are empty where there is no result, and where a model does not have the class.
    """
    classes = list(dict.fromkeys(c["name"] for row in rows for c in row.facts.get("classes", ())))
    header = ["name", "slide", "state", "cause", "model", "mpp", "level", "windows", "failed_windows"]
    header += ["seconds", "mpx", "tissue_mm2", *(f"{name} mm2" for name in classes), "unlabelled_mm2", "result"]
    return _csv(header, [_line(row, classes) for row in rows])


def failures_csv(rows: Sequence[Row]) -> str:
    """A line per slide that failed: name, file, attempts and why."""
    failed = [(row.name, row.slide, row.attempts, row.cause) for row in rows if row.state == "failed"]
    return _csv(["name", "slide", "attempts", "cause"], failed)


def mpp_of(facts: Mapping[str, Any]) -> float | None:
    """The um per px of the mask: the side of a square px of the same area."""
    return math.sqrt(facts["mpp"][0] * facts["mpp"][1]) if facts else None


def _line(row: Row, classes: Sequence[str]) -> list[Any]:
    facts = row.facts
    mm2 = {c["name"]: c["mm2"] for c in facts.get("classes", ())}
    return [
        row.name,
        row.slide,
        row.state,
        row.cause,
        facts.get("model", ""),
        "" if not facts else f"{mpp_of(facts):.6g}",
        facts.get("level", ""),
        facts.get("windows", ""),
        facts.get("failed_windows", ""),
        "" if row.seconds is None else f"{row.seconds:.1f}",
        f"{row.mpx:.1f}" if facts else "",
        _area(facts.get("tissue_mm2")),
        *(_area(mm2.get(name)) for name in classes),
        _area(facts.get("unlabelled_mm2")),
        row.result,
    ]


def _area(mm2: float | None) -> str:
    return "" if mm2 is None else f"{mm2:.6f}"


def _csv(header: Sequence[str], lines: Sequence[Sequence[Any]]) -> str:
    text = io.StringIO(newline="")
    table = csv.writer(text, lineterminator="\n")
    table.writerow(header)
    table.writerows(lines)
    return text.getvalue()
