from __future__ import annotations

import hashlib
import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from wsi_espnet.errors import ModelError, OutputError
from wsi_espnet.models.card import ModelCard
from wsi_espnet.models.catalog import CARD_KEY, read_card
from wsi_espnet.models.espnet import build
from wsi_espnet.models.network_config import EspNetConfig
from wsi_espnet.models.weights import load_model, save_model

MakeCard = Callable[..., ModelCard]


@pytest.fixture
def saved(tmp_path: Path, make_card: MakeCard) -> Path:
    torch.manual_seed(0)
    card = make_card()
    return save_model(tmp_path / "net.safetensors", build(card.network), card)


def test_saved_model_gives_the_same_logits(tmp_path: Path, make_card: MakeCard) -> None:
    card = make_card()
    module = build(card.network)
    module(torch.randn(4, 3, 32, 32))  # moves the running statistics
    path = save_model(tmp_path / "net.safetensors", module, card)
    loaded = load_model(path)
    assert loaded.card == card == read_card(path)
    assert not loaded.module.training
    x = torch.randn(1, 3, 40, 40)
    with torch.inference_mode():
        assert torch.equal(loaded.module(x), module.eval()(x))


def test_saving_again_gives_the_same_bytes(saved: Path) -> None:
    loaded = load_model(saved)
    again = save_model(saved.with_name("again.safetensors"), loaded.module, loaded.card)
    assert again.read_bytes() == saved.read_bytes()
    assert loaded.sha256 == hashlib.sha256(saved.read_bytes()).hexdigest()


def test_channels_last_weights_are_saved_alike(saved: Path) -> None:
    loaded = load_model(saved)
    module = loaded.module.to(memory_format=torch.channels_last)
    again = save_model(saved.with_name("again.safetensors"), module, loaded.card)
    assert again.read_bytes() == saved.read_bytes()


def test_an_existing_file_is_not_replaced_unasked(saved: Path) -> None:
    loaded = load_model(saved)
    with pytest.raises(OutputError, match="exists and is not replaced"):
        save_model(saved, loaded.module, loaded.card)
    save_model(saved, loaded.module, loaded.card, overwrite=True)


def test_a_failed_write_leaves_the_old_file_and_no_litter(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded, before = load_model(saved), saved.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OutputError, match="No space left"):
        save_model(saved, loaded.module, loaded.card, overwrite=True)
    assert [p.name for p in saved.parent.iterdir()] == [saved.name]
    assert saved.read_bytes() == before


def test_saving_refuses_another_suffix_and_another_network(tmp_path: Path, make_card: MakeCard) -> None:
    card = make_card()
    with pytest.raises(OutputError, match=r"must end in \.safetensors"):
        save_model(tmp_path / "net.pth", build(card.network), card)
    other = build(EspNetConfig(p=2, q=1, classes=3))
    with pytest.raises(ModelError, match="does not fit its card"):
        save_model(tmp_path / "net.safetensors", other, card)


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


def truncated_in_header(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:200])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def text(path: Path) -> None:
    path.write_text("this is no model, but it is long enough to have a first line")


def a_zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.txt", "a")


def a_pth(path: Path) -> None:
    torch.save({"a": torch.zeros(1)}, path)


def without_card(path: Path) -> None:
    safetensors.torch.save_file({"a": torch.zeros(1)}, path)


def with_a_broken_card(path: Path) -> None:
    safetensors.torch.save_file({"a": torch.zeros(1)}, path, metadata={CARD_KEY: '{"name": "x"}'})


def broken_json(path: Path) -> None:
    path.write_bytes((20).to_bytes(8, "little") + b"{" * 20)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncated, "is damaged: it has"),
        (truncated_in_header, "its header ends after"),
        (empty, "does not start with the length of a header"),
        (text, "does not start with the length of a header"),
        (a_zip, "PyTorch or zip file"),
        (a_pth, "PyTorch or zip file"),
        (without_card, "without a model card"),
        (with_a_broken_card, "model card in .* is not valid"),
        (broken_json, "header is not JSON"),
    ],
)
def test_damaged_and_foreign_files_are_refused(saved: Path, damage: Callable[[Path], None], message: str) -> None:
    damage(saved)
    with pytest.raises(ModelError, match=message):
        load_model(saved)
    with pytest.raises(ModelError, match=message):
        read_card(saved)


def test_the_authors_files_are_refused_with_the_remedy(shared: Path) -> None:
    path = shared / "data/weights/espnet/decoder/espnet_p_2_q_3.pth"
    with pytest.raises(ModelError, match="wsi-espnet models import"):
        load_model(path)


def test_a_card_that_its_tensors_do_not_fit_is_refused(saved: Path, make_card: MakeCard) -> None:
    tensors = safetensors.torch.load_file(saved)
    other = make_card(network=EspNetConfig(p=2, q=1, classes=3))
    safetensors.torch.save_file(tensors, saved, metadata={CARD_KEY: other.model_dump_json()})
    with pytest.raises(ModelError, match="do not fit its card: 12 missing"):
        load_model(saved)


def test_a_tensor_of_another_shape_is_refused(saved: Path) -> None:
    tensors = safetensors.torch.load_file(saved)
    tensors["classifier.weight"] = torch.zeros(3, 3, 3, 3)
    safetensors.torch.save_file(tensors, saved, metadata={CARD_KEY: read_card(saved).model_dump_json()})
    with pytest.raises(ModelError, match=r"classifier.weight has shape \(3, 3, 3, 3\)"):
        load_model(saved)


def test_a_folder_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(ModelError):
        load_model(tmp_path)
    with pytest.raises(ModelError, match="cannot read"):
        read_card(tmp_path)


def test_normalised_image_goes_through_a_loaded_model(saved: Path) -> None:
    loaded = load_model(saved)
    rgb = np.full((30, 21, 3), 240, np.uint8)
    x = torch.from_numpy(loaded.card.normalisation.apply(rgb))[None]
    with torch.inference_mode():
        assert loaded.module(x).shape == (1, 3, 30, 21)
