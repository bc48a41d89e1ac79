"""The training job as a whole: what a run leaves, going on with it, and that it learns."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from wsi_espnet.errors import ResumeError, UsageError
from wsi_espnet.models.importer import import_pth
from wsi_espnet.models.network_config import EspNetConfig
from wsi_espnet.models.weights import load_model, save_model
from wsi_espnet.settings import parse
from wsi_espnet.train import TrainResult, train
from wsi_espnet.training.callbacks import TrainProgress
from wsi_espnet.training.config import TrainConfig, read_config
from wsi_espnet.training.run_folder import read_rows

SMALL: dict[str, Any] = {
    "name": "small",
    "data": {"adapter": "camvid"},
    "model": {"p": 0, "q": 1},
    "augment": {"crop_px": [48, 64], "brightness": 0.2, "hue": 0.05},
    "loss": {"auxiliary": 0.4, "dice": 0.5},
    "schedule": {"name": "cosine", "warm_up_epochs": 1},
    "run": {"epochs": 3, "batch": 2, "accumulate": 2, "repeats": 2, "threads": 1, "ema": 0.99, "pictures": 2},
    "card": {"terms": "research", "summary": "a test"},
}


PIPELINES = Path(__file__).resolve().parents[1] / "pipelines"


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """One thread, because the order of sums and with it the last bit depends on their number."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def streets(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four crops of real CamVid images with their labels for training, two for validation."""
    return cut_out(shared, tmp_path_factory.mktemp("camvid"), (100, 130, 292, 258))


def cut_out(shared: Path, root: Path, box: tuple[int, int, int, int]) -> Path:
    source = shared / "data" / "camvid"
    for split, count in (("train", 4), ("val", 2)):
        for path in sorted((source / split).iterdir())[: count * 20 : 20]:
            for folder in (split, f"{split}annot"):
                (root / folder).mkdir(exist_ok=True)
                with Image.open(next((source / folder).glob(f"{path.stem}.*"))) as image:
                    image.crop(box).save(root / folder / f"{path.stem}.png")
    return root


