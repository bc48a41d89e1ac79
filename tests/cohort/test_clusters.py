"""Jobs of batch systems: what is submitted, and a batch through a command that stands for sbatch."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from small import blobs, run_process, small_slide, tiny_model

from wsi_espnet.cohort.clusters import SUBMIT, local_shape, open_cluster, queue_cluster
from wsi_espnet.cohort.settings import ClusterOptions, read_config
from wsi_espnet.errors import UsageError

pytest.importorskip("dask_jobqueue", reason="needs the extra 'cluster'")

PIPELINE = Path(__file__).resolve().parents[2] / "pipelines" / "batch-slurm.toml"

SBATCH = """#!/bin/sh
# Stands for SLURM's: starts the job at once, in a session of its own, and says its number as sbatch does.
echo "$@" >> "{folder}/submitted"
cp "$1" "{folder}/job.sh"  # as sbatch does: the script is deleted as soon as it has been handed over
setsid sh "{folder}/job.sh" > "{folder}/job.out" 2>&1 &
echo "Submitted batch job $!"
"""

SCANCEL = """#!/bin/sh
for job in "$@"; do kill -TERM -- "-$job"; done
"""


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on the PATH with a command to submit for each batch system; none of them does anything."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in {*SUBMIT.values()}:
        (folder / name).write_text("#!/bin/sh\nexit 1\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder


def options(kind: str, **more: object) -> ClusterOptions:
    given = {"kind": kind, "workers": 4, "threads": 6, "memory": "20GiB", "walltime": "01:30:00", "queue": "gpu"}
    if kind == "htcondor":
        more.setdefault("options", {"disk": "5GB"})
    return ClusterOptions.model_validate({**given, "options": {"interface": "lo"}, **more})


@pytest.mark.parametrize(
    ("kind", "lines"),
    [
        ("slurm", ["#SBATCH -p gpu", "#SBATCH -n 1", "#SBATCH --cpus-per-task=6", "#SBATCH --mem=20G", "-t 01:30:00"]),
        ("pbs", ["#PBS -q gpu", "walltime=01:30:00", "ncpus=6:mem=20GB"]),
        ("lsf", ["#BSUB -q gpu", "#BSUB -n 6", "#BSUB -W 01:30"]),
        ("sge", ["#$ -q gpu", "h_rt=01:30:00"]),
        ("htcondor", ["RequestCpus = MY.DaskWorkerCores", "MY.DaskWorkerCores = 6"]),
    ],
)
def test_a_job_asks_for_what_the_settings_say(commands: Path, kind: str, lines: list[str]) -> None:
    with queue_cluster(options(kind)) as cluster:
        script = cluster.job_script()
    assert [line for line in lines if line not in script] == [], script
    assert "--nthreads 6" in script


def test_a_gpu_job_says_so_to_slurm_and_to_dask(commands: Path) -> None:
    settings = read_config(PIPELINE, {"cluster.options.interface": "lo"}).cluster
    with queue_cluster(settings) as cluster:
        script = cluster.job_script()
    assert "#SBATCH --gres=gpu:1" in script
    assert "--resources GPU=1" in script
    assert "#SBATCH -p gpu" in script


def has_slurm() -> bool:
    """Whether a controller answers; the commands alone are of no use."""
    return (
        shutil.which("scontrol") is not None
        and b"UP" in subprocess.run(["scontrol", "ping"], capture_output=True, check=False).stdout
    )


@pytest.mark.skipif(not has_slurm(), reason="needs a SLURM whose controller answers")
def test_slurm_itself_takes_the_job(tmp_path: Path) -> None:
    small = {"workers": 1, "threads": 1, "memory": "1GiB", "queue": None}
    with queue_cluster(options("slurm", **small)) as cluster:
        script = tmp_path / "job.sh"
        script.write_text(cluster.job_script())
    done = subprocess.run(["sbatch", "--test-only", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "to start at" in done.stderr


def test_a_batch_system_that_is_not_here_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(UsageError, match="submits jobs with bsub, which is not on the PATH"):
        queue_cluster(options("lsf"))


def test_an_option_that_dask_jobqueue_does_not_know_is_said(commands: Path) -> None:
    with pytest.raises(UsageError, match=r"jobs of slurm cannot be described: .*colour"):
        queue_cluster(options("slurm", options={"colour": "red"}))


@pytest.mark.slow
def test_a_batch_runs_in_jobs_and_cancels_them(commands: Path, tmp_path: Path) -> None:
    (commands / "sbatch").write_text(SBATCH.format(folder=tmp_path))
    (commands / "scancel").write_text(SCANCEL)
    (commands / "scancel").chmod(0o755)
    tiny_model(tmp_path / "tiny.safetensors", core_px=128)
    (tmp_path / "slides").mkdir()
    for number in range(2):
        small_slide(tmp_path / "slides" / f"s{number}.svs", blobs(260, 340, seed=number))
    settings = tmp_path / "batch.toml"
    settings.write_text(
        'slides = ["slides"]\nout = "out"\n[segment]\nmodel = "tiny.safetensors"\n'
        '[cluster]\nkind = "slurm"\nworkers = 1\nthreads = 1\nmemory = "4GiB"\n'
        '[cluster.options]\ninterface = "lo"\n'
    )
    told = run_process("batch", "--config", settings, cwd=tmp_path)
    assert told.status == 0, told.err
    assert told.out.startswith("2 done\n")
    assert (tmp_path / "submitted").read_text().count("\n") == 1
    job_said = (tmp_path / "job.out").read_text()
    assert "Worker closed" in job_said or "SIGTERM" in job_said


@pytest.mark.parametrize(
    ("given", "cores", "free_gib", "gpus", "shape"),
    [
        ({}, 8, 64, 0, (8, 1)),
        ({}, 8, 10, 0, (4, 1)),
        ({}, 2, 1, 0, (1, 1)),
        ({"threads": 4}, 16, 64, 0, (4, 4)),
        ({"workers": 3}, 16, 1, 0, (3, 1)),
        ({}, 16, 64, 2, (2, 8)),
    ],
)
def test_workers_of_this_machine(
    given: dict[str, int], cores: int, free_gib: int, gpus: int, shape: tuple[int, int]
) -> None:
    found = local_shape(ClusterOptions.model_validate(given), cores=cores, free_bytes=free_gib << 30, gpus=gpus)
    assert found == shape


def test_few_bytes_are_not_divided_among_many_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wsi_espnet.machine.cores", lambda: 64)
    monkeypatch.setattr("wsi_espnet.machine.free_bytes", lambda: 256 << 30)
    options = ClusterOptions(memory="4GiB")
    started = dict.fromkeys(range(local_shape(options, cores=64, free_bytes=4 << 30, gpus=0)[0]))
    assert 1 <= len(started) < 8
    made: dict[str, Any] = {}
    monkeypatch.setattr("distributed.SpecCluster", lambda **given: made.update(given) or contextlib.nullcontext())
    with open_cluster(options, gpus=0):
        pass
    assert made["workers"].keys() == started.keys()
