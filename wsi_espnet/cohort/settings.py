"""What decides a batch, as frozen values: from the command line, or from a TOML file with the same names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from wsi_espnet.settings import Count, Positive, Section, Whole, change, parse, read_toml

QUEUES = ("slurm", "pbs", "lsf", "sge", "htcondor")
"""Batch systems, through dask-jobqueue."""


class SegmentOptions(Section):
    """How each slide is segmented; names and meanings are those of `wsi_espnet.segment.segment`.

    The manifest's mpp, model and tissue take the place of `slide_mpp`, `model` and `tissue`.
    """

    model: str = "glas-colon"
    backend: Literal["torch", "onnx", "openvino"] | None = None
    slide_mpp: Positive | None = None
    mpp: Positive | None = None
    allow_upsampling: bool = False
    tissue: str = "auto"
    window: Count | None = None
    halo: Whole | None = None
    stitch: Literal["blend", "crop"] = "blend"
    device: str = "auto"
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    batch: Count = 1
    probabilities: bool = False

    @property
    def through_torch(self) -> bool:
        """Whether torch runs the network, and not an exported file's own program."""
        return self.backend in (None, "torch") and not self.model.endswith(".onnx")


class ClusterOptions(Section):
    """Where the work is done.

    Parameters
    ----------
    kind
        ``local``: worker processes on this machine. The others submit jobs to a batch system.
    scheduler
        Address of a running Dask scheduler, which takes the place of all the rest here.
    workers
        Worker processes; None takes as many as cores and memory allow. On a batch system, the most jobs at once.
    minimum
        Jobs that a batch keeps while little is to do; one at least, which says what the machines are.
    threads
        Windows that one worker process computes at once.
    memory
        What the workers of this machine may use together, or one job on a batch system, such as ``32GiB``.
    processes
        Worker processes per job; with GPUs, one per GPU is what makes sense.
    gpus
        GPUs per job, or on this machine; None takes those that are there (none on a batch system, or without torch).
    walltime, queue, account
        Of each job.
    options
        Further arguments for the cluster class of dask-jobqueue, by its own names.
    patience_s
        How long a scheduler that went away, or workers that do not come, are waited for.
    """

    kind: Literal["local", "slurm", "pbs", "lsf", "sge", "htcondor"] = "local"
    scheduler: str | None = None
    workers: Count | None = None
    minimum: Count = 1
    threads: Count | None = None
    memory: str | None = None
    processes: Count = 1
    gpus: Whole | None = None
    walltime: str | None = None
    queue: str | None = None
    account: str | None = None
    options: dict[str, Any] = Field(default_factory=dict)
    patience_s: Positive = 300.0

    @model_validator(mode="after")
    def _ensure_that_jobs_have_a_size(self) -> ClusterOptions:
        if self.kind in QUEUES and self.scheduler is None:
            missing = [name for name in ("workers", "threads", "memory") if getattr(self, name) is None]
            if missing:
                raise ValueError(
                    f"jobs of {self.kind} need {', '.join(missing)}; say it as in pipelines/batch-slurm.toml"
                )
        return self


class BatchConfig(Section):
    """A whole batch.

    Parameters
    ----------
    slides
        As `wsi_espnet.cohort.manifest.read_entries` takes them.
    out
        Folder of the results.
    segment, cluster
        See there.
    """

    slides: tuple[str, ...] = ()
    out: Path | None = None
    segment: SegmentOptions = SegmentOptions()
    cluster: ClusterOptions = ClusterOptions()


def read_config(path: Path | None, changes: Mapping[str, Any]) -> BatchConfig:
    """Settings from a TOML file, or from nothing, with changes by dotted key such as ``cluster.workers``.

    Raises
    ------
    UsageError
        The file is missing or not TOML, or a key is unknown or of a wrong value; the message names it.
    """
    values: dict[str, Any] = {} if path is None else read_toml(path)
    change(values, changes)
    return parse(BatchConfig, values, str(path or "the batch"))
