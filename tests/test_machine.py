"""Cores and memory where control groups give a process a part of its machine."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from wsi_espnet import machine

GIB = 1 << 30


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A mount of control groups, and a machine of 16 cores with 64 GiB free."""
    monkeypatch.setattr(machine, "MOUNT", tmp_path / "mount")
    monkeypatch.setattr(machine, "OWN", tmp_path / "own")
    free = psutil.virtual_memory()._replace(available=64 * GIB)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: free)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)), raising=False)
    return tmp_path


def own(groups: Path, text: str) -> None:
    (groups / "own").write_text(text)


def group(groups: Path, name: str, **files: object) -> None:
    """Files of a group; two underscores stand for a dot."""
    folder = groups / "mount" / name
    folder.mkdir(parents=True, exist_ok=True)
    for file, content in files.items():
        (folder / file.replace("__", ".")).write_text(f"{content}\n")


def test_without_groups_all_of_the_machine_is_there(groups: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (machine.cores(), machine.free_bytes()) == (16, 64 * GIB)
    monkeypatch.delattr(os, "sched_getaffinity")  # macOS
    monkeypatch.setattr(os, "cpu_count", lambda: 10)
    assert machine.cores() == 10


def test_a_container_of_version_2_has_its_limits_at_the_root(groups: Path) -> None:
    own(groups, "0::/\n")
    group(groups, "", cpu__max="250000 100000", memory__max=4 * GIB, memory__current=3 * GIB)
    group(groups, "", memory__stat=f"anon {2 * GIB}\ninactive_file {GIB}\nactive_file 0")
    assert (machine.cores(), machine.free_bytes()) == (3, 2 * GIB)
    group(groups, "", cpu__max="max 100000", memory__max="max")
    assert (machine.cores(), machine.free_bytes()) == (16, 64 * GIB)


def test_a_limit_of_a_group_above_holds_as_well(groups: Path) -> None:
    own(groups, "0::/job/step\n")
    group(groups, "job", cpu__max="400000 100000", memory__max=8 * GIB, memory__current=2 * GIB)
    group(groups, "job/step", cpu__max="max 100000", memory__max="max", memory__current=GIB)
    assert (machine.cores(), machine.free_bytes()) == (4, 6 * GIB)
    group(groups, "job/step", cpu__max="50000 100000", memory__max=GIB)
    assert (machine.cores(), machine.free_bytes()) == (1, 0)


def test_version_1_has_a_tree_for_each_controller(groups: Path) -> None:
    own(groups, "5:memory:/slurm/job\n4:cpu,cpuacct:/slurm/job\n1:name=systemd:/init\n0::/\n")
    group(groups, "memory/slurm/job", memory__limit_in_bytes=2 * GIB, memory__usage_in_bytes=GIB)
    group(groups, "memory", memory__limit_in_bytes=2**63 - 4096, memory__usage_in_bytes=30 * GIB)
    group(groups, "memory/slurm/job", memory__stat=f"inactive_file 5\ntotal_inactive_file {GIB // 2}")
    group(groups, "cpu,cpuacct/slurm/job", cpu__cfs_quota_us=200000, cpu__cfs_period_us=100000)
    group(groups, "cpu,cpuacct", cpu__cfs_quota_us=-1, cpu__cfs_period_us=100000)
    assert (machine.cores(), machine.free_bytes()) == (2, GIB + GIB // 2)


def test_the_name_of_a_group_may_be_that_of_the_host(groups: Path) -> None:
    own(groups, "5:memory:/docker/0123\n")
    group(groups, "memory", memory__limit_in_bytes=2 * GIB, memory__usage_in_bytes=GIB)
    assert machine.free_bytes() == GIB


@pytest.fixture
def limited() -> Iterator[Path]:
    """A real group of 1.5 GiB, which ends what takes more."""
    folder = machine.MOUNT / "memory" / f"wsi-espnet-{uuid.uuid4().hex[:8]}"
    try:
        folder.mkdir()
        (folder / "memory.limit_in_bytes").write_text(str(3 * GIB // 2))
    except OSError as exc:
        pytest.skip(f"needs control groups of version 1 that may be written to: {exc}")
    yield folder
    folder.rmdir()


def test_a_real_group_is_seen(limited: Path) -> None:
    code = (
        "import os, sys\n"
        "open(sys.argv[1], 'w').write(str(os.getpid()))\n"
        "from wsi_espnet.machine import free_bytes\n"
        "print(free_bytes())\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(limited / "cgroup.procs")], capture_output=True, check=True)
    assert GIB < int(done.stdout) < 3 * GIB // 2
