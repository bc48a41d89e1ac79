"""A batch whose workers, client or scheduler are killed ends with the bytes of one that was left in peace."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from distributed import Client
from small import blobs, command, differing_files, small_slide, tiny_model

from wsi_espnet.batch import batch
from wsi_espnet.batch_notes import BatchProgress
from wsi_espnet.cohort.folder import BatchFolder
from wsi_espnet.cohort.settings import BatchConfig, ClusterOptions, SegmentOptions
from wsi_espnet.errors import ClusterError

pytestmark = pytest.mark.slow

SLIDES = 5
SIDES = [(400, 500), (300, 300), (700, 800), (300, 300), (400, 500)]
"""(height, width) in px: one large among small ones."""


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("inputs")
    tiny_model(made / "tiny.safetensors", core_px=128)
    (made / "slides").mkdir()
    for number, side in enumerate(SIDES):
        small_slide(made / "slides" / f"s{number}.svs", blobs(*side, seed=number))
    return made


def config_of(inputs: Path, **cluster: object) -> BatchConfig:
    return BatchConfig(
        segment=SegmentOptions(model=str(inputs / "tiny.safetensors")),
        cluster=ClusterOptions.model_validate(cluster),
    )


@pytest.fixture(scope="module")
def quiet(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of a run that nothing happened to."""
    out = tmp_path_factory.mktemp("quiet")
    made = batch([inputs / "slides"], out, config=config_of(inputs, workers=2))
    assert [row.state for row in made.rows] == ["done"] * SLIDES
    return out


def assert_like(out: Path, quiet: Path) -> None:
    rows = BatchFolder(out).read()
    assert [(row.state, row.cause) for row in rows] == [("done", "")] * SLIDES
    assert differing_files(out / "slides", quiet / "slides") == []
    assert not list(out.rglob("*.partial"))


def workers_of(pid: int) -> list[psutil.Process]:
    """Worker processes of a client: the ones that were spawned."""
    found = []
    for process in psutil.Process(pid).children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if any("spawn_main" in word for word in process.cmdline()):
                found.append(process)
    return found


def until(condition: Callable[[], bool], *, seconds: float = 180) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.05)


def test_a_worker_killed_every_few_seconds_costs_only_what_it_had_in_hand(
    inputs: Path, quiet: Path, tmp_path: Path
) -> None:
    killed: list[int] = []
    last = time.monotonic()

    def kill(progress: BatchProgress) -> None:
        nonlocal last
        if progress.windows and time.monotonic() - last > 2 and len(killed) < 6:
            victims = workers_of(os.getpid())
            if len(victims) == 2:
                last = time.monotonic()
                victim = victims[len(killed) % 2]
                victim.kill()
                killed.append(victim.pid)

    batch([inputs / "slides"], tmp_path / "out", config=config_of(inputs, workers=2), progress=kill)
    assert len(killed) >= 2
    assert_like(tmp_path / "out", quiet)


def test_a_client_killed_twice_and_started_again_goes_on(inputs: Path, quiet: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = ["batch", inputs / "slides", "-o", out, "-m", inputs / "tiny.safetensors"]
    orphans: list[psutil.Process] = []
    for least in (1, 3):
        with subprocess.Popen(command(*words, "--workers", 2), stderr=subprocess.DEVNULL) as client:
            until(lambda least=least: _ended(out) >= least)
            orphans += workers_of(client.pid)
            client.kill()
        # Read after a kill: what was running says so, and that nobody works on it.
        assert not BatchFolder(out).is_running()
    assert orphans
    _, alive = psutil.wait_procs(orphans, timeout=30)
    assert alive == []
    states = {row.state for row in BatchFolder(out).read()}
    assert states - {"done", "running", "waiting"} == set()
    made = batch([inputs / "slides"], out, config=config_of(inputs, workers=2))
    assert len(made.tried) < SLIDES
    assert_like(out, quiet)


def _ended(out: Path) -> int:
    folder = BatchFolder(out)
    if not folder.ledgers():
        return 0
    rows = folder.read() if folder.ledger.stat().st_size else []
    return sum(row.state == "done" for row in rows)


@contextlib.contextmanager
def dask(*words: str) -> Iterator[subprocess.Popen[bytes]]:
    """A part of a Dask cluster as a process of its own, in a group that ends with the block."""
    how = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "start_new_session": True}
    with subprocess.Popen([sys.executable, "-m", *words], **how) as process:  # type: ignore[call-overload]
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_a_scheduler_killed_and_started_again_is_waited_for(inputs: Path, quiet: Path, tmp_path: Path) -> None:
    out, port = tmp_path / "out", free_port()
    address = f"tcp://127.0.0.1:{port}"
    scheduler = ("distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", str(port), "--no-dashboard")
    worker = ("distributed.cli.dask_worker", address, "--nworkers", "2", "--nthreads", "1", "--no-dashboard")
    local = ("--host", "127.0.0.1", "--local-directory", str(tmp_path))
    with contextlib.ExitStack() as parts:
        first = parts.enter_context(dask(*scheduler))
        parts.enter_context(dask(*worker, *local))
        until(lambda: _answers(port))
        restarted: list[int] = []

        def restart(progress: BatchProgress) -> None:
            if progress.windows and not restarted:
                first.kill()
                first.wait()
                restarted.append(progress.windows)
                parts.enter_context(dask(*scheduler))
                parts.enter_context(dask(*worker, *local))

        config = config_of(inputs, scheduler=address, patience_s=60)
        batch([inputs / "slides"], out, config=config, progress=restart)
    assert restarted
    assert "went away" in "".join(path.read_text() for path in (out / "logs").iterdir())
    assert_like(out, quiet)


def test_a_scheduler_that_stays_away_ends_the_batch_with_what_it_has(inputs: Path, tmp_path: Path) -> None:
    out, port = tmp_path / "out", free_port()
    address = f"tcp://127.0.0.1:{port}"
    with contextlib.ExitStack() as parts:
        first = parts.enter_context(
            dask("distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", str(port), "--no-dashboard")
        )
        parts.enter_context(
            dask("distributed.cli.dask_worker", address, "--nthreads", "1", "--no-dashboard", "--host", "127.0.0.1")
        )
        until(lambda: _answers(port))
        with Client(address) as client:
            client.wait_for_workers(1, timeout=60)  # how long a worker imports is not tried here
        config = config_of(inputs, scheduler=address, patience_s=2.0)

        def kill(progress: BatchProgress) -> None:
            if progress.windows:
                first.kill()

        with pytest.raises(ClusterError, match="went away and was not back after 2 s"):
            batch([inputs / "slides"], out, config=config, progress=kill)
    assert {row.state for row in BatchFolder(out).read()} <= {"done", "waiting"}
    assert (out / "summary.csv").is_file()
    assert not list(out.rglob("*.lock"))


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0
