"""Settings of a run: what a file may say, and what is said about mistakes in it."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from wsi_espnet.cli.values import options_of
from wsi_espnet.errors import UsageError
from wsi_espnet.training.config import TrainConfig, read_config

PIPELINES = Path(__file__).resolve().parents[2] / "pipelines"

MINIMAL = """
name = "small"
[data]
adapter = "camvid"
[augment]
crop_px = [64, 96]
[run]
epochs = 3
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "small.toml"
    path.write_text(MINIMAL)
    return path


def test_the_rest_has_defaults_and_nothing_can_be_changed_later(file: Path) -> None:
    config = read_config(file)
    assert config.augment.crop_px == (64, 96)
    assert config.model.network(11).classes == 11
    assert config.data.validation == "val"
    with pytest.raises(ValidationError):
        config.run.epochs = 4  # type: ignore[misc]


def test_changes_are_typed_as_in_toml_and_may_make_tables(file: Path) -> None:
    changes = [
        "run.epochs=7",
        "optimiser.learning_rate = 2e-3",
        "data.cache=true",
        "augment.scale=[0.7, 1.4]",
        "model.architecture=espnet-c",
        'card.terms="research only"',
        "data.options.grade=false",
        "loss.distill.teacher=large.safetensors",
    ]
    config = read_config(file, data="elsewhere", changes=options_of(changes))
    assert config.run.epochs == 7
    assert config.optimiser.learning_rate == 0.002
    assert config.data.cache is True
    assert config.augment.scale == (0.7, 1.4)
    assert config.model.architecture == "espnet-c"
    assert config.card.terms == "research only"
    assert config.data.options == {"grade": False}
    assert config.data.root == Path("elsewhere")
    assert config.loss.distill is not None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("run.epoch=7", "there is no setting run.epoch"),
        ("runs.epochs=7", "there is no setting runs"),
        ("run.epochs=many", "run.epochs: .* got 'many'"),
        ("run.epochs=0", "run.epochs: .* got 0"),
        ("run.epochs", "written key=value, .* got 'run.epochs'"),
        ("run..epochs=1", "written key=value"),
        ("=1", "written key=value"),
        ("name.first=x", "name is a value, not a table"),
        ("model.architecture=segnet", "model.architecture: .*'espnet-c', 'espnet', .*'unet' or 'efficientnet-lite'"),
        ("model.unit=vgg", "model.unit: .*'mobilenet', 'shufflenet' or 'resnet'"),
        ("augment.crop_px=[60, 64]", r"augment.crop_px.0: .*multiple of 8.* got 60"),
        ("optimiser.betas=[0.9, 1.0]", "optimiser.betas.1: .* got 1.0"),
        ("augment.scale=[2, 1]", "augment: scale must be"),
        ("augment.jpeg_quality=[90, 30]", "augment: jpeg_quality must be"),
        ("augment.gamma=0.5", "augment.gamma: .* got 0.5"),
        ("augment.pose=true", r"augment: pose .* square crop_px, got \(64, 96\)"),
        ("optimiser.learning_rate=nan", "optimiser.learning_rate: .* got nan"),
        ("encoder_stage={epochs = 3, batc = 1}", "there is no setting encoder_stage.batc"),
    ],
)
def test_a_wrong_change_is_named(file: Path, change: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        read_config(file, changes=options_of([change]))


def test_a_pspnet_needs_two_images_at_once(file: Path) -> None:
    pspnet = "model.architecture=pspnet"
    assert read_config(file, changes=options_of([pspnet, "run.batch=2"])).model.architecture == "pspnet"
    with pytest.raises(UsageError, match=r"a pspnet normalises one px .* needs run\.batch of 2 or more"):
        read_config(file, changes=options_of([pspnet, "run.batch=1"]))


def test_nesterov_needs_a_momentum(file: Path) -> None:
    changes = ["optimiser.name=sgd", "optimiser.nesterov=true"]
    assert read_config(file, changes=options_of(changes)).optimiser.nesterov
    with pytest.raises(UsageError, match="optimiser: nesterov needs a momentum above 0"):
        read_config(file, changes=options_of([*changes, "optimiser.momentum=0"]))


def test_two_stages_need_a_decoder_and_their_own_start(file: Path) -> None:
    stage = "encoder_stage.epochs=3"
    assert read_config(file, changes=options_of([stage])).encoder_stage is not None
    for change in ("model.architecture=encoder", "model.init=a.safetensors"):
        with pytest.raises(UsageError, match=r"needs that architecture and no model\.init"):
            read_config(file, changes=options_of([stage, change]))


def test_what_is_missing_or_no_toml_is_said(file: Path, tmp_path: Path) -> None:
    file.write_text(MINIMAL.replace("epochs = 3", ""))
    with pytest.raises(UsageError, match=r"small\.toml: the setting run\.epochs is missing"):
        read_config(file)
    file.write_text("name = ")
    with pytest.raises(UsageError, match=r"small\.toml is not TOML"):
        read_config(file)
    with pytest.raises(UsageError, match=r"cannot read the settings .*absent\.toml"):
        read_config(tmp_path / "absent.toml")


def test_settings_survive_being_written_and_read(file: Path) -> None:
    config = read_config(
        file,
        changes={"loss.class_weights": [1, 2.5], "model.normalisation": {"mean": [1, 2, 3], "std": [4, 5, 6]}},
    )
    assert TrainConfig.model_validate_json(config.model_dump_json()) == config


TRAINING = sorted(path for path in PIPELINES.glob("*.toml") if not path.stem.startswith(("batch-", "steps-")))


@pytest.mark.parametrize("path", TRAINING, ids=lambda path: path.stem)
def test_the_pipelines_are_valid(path: Path) -> None:
    config = read_config(path)
    assert config.card.summary
    assert config.card.terms != "not stated"


def test_there_is_a_pipeline_for_each_kind_of_data() -> None:
    wanted = {"breast", "camvid", "camvid-espnet-authors", "cityscapes", "glas", "mapillary", "voc"}
    assert wanted <= {path.stem for path in PIPELINES.glob("*.toml")}
