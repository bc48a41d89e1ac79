"""What a run folder may be, and what is noted in it."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import torch
from PIL import Image

from wsi_espnet.errors import ResumeError
from wsi_espnet.settings import parse
from wsi_espnet.training.config import TrainConfig
from wsi_espnet.training.pictures import draw_curves
from wsi_espnet.training.run_folder import RunFolder, commit, environment, read_rows, write_rows

VALUES = {"name": "a", "data": {"adapter": "camvid"}, "augment": {"crop_px": [64, 64]}, "run": {"epochs": 3}}


def settings(**run: object) -> TrainConfig:
    return parse(TrainConfig, {**VALUES, "run": {"epochs": 3, **run}}, "test")


def test_looking_at_a_folder_writes_nothing(tmp_path: Path) -> None:
    RunFolder(tmp_path / "run", settings()).ensure_free(overwrite=False)
    assert not (tmp_path / "run").exists()


def test_a_run_may_be_continued_with_more_loader_processes_and_nothing_else(tmp_path: Path) -> None:
    RunFolder(tmp_path, settings()).begin("a test", overwrite=False)
    RunFolder(tmp_path, settings(workers=8)).ensure_free(overwrite=False)
    with pytest.raises(ResumeError, match=r"with other settings \(run\.batch, run\.epochs\)"):
        RunFolder(tmp_path, settings(epochs=4, batch=3)).ensure_free(overwrite=False)
    RunFolder(tmp_path, settings(epochs=4)).ensure_free(overwrite=True)


def test_damaged_settings_are_said(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"name": ')
    with pytest.raises(ResumeError, match=r"config\.json is damaged"):
        RunFolder(tmp_path, settings()).ensure_free(overwrite=False)


def test_only_a_run_is_replaced_and_then_all_of_it(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run", settings())
    folder.begin("one", overwrite=True)
    folder.log.write_text("old")
    folder.begin("two", overwrite=False)
    assert folder.log.exists()
    folder.begin("three", overwrite=True)
    assert not folder.log.exists()
    assert json.loads((folder.folder / "environment.json").read_text())["command"] == "three"
    assert list(tmp_path.iterdir()) == [folder.folder]


def test_replacing_a_run_behind_a_link_keeps_the_link(tmp_path: Path) -> None:
    (tmp_path / "large").mkdir()
    link = tmp_path / "run"
    link.symlink_to(tmp_path / "large")
    folder = RunFolder(link, settings())
    folder.begin("one", overwrite=False)
    folder.log.write_text("old")
    folder.begin("two", overwrite=True)
    assert link.is_symlink()
    assert {path.name for path in (tmp_path / "large").iterdir()} == {"config.json", "environment.json"}
    assert sorted(tmp_path.iterdir()) == [tmp_path / "large", link]


def test_the_environment_names_what_it_ran_on() -> None:
    told = environment("a test")
    assert told["packages"]["torch"] == torch.__version__  # type: ignore[index]
    head = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
    )
    if head.returncode:
        pytest.skip("needs a git checkout, which this is not")
    assert (commit() or "").rstrip("+") == head.stdout.strip()


def test_numbers_survive_the_csv_to_the_last_bit(tmp_path: Path) -> None:
    rows = [{"step": 1, "loss": 1 / 3, "mIoU": ""}, {"step": 2, "loss": 1e-300, "mIoU": 0.1 + 0.2}]
    write_rows(tmp_path / "log.csv", rows)
    found = read_rows(tmp_path / "log.csv")
    assert [float(row["loss"]) for row in found] == [1 / 3, 1e-300]
    assert [row["mIoU"] for row in found] == ["", repr(0.1 + 0.2)]
    write_rows(tmp_path / "again.csv", found)
    assert (tmp_path / "again.csv").read_bytes() == (tmp_path / "log.csv").read_bytes()
    assert read_rows(tmp_path / "absent.csv") == []


def test_curves_are_drawn_with_and_without_scores(tmp_path: Path) -> None:
    row = {"epoch": "1", "loss": "0.5", "mIoU": "", "IoU sky": "", "IoU road": ""}
    draw_curves([row], tmp_path / "none.png")
    draw_curves([row, row | {"epoch": "2", "mIoU": "0.5", "IoU sky": "0.6"}], tmp_path / "some.png")
    none, some = (Image.open(tmp_path / name).convert("L").histogram() for name in ("none.png", "some.png"))
    assert none != some
