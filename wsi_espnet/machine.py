"""What this process may use of its machine: containers and batch systems give it a part of cores and memory.

They do so by control groups (Linux, cgroups(7)): folders of small files below `MOUNT`, in two versions. A limit of any
group above a process holds for it as well.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

import psutil

MOUNT, OWN = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
"""Where control groups are mounted, and the file that names those of this process."""


def cores() -> int:
    """Cores that this process may keep busy: those it may run on, or what its share of time is worth, rounded up."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1  # macOS
    for group in _groups("cpu"):
        # Microseconds of all cores together in each period: version 2, then 1, where -1 stands for no limit.
        found = _numbers(group / "cpu.max")
        found = found or (*_numbers(group / "cpu.cfs_quota_us"), *_numbers(group / "cpu.cfs_period_us"))
        if len(found) == 2 and found[0] > 0:
            allowed = min(allowed, math.ceil(found[0] / found[1]))
    return allowed


def free_bytes() -> int:
    """Memory that this process may still take: what is free on the machine, or less where its groups allow less.

    As the machine does, it counts as free what holds copies of files and was not looked at lately.
    """
    free: int = psutil.virtual_memory().available
    for group in _groups("memory"):
        for limit, usage, copies in (
            ("memory.max", "memory.current", "inactive_file"),  # version 2
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        ):
            found = (*_numbers(group / limit), *_numbers(group / usage))
            if len(found) == 2:
                free = min(free, max(0, found[0] - found[1] + _statistic(group, copies)))
    return free


def _groups(controller: str) -> Iterator[Path]:
    """Folders of the groups of this process that may limit something, each with those above it."""
    try:
        lines = OWN.read_text(encoding="utf-8").splitlines()
    except OSError:  # no Linux
        return
    for line in lines:
        _, controllers, name = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        # Version 2 has one tree for all; beside version 1 it lies in a folder of its own.
        for base in (MOUNT / controllers,) if controllers else (MOUNT, MOUNT / "unified"):
            group = base / name.lstrip("/")
            # In a container the name may be that of the host, of which only the root is there.
            yield from (folder for folder in (group, *group.parents) if folder.is_relative_to(base))


def _numbers(path: Path) -> tuple[int, ...]:
    """The numbers in a file; none where there is no file, or where it says ``max``."""
    try:
        return tuple(int(word) for word in path.read_text(encoding="ascii").split())
    except (OSError, ValueError):
        return ()


def _statistic(group: Path, name: str) -> int:
    try:
        lines = (group / "memory.stat").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.split()[0] == name), 0)
