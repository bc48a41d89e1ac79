"""Tables of other people's label ids, as CSV files; what each says and where it comes from is told by its adapter."""

from __future__ import annotations

import csv
from pathlib import Path


def read_table(name: str) -> list[dict[str, str]]:
    """The rows of a table, such as ``cityscapes``."""
    with (Path(__file__).parent / f"{name}.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
