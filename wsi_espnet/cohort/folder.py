"""The folder of a batch.

OUT/slides/<name>/       the result of a slide, as `wsi-espnet segment` leaves it
OUT/ledger.sqlite        what became of each slide; one for each --shard
OUT/logs/<name>.log      what happened to it
OUT/pictures/<name>.jpg  for the contact sheet
OUT/summary.csv, failures.csv, index.html
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from wsi_espnet.atomic import output_errors
from wsi_espnet.cohort.ledger import Ledger, Row
from wsi_espnet.errors import ResumeError, UsageError
from wsi_espnet.locks import hold, is_held

_LEDGER = re.compile(r"ledger(?:-(\d+)-of-(\d+))?\.sqlite")


@dataclass(frozen=True, slots=True)
class Shard:
    """Part `number` of `count`, from 1: every `count`-th slide of the manifest."""

    number: int
    count: int

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.count:
            raise UsageError(f"--shard is written i/n with i from 1 to n, got {self.number}/{self.count}")


@dataclass(frozen=True, slots=True)
class BatchFolder:
    """Where the parts of a batch lie.

    Parameters
    ----------
    out
        The folder.
    shard
        The part that this process computes; None for all of it.
    """

    out: Path
    shard: Shard | None = None

    @property
    def ledger(self) -> Path:
        """The ledger of this shard."""
        part = "" if self.shard is None else f"-{self.shard.number}-of-{self.shard.count}"
        return self.out / f"ledger{part}.sqlite"

    def result(self, name: str) -> Path:
        """Folder of the result of a slide."""
        return self.out / "slides" / name

    def picture(self, name: str) -> Path:
        """Its picture on the contact sheet."""
        return self.out / "pictures" / f"{name}.jpg"

    def log(self, name: str, text: str) -> None:
        """Add a line, with the time before it, to the log of a slide."""
        path = self.out / "logs" / f"{name}.log"
        with output_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("a", encoding="utf-8") as file:
                file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')}  {text}\n")

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Keep other batches out of the folder, or of this shard of it, while the block runs.

        Raises
        ------
        ResumeError
            Another batch runs here, or the slides here were divided in another way.
        OutputError
            The folder cannot be written.
        """
        with output_errors(self.out):
            self.out.mkdir(parents=True, exist_ok=True)
        refusal = f"another batch is writing to {self.out}; wait until it has ended, or choose another folder"
        with (
            hold(self.out / "batch.lock", refusal, shared=self.shard is not None),
            hold(self.ledger.with_suffix(".lock"), refusal),
        ):
            self._ensure_divided_alike()
            yield

    @contextlib.contextmanager
    def reporting(self) -> Iterator[None]:
        """Take turns with other shards in writing the pages about all slides."""
        with hold(self.out / "reports.lock", "", wait=True):
            yield

    def is_running(self) -> bool:
        """Whether a batch writes here now."""
        return is_held(self.out / "batch.lock")

    def ledgers(self) -> list[Path]:
        """The ledgers of all shards."""
        return sorted(path for path in self.out.glob("ledger*.sqlite") if _LEDGER.fullmatch(path.name))

    def read(self) -> list[Row]:
        """The slides of all shards.

        Raises
        ------
        UsageError
            There is no batch in the folder.
        OutputError
            A ledger cannot be read.
        """
        paths = self.ledgers()
        if not paths:
            raise UsageError(f"no batch was begun in {self.out}: it holds no ledger; name the folder given to --out")
        rows = []
        for path in paths:
            found = _LEDGER.fullmatch(path.name)
            number, count = (1, 1) if found is None or found[1] is None else (int(found[1]), int(found[2]))
            with Ledger(path) as ledger:
                rows += [replace(row, place=row.place * count + number - 1) for row in ledger.read()]
        return sorted(rows, key=lambda row: (row.place, row.name))

    def _ensure_divided_alike(self) -> None:
        wanted = None if self.shard is None else str(self.shard.count)
        for path in self.ledgers():
            found = _LEDGER.fullmatch(path.name)
            if found is not None and found[2] != wanted:
                ways = "as one batch" if found[2] is None else f"in {found[2]} shards"
                raise ResumeError(
                    f"{self.out} was begun {ways} ({path.name}); go on in the same way, or choose another folder"
                )
