"""`python -m wsi_espnet.bench`: measure this package on this machine, beside named baselines."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path

from wsi_espnet.bench.report import Report, machine_line
from wsi_espnet.bench.settings import Settings
from wsi_espnet.errors import DependencyError, WsiEspnetError

BENCHMARKS = (
    "robustness",
    "light",
    "seams",
    "reading",
    "speed",
    "overhead",
    "memory",
    "training",
    "frames",
    "networks",
    "batch",
    "many",
    "scheduling",
)
"""Modules of this package, in the order in which they run; each is imported when it is its turn."""

LONG = frozenset({"memory", "many"})
"""Left out of a quick round."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run benchmarks, print their tables, write their JSON; 0 unless one could not run."""
    given = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    settings = Settings(data=given.data, out=given.out, quick=given.quick)
    names = given.only or [name for name in BENCHMARKS if not (given.quick and name in LONG)]
    sys.stdout.write(f"{machine_line()}\n\n")
    for name in names:
        try:
            report = _run(name, settings)
        except WsiEspnetError as exc:
            sys.stderr.write(f"error: {exc}\n")
            return 1
        sys.stdout.write(report.text())
        sys.stdout.flush()
        report.write(settings.out)
    return 0


def _run(name: str, settings: Settings) -> Report:
    try:
        module = import_module(f"wsi_espnet.bench.{name}")
    except ModuleNotFoundError as exc:
        if exc.name is None or exc.name.startswith("wsi_espnet"):
            raise  # a mistake of ours, which no installing mends
        raise DependencyError(f"the benchmark {name} needs {exc.name}: pip install 'wsi-espnet[bench]'") from exc
    run: Callable[[Settings], Report] = module.run
    return run(settings)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m wsi_espnet.bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="smaller slides, and none of the long ones")
    parser.add_argument("--only", nargs="+", choices=list(BENCHMARKS), metavar="NAME", help=", ".join(BENCHMARKS))
    parser.add_argument("--data", type=Path, default=Path("../shared"), help="holds tools/ and data/ [../shared]")
    parser.add_argument("--out", type=Path, default=Path("bench-out"), help="for reports and slides [bench-out]")
    return parser


if __name__ == "__main__":
    sys.exit(main())
