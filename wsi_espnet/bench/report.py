"""What a benchmark found, as a table for people and as JSON for programs."""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

from wsi_espnet.machine import cores


@dataclass(frozen=True, slots=True)
class Check:
    """A wanted figure and what was measured."""

    what: str
    wanted: str
    got: str
    met: bool


@dataclass(frozen=True, slots=True)
class Report:
    """The result of one benchmark.

    Parameters
    ----------
    name, title
        On the command line; over the table.
    columns, rows
        The table.
    checks
        What was wanted of it.
    facts
        Everything that was measured, JSON-able.
    notes
        Lines under the table.
    """

    name: str
    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    checks: Sequence[Check]
    facts: dict[str, Any]
    notes: Sequence[str] = field(default=())

    def text(self) -> str:
        """The table, notes and checks as lines of text."""
        lines = [f"{self.name}: {self.title}", "", *_table([self.columns, *self.rows]), ""]
        lines += [*self.notes, ""] if self.notes else []
        if self.checks:
            wanted = [(c.what, c.wanted, c.got, "met" if c.met else "MISSED") for c in self.checks]
            lines += [*_table([("wanted of it", "", "got", ""), *wanted]), ""]
        return "\n".join([*lines, ""])

    def write(self, folder: Path) -> Path:
        """Write ``<name>.json`` with the machine that it was measured on."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{self.name}.json"
        checks = [{"what": c.what, "wanted": c.wanted, "got": c.got, "met": c.met} for c in self.checks]
        content = {"benchmark": self.name, "title": self.title, "machine": machine(), "checks": checks, **self.facts}
        path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        return path


def machine() -> dict[str, Any]:
    """Processor, cores that may be used, memory, and versions of what computes."""
    return {
        "cpu": _cpu_model(),
        "cores": cores(),
        "memory_gib": round(psutil.virtual_memory().total / (1 << 30), 1),
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "dask", "zarr", "openslide-python")},
    }


def machine_line() -> str:
    """`machine` in one line."""
    m = machine()
    return f"{m['cpu']}, {m['cores']} cores, {m['memory_gib']} GiB, Python {m['python']}, torch {m['torch']}"


def gib(size: float) -> str:
    """Bytes as GiB."""
    return f"{size / (1 << 30):.2f} GiB"


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows as aligned text, the first set off by a line; all columns but the first belong to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join(
            c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    return [lines[0], "  ".join("-" * w for w in widths), *lines[1:]]