def picture(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def config(root: Path, **changes: dict[str, Any]) -> TrainConfig:
    """The small settings; a section that is given is merged with its own."""
    values = {**SMALL, "data": {**SMALL["data"], "root": str(root)}}
    values |= {name: {**values.get(name, {}), **section} for name, section in changes.items()}
    return parse(TrainConfig, values, "test")


def run(root: Path, out: Path, **changes: dict[str, Any]) -> TrainResult:
    return train(config(root, **changes), out, command="a test")


@pytest.fixture(scope="module")
def quiet(streets: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainResult:
    """An undisturbed run."""
    torch.set_num_threads(1)
    return run(streets, tmp_path_factory.mktemp("quiet") / "run")


def test_a_run_leaves_settings_logs_pictures_checkpoints_and_a_model_with_its_card(
    quiet: TrainResult, streets: Path
) -> None:
    folder = quiet.folder
    assert TrainConfig.model_validate_json((folder / "config.json").read_text()) == config(streets)
    told = json.loads((folder / "environment.json").read_text())
    assert told["command"] == "a test"
    assert told["packages"]["torch"] == torch.__version__
    log = read_rows(folder / "log.csv")
    assert [row["epoch"] for row in log] == ["1", "2", "3"]
    assert [row["step"] for row in read_rows(folder / "steps.csv")] == [str(n) for n in range(1, 7)]
    assert list((folder / "tensorboard").glob("events.*"))
    assert picture(folder / "curves.png").shape == (400, 1000, 4)
    assert picture(folder / "predictions.png").shape == (2 * 324, 3 * 484, 3)
    assert (folder / "checkpoints/last.ckpt").is_file()
    assert (folder / "checkpoints/best.ckpt").is_file()
    best = max(log, key=lambda row: float(row["mIoU"]))
    assert (quiet.epoch, quiet.miou) == (int(best["epoch"]), float(best["mIoU"]))
    card = load_model(quiet.model).card
    assert card.name == "small"
    assert card.terms == "research"
    assert card.scores["mIoU"] == pytest.approx(quiet.miou, abs=1e-4)
    assert card.split == "trained on the 4 images of train; selected and scored on the 2 of val"
    assert card.source.startswith("a test; from random weights; seed 0, epoch")


def test_the_kept_model_has_the_score_that_its_card_tells(quiet: TrainResult, streets: Path) -> None:
    model = load_model(quiet.model)
    confusion = np.zeros((11, 11), np.int64)
    for path in sorted((streets / "val").iterdir()):
        pixels = torch.from_numpy(model.card.normalisation.apply(picture(path)))[None]
        with torch.no_grad():
            predicted = model.module(pixels)[0].argmax(dim=0).numpy()
        truth = picture(streets / "valannot" / path.name)
        np.add.at(confusion, (truth[truth < 11], predicted[truth < 11]), 1)
    either = confusion.sum(0) + confusion.sum(1) - confusion.diagonal()
    assert quiet.miou == pytest.approx(np.mean(confusion.diagonal()[either > 0] / either[either > 0]), abs=1e-9)


CUT = """
import os, signal, sys
import torch
from wsi_espnet.train import train
from wsi_espnet.training.config import TrainConfig
def progress(p):
    if p.step == int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)
train(TrainConfig.model_validate_json(sys.argv[1]), sys.argv[2], command="a test", progress=progress)
"""


@pytest.mark.parametrize("step", [1, 5])
def test_a_killed_run_goes_on_to_the_same_bits(quiet: TrainResult, streets: Path, tmp_path: Path, step: int) -> None:
    out = tmp_path / "cut"
    arguments = [config(streets).model_dump_json(), str(out), str(step)]
    done = subprocess.run([sys.executable, "-c", CUT, *arguments], check=False, capture_output=True, timeout=120)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert (out / "checkpoints/last.ckpt").is_file() == (step > 2)
    again = run(streets, out)
    for name in ("log.csv", "steps.csv", "small.safetensors"):
        assert (out / name).read_bytes() == (quiet.folder / name).read_bytes(), name
    assert again.miou == quiet.miou
    one, other = (torch.load(f / "checkpoints/last.ckpt", weights_only=True) for f in (out, quiet.folder))
    assert one["state_dict"].keys() == other["state_dict"].keys()
    assert all(torch.equal(tensor, other["state_dict"][key]) for key, tensor in one["state_dict"].items())


def test_a_finished_run_is_told_again_and_not_repeated(quiet: TrainResult, streets: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in quiet.folder.glob("*.safetensors")}
    steps: list[int] = []
    again = train(config(streets), quiet.folder, command="a test", progress=lambda p: steps.append(p.step))
    assert again == quiet
    assert steps == []
    assert {path: path.stat().st_mtime_ns for path in quiet.folder.glob("*.safetensors")} == before


def test_neither_loader_processes_nor_a_cache_change_a_bit(quiet: TrainResult, streets: Path, tmp_path: Path) -> None:
    other = run(streets, tmp_path / "run", run={"workers": 2}, data={"cache": True})
    assert (other.folder / "steps.csv").read_bytes() == (quiet.folder / "steps.csv").read_bytes()
    assert other.model.read_bytes() == quiet.model.read_bytes()


def test_a_second_run_is_refused_while_the_first_is_training(streets: Path, tmp_path: Path) -> None:
    once = config(streets, run={"epochs": 1, "accumulate": 1, "repeats": 1})
    asked = []

    def ask(progress: TrainProgress) -> None:
        for overwrite in (False, True):
            with pytest.raises(ResumeError, match=r"another process is writing to .*run; wait until it has ended"):
                train(once, tmp_path / "run", command="a test", overwrite=overwrite)
        asked.append(progress.step)

    assert train(once, tmp_path / "run", command="a test", progress=ask).model.is_file()
    assert asked == [1, 2]
    assert list(tmp_path.iterdir()) == [tmp_path / "run"]


def test_other_settings_in_the_same_folder_are_refused_by_name(quiet: TrainResult, streets: Path) -> None:
    with pytest.raises(ResumeError, match=r"other settings \(loss\.dice, run\.seed\).*--overwrite"):
        run(streets, quiet.folder, run={"seed": 1}, loss={"dice": 0.0})


def test_a_folder_of_something_else_is_refused_even_with_overwrite(streets: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(ResumeError, match="is no training run"):
        train(config(streets), tmp_path, command="a test", overwrite=True)
    assert (tmp_path / "thesis.tex").exists()


def test_overwrite_starts_anew(streets: Path, tmp_path: Path) -> None:
    once = {"epochs": 1, "accumulate": 1, "repeats": 1}
    run(streets, tmp_path / "run", run=once)
    fresh = train(config(streets, run={**once, "seed": 3}), tmp_path / "run", command="a test", overwrite=True)
    assert len(read_rows(fresh.folder / "log.csv")) == 1
    assert json.loads((fresh.folder / "config.json").read_text())["run"]["seed"] == 3


def test_two_stages_put_a_decoder_on_a_trained_encoder(streets: Path, tmp_path: Path) -> None:
    once = {"epochs": 1, "accumulate": 1, "repeats": 1, "ema": 0.0}
    result = run(streets, tmp_path / "run", run=once, encoder_stage={"epochs": 2, "batch": 4})
    encoder = load_model(result.folder / "encoder" / "small-encoder.safetensors").card
    card = load_model(result.model).card
    assert (encoder.network.architecture, card.network.architecture) == ("espnet-c", "espnet")
    assert len(read_rows(result.folder / "encoder" / "log.csv")) == 2
    assert "from the encoder of small-encoder" in card.source
    assert card.normalisation == encoder.normalisation


def test_a_student_learns_from_a_teacher(quiet: TrainResult, streets: Path, tmp_path: Path) -> None:
    taught = {"distill": {"teacher": str(quiet.model), "logits": 1.0, "pairwise": 1.0}}
    once = {"epochs": 1, "accumulate": 1, "repeats": 1}
    alone = run(streets, tmp_path / "alone", run=once)
    student = run(streets, tmp_path / "taught", run=once, loss=taught)
    losses = [float(read_rows(r.folder / "steps.csv")[0]["loss"]) for r in (alone, student)]
    assert losses[1] > losses[0]
    assert load_model(student.model).card.network == load_model(alone.model).card.network
    dark = {"augment": {"gamma": 4.0}, "run": once}
    shown = [
        run(streets, tmp_path / f"plain {plain}", loss={"distill": taught["distill"] | {"plain": plain}}, **dark)
        for plain in (False, True)
    ]
    losses = [float(read_rows(r.folder / "steps.csv")[0]["loss"]) for r in shown]
    assert losses[0] != losses[1]


def test_a_teacher_may_know_more_classes_but_no_fewer(shared: Path, streets: Path, tmp_path: Path) -> None:
    weights = shared / "data/weights/espnet/decoder"
    once = {"epochs": 1, "accumulate": 1, "repeats": 1}
    for name in ("espnet_p_2_q_8_camvid", "espnet_p_2_q_8"):  # 12 classes, the last of them void; Cityscapes
        save_model(tmp_path / f"{name}.safetensors", *import_pth(weights / f"{name}.pth", name=name))
    taught = {"distill": {"teacher": str(tmp_path / "espnet_p_2_q_8_camvid.safetensors"), "pairwise": 1.0}}
    assert run(streets, tmp_path / "taught", run=once, loss=taught).model.is_file()
    wrong = {"distill": {"teacher": str(tmp_path / "espnet_p_2_q_8.safetensors")}}
    with pytest.raises(UsageError, match="the teacher espnet_p_2_q_8 does not know pavement, tree, sign"):
        run(streets, tmp_path / "wrong", run=once, loss=wrong)


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ({"architecture": "enet"}, "enet, 11 classes"),
        ({"architecture": "esp-psp"}, "esp-psp, 11 classes"),
        ({"architecture": "espnet-c-units", "unit": "resnet", "p": 1, "q": 1}, "of resnet, p 1, q 1, 11 classes"),
    ],
)
def test_networks_of_the_comparison_are_trained_the_same_way(
    streets: Path, tmp_path: Path, model: dict[str, Any], said: str
) -> None:
    done = run(streets, tmp_path / "run", model=model, run={"epochs": 1, "accumulate": 1, "repeats": 1})
    assert str(load_model(done.model).card.network).endswith(said)
    assert done.miou > 0


def test_the_yardstick_is_trained_the_same_way_and_goes_on_from_its_like_alone(streets: Path, tmp_path: Path) -> None:
    unet = {"architecture": "unet", "width": 4}
    once = {"epochs": 1, "accumulate": 1, "repeats": 1}
    done = run(streets, tmp_path / "unet", model=unet, run=once)
    assert str(load_model(done.model).card.network) == "unet, width 4, 11 classes"
    again = run(streets, tmp_path / "again", model=unet | {"init": str(done.model)}, run=once)
    assert load_model(again.model).card.source.count("all of ") == 1
    with pytest.raises(
        UsageError, match="this run asks for unet, width 8, 11 classes; where one of the two is no ESPNet"
    ):
        run(streets, tmp_path / "wider", model=unet | {"width": 8, "init": str(done.model)}, run=once)


def test_a_teacher_that_knows_imagenet_teaches_an_espnet(streets: Path, tmp_path: Path) -> None:
    once = {"epochs": 1, "accumulate": 1, "repeats": 1}
    teacher = run(
        streets, tmp_path / "teacher", model={"architecture": "efficientnet-lite", "init": "imagenet"}, run=once
    )
    assert "; from ImageNet (" in load_model(teacher.model).card.source
    taught = run(streets, tmp_path / "taught", run=once, loss={"distill": {"teacher": str(teacher.model)}})
    assert load_model(taught.model).card.network.architecture == "espnet"


def test_data_that_do_not_fit_are_said(streets: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"has no images for 'test'; its splits are train, val"):
        run(streets, tmp_path / "a", data={"validation": "test"})
    with pytest.raises(UsageError, match="do not fill one step of 200 crops"):
        run(streets, tmp_path / "b", run={"batch": 100})
    with pytest.raises(UsageError, match="lists 2 numbers, and there are 11 classes"):
        run(streets, tmp_path / "c", loss={"class_weights": [1, 2]})
    with pytest.raises(UsageError, match=r"needs as many CUDA devices, and torch sees \d; lower it"):
        run(streets, tmp_path / "e", run={"device": "cuda", "devices": 99})
    with pytest.raises(UsageError, match="needs a class that glass belongs to"):
        run(streets, tmp_path / "f", augment={"blank": 0.1})
    with pytest.raises(UsageError, match="not said; give it as --data"):
        train(parse(TrainConfig, SMALL, "test"), tmp_path / "d", command="a test")
    assert list(tmp_path.iterdir()) == [], "a start that failed is no run"


OVERFIT: dict[str, dict[str, Any]] = {
    "data": {"validation": "train", "cache": True},
    "augment": {"crop_px": [64, 96], "scale": [1.0, 1.0], "flip": 0.0, "brightness": 0.0, "hue": 0.0},
    "loss": {"dice": 1.0, "auxiliary": 0.0},
    "optimiser": {"learning_rate": 0.02, "weight_decay": 0.0, "clip": 5.0},
    "schedule": {"name": "cosine", "warm_up_epochs": 1},  # a constant rate may leap in the last epoch
    "run": {"batch": 4, "accumulate": 1, "repeats": 10, "ema": 0.9},
}
"""Learn four crops by heart: no augmentation, scored on the same."""


@pytest.mark.parametrize(
    ("architecture", "epochs"),
    [
        pytest.param("espnet", 30, marks=pytest.mark.slow),  # poles of three px take their time
        pytest.param("espnet-c", 10, marks=pytest.mark.slow),
        ("encoder", 10),
    ],
)
def test_four_images_are_learned_by_heart(shared: Path, tmp_path: Path, architecture: str, epochs: int) -> None:
    root = cut_out(shared, tmp_path, (150, 150, 246, 214))
    length = {"epochs": epochs, "validate_every": epochs}
    settings = {**OVERFIT, "model": {"architecture": architecture}, "run": OVERFIT["run"] | length}
    model = load_model(run(root, tmp_path / "run", **settings).model)
    confusion = np.zeros((11, 11), np.int64)
    for path in sorted((root / "train").iterdir()):
        pixels = torch.from_numpy(model.card.normalisation.apply(picture(path)))[None]
        with torch.no_grad():
            predicted = model.module(pixels)[0].argmax(dim=0).numpy()
        truth = picture(root / "trainannot" / path.name)
        if architecture != "espnet":  # these speak of every eighth px
            truth = truth[4::8, 4::8]
        np.add.at(confusion, (truth[truth < 11], predicted[truth < 11]), 1)
    either = confusion.sum(0) + confusion.sum(1) - confusion.diagonal()
    assert np.mean(confusion.diagonal()[either > 0] / either[either > 0]) > 0.98


@pytest.mark.parametrize(
    ("pipeline", "data", "splits"),
    [
        ("breast", "ynet_breast", ("train", "train")),
        ("cityscapes", "street/pseudo_cityscapes_dataset", ("val", "val")),
        ("mapillary", "street/pseudo_mapillary_dataset", ("all", "all")),
        ("voc", "street/voc_labelme", ("all", "all")),
    ],
)
def test_a_pipeline_trains_on_pictures_of_its_kind(
    shared: Path, tmp_path: Path, pipeline: str, data: str, splits: tuple[str, str]
) -> None:
    short = {"epochs": 1, "batch": 1, "workers": 0, "threads": 1, "device": "cpu", "validate_every": 1, "ema": 0.5}
    changes = {f"run.{key}": value for key, value in short.items()} | dict(
        zip(("data.train", "data.validation"), splits, strict=True)
    )
    changes |= {"augment.crop_px": [64, 64]}
    settings = read_config(PIPELINES / f"{pipeline}.toml", data=shared / "data" / data, changes=changes)
    card = load_model(train(settings, tmp_path / "run", command="a test").model).card
    assert card.network == EspNetConfig(architecture="espnet", p=2, q=8, classes=len(card.classes))
    assert card.terms == settings.card.terms
