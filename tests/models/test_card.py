from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
from pydantic import ValidationError

from wsi_espnet.models.card import ModelCard, Normalisation
from wsi_espnet.models.catalog import class_table
from wsi_espnet.models.network_config import EspNetConfig

MakeCard = Callable[..., ModelCard]


def test_card_survives_json(make_card: MakeCard) -> None:
    card = make_card()
    assert ModelCard.model_validate_json(card.model_dump_json()) == card


def test_card_refuses_a_class_table_of_another_length(make_card: MakeCard) -> None:
    with pytest.raises(ValidationError, match="has 12 classes, the network 3 outputs"):
        make_card(classes=class_table("camvid12"))


def test_card_refuses_unknown_fields(make_card: MakeCard) -> None:
    with pytest.raises(ValidationError, match="Extra inputs"):
        make_card(colour="blue")


@pytest.mark.parametrize(
    "wrong", [{"mpp": 0}, {"mpp": -1}, {"halo_px": 100}, {"core_px": 0}, {"format": 2}, {"name": ""}]
)
def test_card_refuses_impossible_values(make_card: MakeCard, wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        make_card(**wrong)


@pytest.mark.parametrize("wrong", [{"classes": 1}, {"skip": 17}, {"architecture": "unet"}, {"q": -1}])
def test_config_refuses_impossible_values(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        EspNetConfig.model_validate({"classes": 3} | wrong)


def test_normalisation_is_the_formula_in_rgb() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    got = Normalisation(mean=(10, 20, 30), std=(1, 2, 4)).apply(rgb)
    wanted = ((rgb - np.array([10, 20, 30])) / np.array([1, 2, 4])).transpose(2, 0, 1)
    assert got.dtype == np.float32
    assert got.flags.c_contiguous
    np.testing.assert_allclose(got, wanted, rtol=1e-6)


def test_normalisation_in_bgr_turns_the_channels_and_divides_last() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    got = Normalisation(order="bgr", mean=(10, 20, 30), std=(1, 2, 4), divide=255).apply(rgb)
    for channel, (source, mean, std) in enumerate([(2, 10, 1), (1, 20, 2), (0, 30, 4)]):
        np.testing.assert_allclose(got[channel], (rgb[..., source] - float(mean)) / std / 255, rtol=1e-6)


def test_normalisation_refuses_a_std_of_zero() -> None:
    with pytest.raises(ValidationError, match="std must be above 0"):
        Normalisation(mean=(0, 0, 0), std=(1, 0, 1))


def test_reading_cards_does_not_load_torch() -> None:
    code = (
        "import sys; from wsi_espnet.models.catalog import bundled_models, read_card, class_table; "
        "[read_card(p) for p in bundled_models()]; class_table('voc21'); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
