"""A model with new statistics: what changes in its file, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small import tiny_model
from typer.testing import CliRunner

from wsi_espnet.cli.main import app
from wsi_espnet.errors import OutputError, UsageError
from wsi_espnet.evaluate import evaluate
from wsi_espnet.measure import measure
from wsi_espnet.models.catalog import class_table
from wsi_espnet.models.weights import load_model
from wsi_espnet.training.config import TrainConfig, read_config

SETTINGS = """
name = "small"
[data]
adapter = "camvid"
[augment]
crop_px = [32, 48]
[run]
epochs = 1
batch = 2
"""


@pytest.fixture
def streets(tmp_path: Path) -> Path:
    """A folder with noise as CamVid, three images of each split, and settings."""
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for kind, high, shape in (("", 256, (40, 56, 3)), ("annot", 12, (40, 56))):
            (tmp_path / "data" / f"{split}{kind}").mkdir(parents=True)
            for name in "abc":
                px = rng.integers(0, high, shape, dtype=np.uint8)
                Image.fromarray(px).save(tmp_path / "data" / f"{split}{kind}" / f"{name}.png")
    (tmp_path / "small.toml").write_text(SETTINGS)
    return tmp_path


def settings(streets: Path, **changes: object) -> TrainConfig:
    return read_config(streets / "small.toml", data=streets / "data", changes=changes)


def test_statistics_and_scores_are_new_and_all_else_is_as_it_was(streets: Path) -> None:
    model = tiny_model(streets / "tiny.safetensors", classes=class_table("camvid11"))
    seen: list[tuple[int, int]] = []
    done = measure(
        model,
        settings(streets),
        streets / "measured.safetensors",
        command="a test",
        steps=4,  # an epoch has one
        progress=lambda *progress: seen.append(progress),
    )
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
    before, after = load_model(model), load_model(done.model)
    changed = {
        key.rsplit(".", 1)[-1]
        for key, tensor in after.module.state_dict().items()
        if not torch.equal(tensor, before.module.state_dict()[key])
    }
    assert changed == {"running_mean", "running_var", "num_batches_tracked"}
    scores = evaluate(done.model, "camvid", data=streets / "data", split="val", device="cpu").scores
    assert done.miou == scores.means["mIoU"]
    assert after.card.scores["mIoU"] == round(done.miou, 4)
    assert (
        after.card.source
        == f"{before.card.source}; batch normalisation measured, and scored on the 3 images of val, by: a test"
    )
    again = measure(model, settings(streets), streets / "again.safetensors", command="a test", steps=4)
    assert again.model.read_bytes() == done.model.read_bytes()
    other = measure(
        model, settings(streets, **{"run.seed": 1}), streets / "other.safetensors", command="a test", steps=4
    )
    assert other.model.read_bytes() != done.model.read_bytes()


def test_no_batches_other_classes_and_files_that_are_there_are_refused(streets: Path) -> None:
    model = tiny_model(streets / "tiny.safetensors", classes=class_table("camvid11"))
    with pytest.raises(OutputError, match="exists"):
        measure(model, settings(streets), model, command="a test")
    with pytest.raises(UsageError, match="at least one batch of crops, got steps = 0"):
        measure(model, settings(streets), streets / "x.safetensors", command="a test", steps=0)
    tissue = tiny_model(streets / "tissue.safetensors")
    with pytest.raises(UsageError, match=r"tiny knows glass, .* has sky, .*; they must be the same"):
        measure(tissue, settings(streets), streets / "x.safetensors", command="a test")
    assert not (streets / "x.safetensors").exists()


def test_as_it_is_typed(streets: Path) -> None:
    model = tiny_model(streets / "tiny.safetensors", classes=class_table("camvid11"))
    out = streets / "measured.safetensors"
    given = f"{model} {streets}/small.toml --data {streets}/data --set run.seed=2 --steps 2 -o {out}"
    told = CliRunner().invoke(app, ["models", "measure", *given.split()])
    assert told.exit_code == 0, told.output
    assert told.stdout.startswith(f"{out}  mIoU 0.")
    assert load_model(out).card.scores["mIoU"] > 0
