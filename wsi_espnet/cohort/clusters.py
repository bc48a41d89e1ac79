"""Where the tasks of a batch run: worker processes here, jobs of a batch system, or a Dask that is running already."""

from __future__ import annotations

import contextlib
import logging
import shutil
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from wsi_espnet import machine
from wsi_espnet.budget import SHARE_OF_FREE, size_bytes
from wsi_espnet.cohort.settings import QUEUES, ClusterOptions
from wsi_espnet.errors import DependencyError, UsageError

if TYPE_CHECKING:
    from dask_jobqueue.core import JobQueueCluster
    from distributed import Client

PROCESS_BYTES = 9 << 28
"""What one worker process with a window of the default size takes, 2.25 GiB; decides only how many are started."""

CONNECT_S = 10
"""How long a scheduler may take to answer the first time."""

SAY_EVERY_S = 60.0
"""Seconds between two lines about workers that have not come."""

LOG_LENGTH = 50
"""Messages to each worker that the scheduler remembers; each may hold all that a slide's tasks are told, 20 kB."""

SUBMIT = {"slurm": "sbatch", "pbs": "qsub", "lsf": "bsub", "sge": "qsub", "htcondor": "condor_submit"}

_OF_THE_CLUSTER = frozenset({"scheduler_options", "shared_temp_directory", "security", "silence_logs"})
"""Arguments of dask-jobqueue's cluster classes that are no job's."""

log = logging.getLogger(__name__)

Connect = Callable[[], "contextlib.AbstractContextManager[Client]"]
"""Makes a client, again and again if need be."""


def quiet_dask() -> None:
    """Keep Dask's own lines about workers that come and go from stderr; the batch tells what matters of them."""
    import distributed  # noqa: F401  importing it sets its loggers up

    for name in [name for name in logging.root.manager.loggerDict if name.split(".")[0] == "distributed"]:
        logging.getLogger(name).setLevel(logging.CRITICAL)


@contextlib.contextmanager
def open_cluster(options: ClusterOptions, *, gpus: int) -> Iterator[Connect]:
    """Start what is to be started, and say how to connect to it; it ends with the block.

    Parameters
    ----------
    options
        Which cluster.
    gpus
        CUDA devices of this machine.

    Raises
    ------
    UsageError
        The cluster cannot be had.
    DependencyError
        dask-jobqueue is not installed.
    """
    import dask
    from distributed import Client

    if options.scheduler is not None:
        yield lambda: _connect(str(options.scheduler))
        return
    cluster: Any
    with dask.config.set({"distributed.admin.low-level-log-length": LOG_LENGTH}):
        if options.kind == "local":
            cluster = _local(options, gpus=gpus)
        else:
            cluster = queue_cluster(options)
            cluster.adapt(minimum_jobs=options.minimum, maximum_jobs=options.workers)
        with cluster:
            yield lambda: Client(cluster, set_as_default=False)


@contextlib.contextmanager
def _connect(address: str) -> Iterator[Client]:
    from distributed import Client

    try:
        client = Client(address, timeout=CONNECT_S, set_as_default=False)
    except (OSError, ValueError) as exc:
        raise UsageError(
            f"no Dask scheduler answers at {address} ({type(exc).__name__}); start one with `dask scheduler`, and "
            "workers with `dask worker`"
        ) from exc
    with client:
        yield client


def await_workers(client: Client, *, patience_s: float | None, what: str) -> None:
    """Wait for the first worker; without `patience_s`, as long as it takes, since jobs wait for their turn.

    Raises
    ------
    UsageError
        None came.
    """
    started = time.monotonic()
    while True:
        left = SAY_EVERY_S if patience_s is None else patience_s - (time.monotonic() - started)
        try:
            client.wait_for_workers(1, timeout=max(0.1, min(SAY_EVERY_S, left)))
            return
        except TimeoutError:
            waited = time.monotonic() - started
            if patience_s is not None and waited >= patience_s:
                raise UsageError(
                    f"{what} has no worker after {waited:.0f} s; start one with `dask worker ADDRESS`, then run again"
                ) from None
            log.info("%s has no worker yet, after %.0f s", what, waited)


