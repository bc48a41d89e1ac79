"""A slide on a `distributed` cluster: the bytes of a run on threads, whatever becomes of the workers."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask
import pytest
import tifffile
from distributed import Client, LocalCluster
from slides.make import write_slide
from small import MPP, blobs, differing_files, tiny_model

from wsi_espnet.errors import ClusterError, OutputError, UsageError
from wsi_espnet.inference import schedule
from wsi_espnet.segment import Progress, SegmentResult, segment

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    """Two worker processes of one thread each, on loopback."""
    with LocalCluster(
        n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address="127.0.0.1:0", silence_logs=50
    ) as made:
        yield made


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("inputs")
    px = blobs(600, 800)
    write_slide(made / "slide.tiff", [px, px[::4, ::4]], mpp=MPP)
    tiny_model(made / "tiny.safetensors", core_px=128)
    return made


def run(folder: Path, out: Path, **options: Any) -> SegmentResult:
    return segment(folder / "slide.tiff", out, model=folder / "tiny.safetensors", **options)


@pytest.fixture(scope="module")
def quiet(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The result of a run on threads."""
    out = tmp_path_factory.mktemp("quiet")
    run(folder, out)
    return out


def test_a_cluster_gives_the_bytes_of_threads(cluster: LocalCluster, folder: Path, quiet: Path, tmp_path: Path) -> None:
    told: list[Progress] = []
    made = run(folder, tmp_path / "out", scheduler=cluster.scheduler_address, progress=told.append)
    assert differing_files(tmp_path / "out", quiet) == []
    assert [p.done for p in told] == list(range(made.windows + 1))
    assert told[-1].done_px == made.work_px


def test_a_worker_may_be_killed(cluster: LocalCluster, folder: Path, quiet: Path, tmp_path: Path) -> None:
    with Client(cluster.scheduler_address, set_as_default=False) as client:
        pids = client.run(os.getpid)
    victim = next(iter(pids.values()))

    def kill(progress: Progress) -> None:
        if progress.done == 5:
            os.kill(victim, signal.SIGKILL)

    run(folder, tmp_path / "out", scheduler=cluster.scheduler_address, progress=kill)
    assert differing_files(tmp_path / "out", quiet) == []


def test_workers_that_die_over_one_window_end_the_run_in_one_sentence(folder: Path, tmp_path: Path) -> None:
    killed: list[int] = []
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 0}),
        LocalCluster(
            n_workers=1, threads_per_worker=1, host="127.0.0.1", dashboard_address="127.0.0.1:0", silence_logs=50
        ) as fragile,
        Client(fragile.scheduler_address, set_as_default=False) as client,
    ):

        def kill(progress: Progress) -> None:
            if progress.done == 2:
                killed.extend(client.run(os.getpid).values())
                os.kill(killed[-1], signal.SIGKILL)

        with pytest.raises(ClusterError, match=r"workers died 1 times over one task.*run the same command again"):
            run(folder, tmp_path / "out", scheduler=fragile.scheduler_address, progress=kill)
    assert killed


def test_a_scheduler_that_goes_away_ends_the_run_in_one_sentence(folder: Path, tmp_path: Path) -> None:
    with LocalCluster(
        n_workers=1, threads_per_worker=1, host="127.0.0.1", dashboard_address="127.0.0.1:0", silence_logs=50
    ) as short:

        def close(progress: Progress) -> None:
            if progress.done == 2:
                short.close()

        with pytest.raises(ClusterError, match="scheduler went away; what is finished is kept"):
            run(folder, tmp_path / "out", scheduler=short.scheduler_address, progress=close)


def test_windows_that_cannot_be_read_come_back_from_a_cluster(
    cluster: LocalCluster, folder: Path, quiet: Path, tmp_path: Path
) -> None:
    slide = folder / "slide.tiff"
    whole = slide.read_bytes()
    with tifffile.TiffFile(slide) as tif:
        offset, count = tif.pages[0].dataoffsets[0], tif.pages[0].databytecounts[0]
    slide.write_bytes(whole[:offset] + bytes(count) + whole[offset + count :])
    try:
        broken = run(folder, tmp_path / "out", scheduler=cluster.scheduler_address)
    finally:
        slide.write_bytes(whole)
    assert sorted(f.index for f in broken.failures) == [(r, c) for r in range(3) for c in range(3)]
    assert run(folder, tmp_path / "out", scheduler=cluster.scheduler_address).failures == ()
    assert differing_files(tmp_path / "out", quiet) == []


def test_an_error_on_a_worker_comes_back_as_what_it_is(cluster: LocalCluster, folder: Path, tmp_path: Path) -> None:
    """A worker that cannot write says so as this process would."""
    out = run(folder, tmp_path / "out").path
    node = json.loads((out / "zarr.json").read_text())
    node["attributes"]["wsi_espnet"]["state"] = "writing"
    (out / "zarr.json").write_text(json.dumps(node))
    cores = out / "labels" / "classes" / "0" / "c"
    shutil.rmtree(cores)
    cores.write_text("in the way", encoding="utf-8")
    with pytest.raises(OutputError, match="cannot be written"):
        run(folder, tmp_path / "out", scheduler=cluster.scheduler_address)


def test_nobody_at_the_address_is_said_and_nothing_is_written(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schedule, "CONNECT_S", 0.5)
    for address in ("tcp://127.0.0.1:9", "nowhere"):
        with pytest.raises(UsageError, match="no Dask scheduler answers at"):
            run(folder, tmp_path / "out", scheduler=address)
    assert not (tmp_path / "out").exists()


def test_a_scheduler_without_workers_is_said_and_nothing_is_written(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schedule, "CONNECT_S", 2)
    with (
        LocalCluster(n_workers=0, host="127.0.0.1", dashboard_address="127.0.0.1:0") as idle,
        pytest.raises(UsageError, match="has no worker after 2 s; start one with `dask worker tcp://"),
    ):
        run(folder, tmp_path / "out", scheduler=idle.scheduler_address)
    assert not (tmp_path / "out").exists()
