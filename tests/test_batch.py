"""A batch on worker processes: what it makes of good and bad slides, and what a second run does."""

from __future__ import annotations

import csv
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image
from small import Told, blobs, differing_files, run_process, small_slide, tiny_model

from wsi_espnet.batch import BatchResult, batch
from wsi_espnet.cohort.settings import BatchConfig, ClusterOptions, SegmentOptions
from wsi_espnet.errors import OutputError, ResumeError, UsageError
from wsi_espnet.locks import hold
from wsi_espnet.segment import segment

pytestmark = pytest.mark.slow

Batch = Callable[..., BatchResult]

SLIDES = 40
TORN, CUT, EMPTY, SCALELESS = 3, 11, 22, 30
"""Numbers of the slides that are wrong: no slide at all, cut off, 0 bytes, without mpp."""


def slide_of(folder: Path, number: int) -> Path:
    return folder / f"s{number:02}.svs"


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 slides of some windows, four of them wrong, and a network."""
    made = tmp_path_factory.mktemp("inputs")
    tiny_model(made / "tiny.safetensors", core_px=128)
    px = blobs(260, 340)
    whole = small_slide(made / "whole.svs", px)
    (made / "slides").mkdir()
    for number in range(SLIDES):
        path = slide_of(made / "slides", number)
        if number == SCALELESS:
            small_slide(path, px, mpp=None)
        elif number == TORN:
            path.write_bytes(b"this is no slide")
        elif number == CUT:
            path.write_bytes(whole.read_bytes()[: whole.stat().st_size // 3])
        elif number == EMPTY:
            path.touch()
        else:
            shutil.copy(whole, path)
    return made


def config_of(inputs: Path, **cluster: object) -> BatchConfig:
    return BatchConfig(
        segment=SegmentOptions(model=str(inputs / "tiny.safetensors")),
        cluster=ClusterOptions.model_validate({"workers": 2, **cluster}),
    )


@pytest.fixture(scope="module")
def on_dask(inputs: Path) -> Iterator[BatchConfig]:
    """Settings for workers that are running already: most of a short batch is the start of its own."""
    from distributed import LocalCluster

    how = {"host": "127.0.0.1", "dashboard_address": "127.0.0.1:0", "silence_logs": 50}
    with LocalCluster(n_workers=2, threads_per_worker=1, **how) as cluster:
        yield config_of(inputs, scheduler=cluster.scheduler_address)


@pytest.fixture(scope="module")
def single(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `segment` makes of a whole slide."""
    out = tmp_path_factory.mktemp("single") / "out"
    shutil.copy(inputs / "whole.svs", inputs / "s00.svs")
    segment(inputs / "s00.svs", out, model=inputs / "tiny.safetensors")
    return out


