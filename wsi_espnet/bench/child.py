"""The process that `wsi_espnet.bench.process.measure` starts: runs one task and writes what it found."""

from __future__ import annotations

import json
import resource
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

Task = Callable[..., dict[str, Any]]

TASKS = {
    "segment": "tasks.segment_slide",
    "plan": "tasks.plan_work",
    "bare": "tasks.bare_network",
    "alone": "tasks.images_alone",
    "apart": "tasks.cells_apart",
    "monai": "baselines.monai_in_ram",
    "plain": "baselines.plain_loop",
    "train": "train_steps.time_steps",
    "network": "network_pass.time_passes",
}
"""What can be measured; a module is imported by its own tasks alone, because imports take memory too."""


def main(arguments: Sequence[str]) -> None:
    """TASK ARGUMENTS(JSON) ANSWER(path)."""
    name, given, answer = arguments
    module, _, function = TASKS[name].partition(".")
    task: Task = getattr(import_module(f"wsi_espnet.bench.{module}"), function)
    result = task(**json.loads(given))
    Path(answer).write_text(json.dumps({"result": result, "peak_bytes": _peak_bytes()}), encoding="utf-8")


def _peak_bytes() -> int:
    """Largest resident set of this process."""
    status = Path("/proc/self/status")
    if not status.is_file():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    # On Linux `ru_maxrss` begins with what the parent held when it started this process.
    peak = next(line for line in status.read_text(encoding="ascii").splitlines() if line.startswith("VmHWM:"))
    return int(peak.split()[1]) * 1024


if __name__ == "__main__":
    main(sys.argv[1:])
