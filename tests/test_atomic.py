from __future__ import annotations

import errno
from pathlib import Path

import pytest

from wsi_espnet.atomic import output_errors, remove_partials, write_bytes_atomic
from wsi_espnet.errors import OutputError, SlideReadError


def test_a_file_is_written_with_the_folders_above_it_and_replaced(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "areas.csv"
    for data in (b"one", b""):
        write_bytes_atomic(path, data)
        assert path.read_bytes() == data
    assert [p.name for p in path.parent.iterdir()] == ["areas.csv"]


def test_a_failed_write_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "areas.csv"
    write_bytes_atomic(path, b"before")

    def full(self: Path, data: bytes) -> int:
        with self.open("wb") as file:
            file.write(data[:1])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OutputError, match=r"areas\.csv cannot be written: No space left on device; free some"):
        write_bytes_atomic(path, b"after")
    assert path.read_bytes() == b"before"
    assert [p.name for p in tmp_path.iterdir()] == ["areas.csv"]


def test_a_file_in_the_way_of_a_folder_is_an_output_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot be written"):
        write_bytes_atomic(tmp_path / "file" / "areas.csv", b"")


def test_only_partial_files_are_removed(tmp_path: Path) -> None:
    (tmp_path / "c").mkdir()
    for name in ("c/0.123.partial", "c/0", "zarr.json"):
        (tmp_path / name).touch()
    remove_partials(tmp_path)
    assert sorted(p.name for p in tmp_path.rglob("*") if p.is_file()) == ["0", "zarr.json"]


def test_errors_that_are_ours_already_pass_unchanged(tmp_path: Path) -> None:
    with pytest.raises(SlideReadError, match=r"^bad tile$"), output_errors(tmp_path):
        raise SlideReadError("bad tile")
