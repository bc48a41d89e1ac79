from __future__ import annotations

import csv
import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from wsi_espnet.data.glas import GlasImage
from wsi_espnet.errors import ResumeError
from wsi_espnet.models.card import Normalisation
from wsi_espnet.models.weights import load_model
from wsi_espnet.training.glas_colon import (
    GlasColonConfig,
    batches,
    class_weights,
    measure_colours,
    schedule,
    segmentation_loss,
    train,
)

SMALL = GlasColonConfig(epochs=2, batch=2, crop_px=64, crops_per_image=2, held_out=("3",), p=1, q=1)


class KilledError(Exception):
    pass


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """One thread, because the order of sums and with it the last bit depends on their number."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def images() -> list[GlasImage]:
    rng = np.random.default_rng(0)
    made = []
    for i, (patient, grade) in enumerate([("1", 1), ("1", 2), ("2", 1), ("2", 2), ("3", 1), ("3", 2)]):
        y, x = np.mgrid[:72, :80]
        glands = ((y % 36 - 18) ** 2 + (x % 40 - 20) ** 2 < 120).astype(np.uint8)
        rgb = rng.integers(180, 230, (72, 80, 3), dtype=np.uint8)
        rgb[glands > 0] -= np.array([120, 60, 20] if grade == 1 else [20, 60, 120], np.uint8)
        name = ("benign", "malignant")[grade - 1]
        made.append(GlasImage(name=str(i), patient=patient, grade=name, rgb=rgb, labels=glands * np.uint8(grade)))
    return made


def test_a_killed_run_goes_on_to_the_same_bits(images: list[GlasImage], tmp_path: Path) -> None:
    def kill_in_the_second_epoch(step: int, _: float) -> None:
        if step == 6:  # four steps make an epoch here
            raise KilledError

    whole = train(images, tmp_path / "whole", SMALL, command="test")
    with pytest.raises(KilledError):
        train(
            images,
            tmp_path / "cut",
            SMALL,
            command="test",
            on_step=kill_in_the_second_epoch,
        )
    steps: list[int] = []
    again = train(images, tmp_path / "cut", SMALL, command="test", on_step=lambda s, _: steps.append(s))
    assert steps == [5, 6, 7, 8]
    assert again.read_bytes() == whole.read_bytes()
    assert (tmp_path / "cut/log.csv").read_bytes() == (tmp_path / "whole/log.csv").read_bytes()


def test_a_run_leaves_log_settings_and_a_model_with_its_card(images: list[GlasImage], tmp_path: Path) -> None:
    best = train(images, tmp_path, SMALL, command="python -m test")
    with (tmp_path / "log.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert GlasColonConfig.model_validate_json((tmp_path / "config.json").read_text()) == SMALL
    card = load_model(best).card
    assert card.network == SMALL.network
    assert card.scores["mIoU"] == pytest.approx(max(float(row["mIoU"]) for row in rows), abs=1e-4)
    assert "trained on 1, 2" in card.split
    assert "2 images of 3" in card.split
    assert card.source.startswith("python -m test")


def test_other_settings_are_refused(images: list[GlasImage], tmp_path: Path) -> None:
    train(images, tmp_path, SMALL.model_copy(update={"epochs": 1}), command="test")
    with pytest.raises(ResumeError, match="other settings"):
        train(images, tmp_path, SMALL, command="test")


def test_a_few_steps_lower_the_loss(images: list[GlasImage], tmp_path: Path) -> None:
    losses: list[float] = []
    config = SMALL.model_copy(update={"epochs": 6})
    train(images, tmp_path, config, command="test", on_step=lambda _, loss: losses.append(loss))
    assert len(losses) == 24
    assert np.mean(losses[-6:]) < 0.9 * np.mean(losses[:4])


def test_batches_depend_on_seed_and_epoch_alone(images: list[GlasImage]) -> None:
    plain = Normalisation(mean=(0, 0, 0), std=(1, 1, 1))
    first = [x for x, _ in batches(images, SMALL, plain, 1)]
    again = [x for x, _ in batches(images, SMALL, plain, 1)]
    other = [x for x, _ in batches(images, SMALL, plain, 2)]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(first, other, strict=True))


def test_class_weights_are_the_rule(images: list[GlasImage]) -> None:
    labels = np.concatenate([i.labels.ravel() for i in images])
    wanted = [1 / np.log(1.10 + (labels == c).mean()) for c in range(3)]
    np.testing.assert_allclose(class_weights(images).numpy(), wanted, rtol=1e-6)


def test_colours_are_those_of_all_pixels(images: list[GlasImage]) -> None:
    pixels = np.concatenate([i.rgb.reshape(-1, 3) for i in images])
    measured = measure_colours(images)
    np.testing.assert_allclose(measured.mean, pixels.mean(axis=0), atol=0.006)
    np.testing.assert_allclose(measured.std, pixels.std(axis=0), atol=0.006)


def test_schedule_rises_and_falls_to_zero() -> None:
    rates = [schedule(step, 10, 100) for step in range(101)]
    assert rates[:10] == pytest.approx([(i + 1) / 10 for i in range(10)])
    assert max(rates) == 1
    assert rates[-1] == pytest.approx(0)
    assert all(a >= b for a, b in itertools.pairwise(rates[9:]))


def test_loss_is_near_zero_for_the_truth_and_large_for_its_opposite() -> None:
    labels = torch.randint(0, 3, (2, 16, 16))
    logits = 30 * torch.nn.functional.one_hot(labels, 3).permute(0, 3, 1, 2).float()
    assert segmentation_loss(logits, labels, torch.ones(3)) < 1e-3
    assert segmentation_loss(-logits, labels, torch.ones(3)) > 3
