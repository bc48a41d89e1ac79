"""Disks that are full or read-only: one sentence, and a run that goes on when the disk is mended."""

from __future__ import annotations

import resource
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from small import Call, Told, differing_files, files_below, run_process


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of its own, of 10 MB, which can be filled and made read-only."""
    place = tmp_path / "disk"
    place.mkdir()
    if mount("-t", "tmpfs", "-o", "size=10m", "tmpfs", str(place)) != 0:
        pytest.skip("needs a disk that can be filled, and mounting one is not allowed here")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def mount(*words: str) -> int:
    return subprocess.run(["mount", *words], capture_output=True, check=False).returncode


def words(bench: Path, out: Path, *options: str) -> tuple[object, ...]:
    """Of a `segment` command."""
    return "segment", bench / "slide.svs", "-o", out, "-m", bench / "tiny.safetensors", *options


def assert_one_sentence(told: Told, *wanted: str) -> None:
    """At the end of what was said, after the notes of a run that had started."""
    assert told.status == 1, told.err
    assert told.out == ""
    assert "Traceback" not in told.err
    *notes, last = told.err.splitlines()
    assert last.startswith("error: ")
    assert [word for word in wanted if word not in last] == [], last
    assert not any("error" in note.lower() for note in notes), told.err


def test_a_full_disk_is_said_in_one_sentence_and_the_run_goes_on_when_there_is_room(
    bench: Path, disk: Path, tmp_path: Path, wsi_espnet: Call
) -> None:
    assert wsi_espnet(*words(bench, tmp_path / "quiet", "--probabilities")).status == 0
    again = words(bench, disk / "out", "--probabilities")
    for size in ("40k", "400k", "1200k", "1800k"):
        assert mount("-o", f"remount,size={size}", str(disk)) == 0
        assert_one_sentence(wsi_espnet(*again), "No space left on device", "run again")
    assert mount("-o", "remount,size=2200k", str(disk)) == 0
    assert_one_sentence(run_process(*again), "No space left on device", "run again")
    assert mount("-o", "remount,size=10m", str(disk)) == 0
    assert wsi_espnet(*again).status == 0
    assert differing_files(disk / "out", tmp_path / "quiet") == []


def test_a_read_only_disk_is_said_in_one_sentence_and_keeps_its_result(
    bench: Path, disk: Path, wsi_espnet: Call
) -> None:
    assert wsi_espnet(*words(bench, disk / "out")).status == 0
    before = files_below(disk)
    assert mount("-o", "remount,ro", str(disk)) == 0
    for command in (
        words(bench, disk / "out", "--overwrite"),
        words(bench, disk / "new"),
        ("tile", bench / "slide.svs", "-o", disk / "x.ome.zarr"),
    ):
        wsi_espnet(*command).assert_refused(1, "Read-only file system", str(disk))
    assert files_below(disk) == before


def test_a_file_that_may_not_grow_is_said_in_one_sentence(bench: Path, tmp_path: Path) -> None:
    """As a full disk, where none can be mounted: files end at 4 kB."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))

    assert_one_sentence(run_process(*words(bench, tmp_path / "out"), preexec_fn=limit), "File too large")