def test_forty_slides_four_of_them_wrong_then_mended(inputs: Path, single: Path, tmp_path: Path) -> None:
    slides, out = tmp_path / "slides", tmp_path / "out"
    shutil.copytree(inputs / "slides", slides)
    words = [slides, "-o", out, "--model", inputs / "tiny.safetensors", "--workers", 2]
    told = run_process("batch", *words)
    assert told.status == 1, told.err
    assert told.out.startswith("36 done, 4 failed\n")
    assert "4 of 40 slides failed" in told.err.splitlines()[-1]
    assert "dashboard: http://127.0.0.1:" in told.err
    with (out / "failures.csv").open() as file:
        failures = {row["name"]: row["cause"] for row in csv.DictReader(file)}
    said = {TORN: "does not know this format", CUT: "cut off", EMPTY: "empty (0 bytes)", SCALELESS: "--slide-mpp"}
    assert {f"s{number:02}" for number in said} == failures.keys()
    for number, words_said in said.items():
        assert words_said in failures[f"s{number:02}"]
        assert words_said in " ".join(told.out.split())  # the table folds it
    assert differing_files(out / "slides" / "s00", single) == []
    with (out / "summary.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == [f"s{number:02}" for number in range(SLIDES)]
    assert len({row["gland mm2"] for row in rows if row["state"] == "done"}) == 1
    assert (out / "index.html").read_text().count("<article") == SLIDES
    assert "failed after" in (out / "logs" / f"s{CUT:02}.log").read_text()
    assert not list(out.rglob("*.lock"))

    table = tmp_path / "mended.csv"
    for number in (TORN, CUT, EMPTY):
        shutil.copy(inputs / "whole.svs", slide_of(slides, number))
    lines = [f"slides/s{n:02}.svs,{'0.5' if n == SCALELESS else ''}" for n in range(SLIDES)]
    table.write_text("\n".join(["path,mpp", *lines]) + "\n")
    told = run_process("batch", table, *words[1:], "--json")
    assert told.status == 0, told.err
    assert '"tried": [\n    "s03",\n    "s11",\n    "s22",\n    "s30"\n  ]' in told.out
    assert '"done": 40' in told.out
    assert (out / "failures.csv").read_text() == "name,slide,attempts,cause\n"
    assert differing_files(out / "slides" / "s11" / "s11.ome.zarr" / "labels", single / "s00.ome.zarr" / "labels") == []


@pytest.fixture
def few(inputs: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "few"
    folder.mkdir()
    for number in range(3):
        shutil.copy(inputs / "whole.svs", slide_of(folder, number))
    return folder


def test_limit_and_shards_divide_the_slides_and_share_the_pages(
    on_dask: BatchConfig, few: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    first = batch([few], out, config=on_dask, shard=(1, 2), limit=1)
    assert first.tried == ("s00",)
    assert [row.state for row in first.rows] == ["done", "waiting"]
    assert batch([few], out, config=on_dask, shard=(2, 2)).tried == ("s01",)
    assert batch([few], out, config=on_dask, shard=(1, 2)).tried == ("s02",)
    names = [line.split(",")[0] for line in (out / "summary.csv").read_text().splitlines()]
    assert sorted(names) == ["name", "s00", "s01", "s02"]
    with pytest.raises(ResumeError, match="begun in 2 shards"):
        batch([few], out, config=on_dask)
    with pytest.raises(ResumeError, match="begun in 2 shards"):
        batch([few], out, config=on_dask, shard=(1, 3))
    status = run_process("batch", "status", out)
    assert status.status == 0
    assert status.out.splitlines()[-1] == "3 done; no batch runs"


def test_other_settings_are_refused_slide_by_slide_until_overwriting_is_allowed(
    on_dask: BatchConfig, few: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    batch([few], out, config=on_dask)
    other = on_dask.model_copy(update={"segment": on_dask.segment.model_copy(update={"halo": 48})})
    refused = batch([few], out, config=other)
    assert [row.state for row in refused.rows] == ["failed"] * 3
    assert "differs in blend, halo" in refused.rows[0].cause
    assert {row.state for row in batch([few], out, config=other, overwrite=True).rows} == {"done"}
    assert batch([few], out, config=other, overwrite=True).tried == ()


def test_a_slide_without_tissue_is_skipped_with_its_reason(on_dask: BatchConfig, few: Path, tmp_path: Path) -> None:
    glass = blobs(260, 340)
    glass[...] = 245
    small_slide(few / "glass.svs", glass)
    (few / "s01.svs").unlink()
    (few / "s02.svs").unlink()
    out = tmp_path / "out"
    made = batch([few], out, config=on_dask)
    assert {row.name: row.state for row in made.rows} == {"glass": "skipped", "s00": "done"}
    assert "no tissue was found" in made.rows[0].cause
    assert made.failures == ()
    again = batch([few], out, config=on_dask)
    assert again.tried == ()
    assert "no tissue was found" in again.rows[0].cause


def test_a_result_that_another_process_writes_fails_alone(on_dask: BatchConfig, few: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    busy = out / "slides" / "s01"
    busy.mkdir(parents=True)
    with hold(busy / "s01.lock", "no"):
        made = batch([few], out, config=on_dask)
    assert {row.name: row.state for row in made.rows} == {"s00": "done", "s01": "failed", "s02": "done"}
    assert "another process is writing to" in made.failures[0].cause


def test_a_result_that_cannot_be_written_fails_alone(on_dask: BatchConfig, few: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    (out / "slides").mkdir(parents=True)
    (out / "slides" / "s01").write_text("in the way", encoding="utf-8")
    made = batch([few], out, config=on_dask)
    assert {row.name: row.state for row in made.rows} == {"s00": "done", "s01": "failed", "s02": "done"}
    assert "cannot be written" in made.failures[0].cause


def test_a_batch_that_cannot_note_what_happens_ends_and_says_so(
    on_dask: BatchConfig, few: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "logs").write_text("in the way", encoding="utf-8")
    with pytest.raises(OutputError, match=r"logs.* cannot be written"):
        batch([few], out, config=on_dask)


def test_a_failed_slide_that_was_left_out_for_a_while_is_tried_again(
    on_dask: BatchConfig, few: Path, tmp_path: Path
) -> None:
    out, torn = tmp_path / "out", few / "torn.svs"
    torn.write_bytes(b"no slide")
    assert [row.name for row in batch([few], out, config=on_dask).failures] == ["torn"]
    # Without it there is nothing to do, and the pages say so too.
    assert batch(sorted(few.glob("s*.svs")), out, config=on_dask).tried == ()
    assert (out / "failures.csv").read_text().count("\n") == 1
    assert batch([few], out, config=on_dask).tried == ("torn",)


def test_files_are_found_from_any_folder(
    on_dask: BatchConfig, few: Path, inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The workers of a cluster have another working folder than the batch."""
    shutil.copy(inputs / "tiny.safetensors", tmp_path / "near.safetensors")
    Image.new("L", (34, 26), 255).save(tmp_path / "all.png")
    monkeypatch.chdir(tmp_path)
    near = {"model": "near.safetensors", "tissue": "all.png"}
    config = on_dask.model_copy(update={"segment": on_dask.segment.model_copy(update=near)})
    made = batch([few / "s00.svs"], "out", config=config)
    assert [(row.state, row.cause) for row in made.rows] == [("done", "")]


def test_two_batches_on_one_folder_refuse_each_other(inputs: Path, few: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    with hold(out / "batch.lock", "no"), pytest.raises(ResumeError, match="another batch is writing to"):
        batch([few], out, config=config_of(inputs))
    assert not (out / "ledger.sqlite").exists()


def test_a_dry_run_says_what_it_takes_and_writes_nothing(inputs: Path, few: Path, tmp_path: Path) -> None:
    (few / "torn.svs").write_bytes(b"no slide")
    said: Told = run_process(
        "batch", few, "-o", tmp_path / "out", "-m", inputs / "tiny.safetensors", "--dry-run", "--workers", 2
    )
    assert said.status == 0, said.err
    assert "3 slides to do of 4" in said.out
    assert "does not know this format" in " ".join(said.out.split())  # the table folds it
    assert "with 2 x 1 windows at once, 1.5 Mpx/s each (assumed" in said.out
    assert not (tmp_path / "out").exists()


def test_a_ledger_that_is_torn_is_said(inputs: Path, few: Path, tmp_path: Path) -> None:
    (tmp_path / "ledger.sqlite").write_text("torn, and no database of any kind, whatever its name says")
    run_process("batch", "status", tmp_path).assert_refused(1, "ledger.sqlite cannot be used")
    run_process("batch", "status", few).assert_refused(2, "no batch was begun in")
    with pytest.raises(sqlite3.DatabaseError), sqlite3.connect(tmp_path / "ledger.sqlite") as db:
        db.execute("SELECT 1 FROM slides")
    db.close()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["x.svs"], "--out OUT"),
        (["-o", "out"], "needs slides"),
        (["x.svs", "-o", "out", "--shard", "9"], "--shard is written i/n"),
        (["x.svs", "-o", "out", "--shard", "3/2"], "from 1 to n, got 3/2"),
        (["x.svs", "-o", "out", "--limit", "0"], "--limit must be 1 or more"),
        (["x.svs", "-o", "out", "-m", "absent"], "absent"),
        (["x.svs", "-o", "out", "--set", "cluster.kinds=slurm"], "no setting cluster.kinds"),
        (["x.svs", "-o", "out", "--cluster", "slurm"], "jobs of slurm need workers, threads, memory"),
        (["x.svs", "-o", "out", "--halo", "-8"], "segment.halo"),
        (["x.svs", "-o", "out", "--scheduler", "tcp://127.0.0.1:9"], "no Dask scheduler answers"),
    ],
)
def test_what_cannot_work_is_refused(tmp_path: Path, words: list[str], said: str) -> None:
    told = run_process("batch", *words, cwd=tmp_path)
    assert told.status in (1, 2)
    assert said in told.err.splitlines()[-1]
    assert "Traceback" not in told.err


def test_an_unknown_slide_fails_and_the_others_do_not(on_dask: BatchConfig, few: Path, tmp_path: Path) -> None:
    made = batch([few / "s00.svs", few / "absent.svs"], tmp_path / "out", config=on_dask)
    assert [row.state for row in made.rows] == ["done", "failed"]
    assert "no slide at" in made.rows[1].cause


def test_no_worker_is_said_in_time(inputs: Path, few: Path, tmp_path: Path) -> None:
    from distributed import LocalCluster

    with LocalCluster(n_workers=0, host="127.0.0.1", dashboard_address="127.0.0.1:0") as idle:
        config = config_of(inputs, scheduler=idle.scheduler_address, patience_s=1.0)
        with pytest.raises(UsageError, match="has no worker after 1 s"):
            batch([few], tmp_path / "out", config=config)


@pytest.mark.parametrize("others", [True, False], ids=["others read", "its own threads read"])
def test_the_network_runs_where_the_gpus_are(
    inputs: Path, few: Path, single: Path, tmp_path: Path, others: bool
) -> None:
    """The device itself is the CPU here: what is tested is which worker is given what."""
    from distributed import Client, Nanny, Scheduler, SpecCluster

    how = {"nthreads": 2, "memory_limit": 0, "host": "127.0.0.1", "dashboard": False, "silence_logs": 50}
    workers = {"gpu": {"cls": Nanny, "options": {**how, "resources": {"GPU": 1}}}}
    if others:
        workers["reader"] = {"cls": Nanny, "options": how}
    address = {"host": "127.0.0.1", "dashboard_address": "127.0.0.1:0"}
    scheduler = {"cls": Scheduler, "options": address}
    with (
        SpecCluster(workers=workers, scheduler=scheduler, silence_logs=50) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        client.wait_for_workers(len(workers))
        client.get_task_stream()
        batch([few / "s00.svs"], tmp_path / "out", config=config_of(inputs, scheduler=cluster.scheduler_address))
        stream = client.get_task_stream()
        names = {address: facts["id"] for address, facts in client.scheduler_info(n_workers=-1)["workers"].items()}
    assert differing_files(tmp_path / "out" / "slides" / "s00", single) == []
    ran = {(str(task["key"]).lstrip("('").split("'")[0], names[task["worker"]]) for task in stream}
    assert {worker for kind, worker in ran if kind == "windows"} == {"gpu"}
    assert bool({worker for kind, worker in ran if kind == "read"}) is others