def local_shape(options: ClusterOptions, *, cores: int, free_bytes: int, gpus: int) -> tuple[int, int]:
    """(processes, threads of each) of this machine, where the options leave it open.

    One thread per process: a damaged slide that kills a process costs one window, and processes are about as fast as
    threads (docs/benchmarks.md). With GPUs a process for each, whose threads read while the GPU computes.
    """
    if gpus:
        workers = options.workers or gpus
        return workers, options.threads or max(1, cores // workers)
    threads = options.threads or 1
    return options.workers or max(1, min(cores // threads, free_bytes // PROCESS_BYTES)), threads


def _local(options: ClusterOptions, *, gpus: int) -> Any:
    from distributed import Nanny, Scheduler, SpecCluster

    free = local_bytes(None if options.memory is None else size_bytes(options.memory))
    workers, threads = local_shape(options, cores=machine.cores(), free_bytes=free, gpus=gpus)
    if gpus and workers > gpus:
        raise UsageError(f"{workers} workers need as many GPUs, and there are {gpus}; ask for fewer --workers")

    def worker(number: int) -> dict[str, Any]:
        # No limit of Dask's own: what a window needs was added up before, and Dask would stop work below it.
        how: dict[str, Any] = {"nthreads": threads, "memory_limit": 0, "host": "127.0.0.1", "dashboard": False}
        how["silence_logs"] = logging.CRITICAL
        if gpus:
            how |= {"env": {"CUDA_VISIBLE_DEVICES": str(number)}, "resources": {"GPU": 1}}
        return {"cls": Nanny, "options": how}

    scheduler = {"cls": Scheduler, "options": {"host": "127.0.0.1", "dashboard_address": "127.0.0.1:0"}}
    return SpecCluster(
        workers={number: worker(number) for number in range(workers)},
        scheduler=scheduler,
        silence_logs=logging.CRITICAL,  # a worker that dies is told by the batch itself
        name="wsi-espnet batch",
    )


def local_bytes(memory_bytes: int | None) -> int:
    """What the workers of this machine may use together."""
    return int(machine.free_bytes() * SHARE_OF_FREE) if memory_bytes is None else memory_bytes


def queue_cluster(options: ClusterOptions) -> JobQueueCluster:
    """A cluster of jobs of a batch system; none is submitted yet.

    Raises
    ------
    UsageError
        The batch system's command is not here, or an option is none of its cluster class.
    DependencyError
        dask-jobqueue is not installed.
    """
    assert options.kind in QUEUES
    if shutil.which(SUBMIT[options.kind]) is None:
        raise UsageError(
            f"--cluster {options.kind} submits jobs with {SUBMIT[options.kind]}, which is not on the PATH; start the "
            "batch on a machine from which jobs are submitted"
        )
    try:
        from dask_jobqueue.htcondor import HTCondorCluster
        from dask_jobqueue.lsf import LSFCluster
        from dask_jobqueue.pbs import PBSCluster
        from dask_jobqueue.sge import SGECluster
        from dask_jobqueue.slurm import SLURMCluster
    except ImportError as exc:
        raise DependencyError(
            f"--cluster {options.kind} needs dask-jobqueue; install it with: pip install 'wsi-espnet[cluster]'"
        ) from exc
    classes: dict[str, Any] = {
        "slurm": SLURMCluster,
        "pbs": PBSCluster,
        "lsf": LSFCluster,
        "sge": SGECluster,
        "htcondor": HTCondorCluster,
    }
    given = _job(options)
    made = classes[options.kind]
    try:
        # A job by itself first: what is wrong with it is told without a cluster that is half made.
        made.job_cls("tcp://127.0.0.1:1", "check", **{k: v for k, v in given.items() if k not in _OF_THE_CLUSTER})
        cluster: JobQueueCluster = made(**given)
    except (TypeError, ValueError) as exc:
        raise UsageError(
            f"the jobs of {options.kind} cannot be described: {exc}; mend [cluster] and its options"
        ) from exc
    return cluster


def _job(options: ClusterOptions) -> dict[str, Any]:
    """Arguments of the cluster classes of dask-jobqueue."""
    given = dict(options.options)
    directives = list(given.pop("job_extra_directives", ()))
    extra = list(given.pop("worker_extra_args", ()))
    if options.gpus:
        extra += ["--resources", "GPU=1"]
        if options.kind == "slurm":  # the others have no common word for it: job_extra_directives
            directives.append(f"--gres=gpu:{options.gpus}")
    named = {"queue": options.queue, "account": options.account, "walltime": options.walltime}
    if options.kind in ("lsf", "sge"):
        named["project"] = named.pop("account")
    if options.kind == "htcondor":  # which has neither
        named = {}
    assert options.threads is not None
    return {
        "job_name": "wsi-espnet",
        "cores": options.threads * options.processes,
        "processes": options.processes,
        "memory": options.memory,
        "scheduler_options": {"dashboard_address": ":0"},
        "job_extra_directives": directives,
        "worker_extra_args": extra,
        **{name: value for name, value in named.items() if value is not None},
        **given,
    }
