"""`wsi-espnet train` as it is typed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from wsi_espnet.cli.main import app
from wsi_espnet.errors import DependencyError, UsageError
from wsi_espnet.train import train
from wsi_espnet.training import extra
from wsi_espnet.training.callbacks import TrainProgress
from wsi_espnet.training.config import read_config
from wsi_espnet.training.run_folder import read_rows

SETTINGS = """
name = "small"
[data]
adapter = "camvid"
[model]
p = 0
q = 0
[augment]
crop_px = [16, 24]
[run]
epochs = 2
batch = 2
ema = 0.0
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for kind, high, shape in (("", 256, (24, 32, 3)), ("annot", 3, (24, 32))):
            (tmp_path / "data" / f"{split}{kind}").mkdir(parents=True)
            for name in ("a", "b"):
                px = rng.integers(0, high, shape, dtype=np.uint8)
                Image.fromarray(px).save(tmp_path / "data" / f"{split}{kind}" / f"{name}.png")
    (tmp_path / "small.toml").write_text(SETTINGS)
    return tmp_path


def test_results_go_to_stdout_and_nothing_else_does(folder: Path) -> None:
    arguments = ["train", "small.toml", "--data", "data", "--set", "run.epochs=1", "--json"]
    command = "from wsi_espnet.cli.main import run; run()"
    done = subprocess.run(
        [sys.executable, "-c", command, *arguments], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["model"] == "runs/small/small.safetensors"
    assert told["epoch"] == 1
    assert "Traceback" not in done.stderr
    assert "Warning" not in done.stderr
    config = json.loads((folder / "runs/small/config.json").read_text())
    assert config["run"]["epochs"] == 1
    assert "--set run.epochs=1" in json.loads((folder / "runs/small/environment.json").read_text())["command"]


def test_mistakes_are_told_before_anything_is_written(folder: Path) -> None:
    out = folder / "out"
    for changes, said in (
        (["--set", "run.epoch=1"], "there is no setting run.epoch"),
        ([], "not said; give it as --data"),
        (["--data", str(folder / "absent")], "absent"),
    ):
        done = CliRunner().invoke(app, ["train", str(folder / "small.toml"), "-o", str(out), *changes])
        assert done.exception is not None
        assert said in str(done.exception)
        assert not out.exists()


def test_a_missing_extra_is_one_sentence(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extra, "PACKAGES", ("torch", "lightning_that_is_absent"))
    done = CliRunner().invoke(app, ["train", str(folder / "small.toml")])
    assert isinstance(done.exception, DependencyError)
    assert str(done.exception) == "training needs lightning_that_is_absent: pip install 'wsi-espnet[train]'"
    assert not isinstance(done.exception, UsageError)


@pytest.mark.slow
def test_two_processes_train_together_and_one_of_them_speaks(folder: Path) -> None:
    script = folder / "run.py"  # Lightning starts the second process from the file of the first
    script.write_text("from wsi_espnet.cli.main import run\nrun()\n")
    settings = ["run.devices=2", "run.device=cpu", "run.batch=1", "run.threads=1"]
    arguments = ["train", "small.toml", "--data", "data", "--json", *(x for s in settings for x in ("--set", s))]
    done = subprocess.run(
        [sys.executable, str(script), *arguments], cwd=folder, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["folder"] == "runs/small"
    steps = read_rows(folder / "runs/small/steps.csv")
    assert [(row["step"], row["epoch"]) for row in steps] == [("1", "1"), ("2", "2")]


def test_an_interrupted_run_says_so_and_goes_on(folder: Path) -> None:
    config = read_config(folder / "small.toml", data=folder / "data")

    def interrupt(progress: TrainProgress) -> None:
        if progress.epoch == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(config, folder / "run", command="a test", progress=interrupt)
    steps: list[int] = []
    result = train(config, folder / "run", command="a test", progress=lambda p: steps.append(p.step))
    assert steps == [2]
    assert len(read_rows(result.folder / "log.csv")) == 2
