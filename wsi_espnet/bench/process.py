"""One measurement in a process of its own, so that memory and caches of one say nothing about the next."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from wsi_espnet.errors import UsageError

_SAMPLE_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Measured:
    """What a child process gave back.

    Parameters
    ----------
    result
        JSON of its task.
    peak_bytes
        Largest resident set of the process, as the kernel kept it.
    tree_bytes
        Largest sum of resident sets of the process and its children, sampled twice a second; pages that they share
        count more than once.
    seconds
        From its start to its end, imports included.
    load
        One-minute load averages of the machine before and after.
    """

    result: dict[str, Any]
    peak_bytes: int
    tree_bytes: int
    seconds: float
    load: tuple[float, float]

    @property
    def facts(self) -> dict[str, Any]:
        """All of it, JSON-able."""
        rest = {"process_seconds": self.seconds, "load_before": self.load[0], "load_after": self.load[1]}
        return {**self.result, "peak_bytes": self.peak_bytes, "tree_peak_bytes": self.tree_bytes, **rest}


def measure(task: str, arguments: Mapping[str, Any]) -> Measured:
    """Run a task of `wsi_espnet.bench.child` in a new process.

    Parameters
    ----------
    task
        Its name.
    arguments
        Of the task, by name, JSON-able.

    Raises
    ------
    UsageError
        The task failed; its last words are in the message.
    """
    before, started = os.getloadavg()[0], time.monotonic()
    with tempfile.TemporaryDirectory(prefix="wsi-espnet-bench-") as folder:
        answer, errors = Path(folder) / "answer.json", Path(folder) / "errors.txt"
        command = [sys.executable, "-m", "wsi_espnet.bench.child", task, json.dumps(dict(arguments)), str(answer)]
        with errors.open("w", encoding="utf-8") as stderr:
            child = subprocess.Popen(command, stderr=stderr)
            tree = _watch(child)
        if child.returncode:
            words = errors.read_text(encoding="utf-8", errors="replace").strip()[-2000:]
            raise UsageError(f"the benchmark's process {task!r} ended with status {child.returncode}: {words}")
        found = json.loads(answer.read_text(encoding="utf-8"))
    load = before, os.getloadavg()[0]
    return Measured(found["result"], found["peak_bytes"], tree, time.monotonic() - started, load)


def way(run: Measured) -> str:
    """How the network ran, of a task that tells its execution."""
    return f"{run.result['execution']['precision']} on {run.result['execution']['device']}"


def _watch(child: subprocess.Popen[bytes]) -> int:
    """Wait for a process; the largest sum of its and its children's resident sets, in bytes."""
    most = 0
    process = psutil.Process(child.pid)
    while child.poll() is None:
        most = max(most, _resident(process))
        time.sleep(_SAMPLE_SECONDS)
    return most


def _resident(process: psutil.Process) -> int:
    total = 0
    try:
        for one in (process, *process.children(recursive=True)):
            total += one.memory_info().rss
    except psutil.NoSuchProcess:  # it ended between two looks
        return total
    return total
