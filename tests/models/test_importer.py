from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from wsi_espnet.errors import ModelError
from wsi_espnet.models.card import Normalisation
from wsi_espnet.models.espnet import build
from wsi_espnet.models.importer import import_pth
from wsi_espnet.models.network_config import EspNetConfig
from wsi_espnet.models.weights import load_model, save_model

# file -> parity vector, architecture, q, classes, skip
PUBLISHED = {
    "encoder/espnet_p_2_q_3.pth": ("enc_q3", "espnet-c", 3, 20, 19),
    "encoder/espnet_p_2_q_5.pth": ("enc_q5", "espnet-c", 5, 20, 19),
    "encoder/espnet_p_2_q_8.pth": ("enc_q8", "espnet-c", 8, 20, 19),
    "decoder/espnet_p_2_q_3.pth": ("dec_q3", "espnet", 3, 20, 16),
    "decoder/espnet_p_2_q_5.pth": ("dec_q5", "espnet", 5, 20, 16),
    "decoder/espnet_p_2_q_8.pth": ("dec_q8", "espnet", 8, 20, 16),
    "decoder/espnet_p_2_q_8_camvid.pth": ("camvid_dec_q8", "espnet", 8, 12, 19),
}
PLAIN = Normalisation(mean=(0, 0, 0), std=(255, 255, 255))


@pytest.mark.parametrize("file", PUBLISHED)
def test_published_weights_give_the_authors_logits(shared: Path, file: str) -> None:
    vector, architecture, q, classes, skip = PUBLISHED[file]
    weights = shared / "data/weights/espnet"
    module, card = import_pth(weights / file)
    assert card.network == EspNetConfig(architecture=architecture, p=2, q=q, classes=classes, skip=skip)
    parity = np.load(weights / "parity" / f"{vector}.npz")
    with torch.inference_mode():
        logits = module(torch.from_numpy(parity["x"])).numpy()
    # Two runs of the authors' code with different thread counts differ by 6e-6.
    np.testing.assert_allclose(logits, parity["y"], rtol=0, atol=1e-4)
    assert card.classes.name == ("camvid12" if classes == 12 else "cityscapes20")
    assert file in card.source
    assert "MIT" in card.terms


def test_published_keys_are_exactly_the_networks(shared: Path) -> None:
    listed = (shared / "data/weights/espnet/state_dict_keys_p2_q8_c20.txt").read_text()
    full = build(EspNetConfig(p=2, q=8, classes=20, skip=16)).state_dict()
    for key in full:
        if not key.endswith("num_batches_tracked"):
            assert key in listed


def test_import_turns_an_image_into_the_authors_input(shared: Path) -> None:
    _, card = import_pth(shared / "data/weights/espnet/decoder/espnet_p_2_q_3.pth")
    rgb = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    bgr = rgb[..., ::-1].astype(np.float32)
    bgr = (bgr - [72.3923111, 82.90893555, 73.15840149]) / [45.3192215, 46.15289307, 44.91483307] / 255
    np.testing.assert_allclose(card.normalisation.apply(rgb), bgr.transpose(2, 0, 1), atol=1e-7)


def test_imported_model_can_be_saved_and_loaded(shared: Path, tmp_path: Path) -> None:
    module, card = import_pth(shared / "data/weights/espnet/decoder/espnet_p_2_q_3.pth", name="street")
    loaded = load_model(save_model(tmp_path / "street.safetensors", module, card))
    x = torch.randn(1, 3, 32, 32) * 0.006
    with torch.inference_mode():
        assert torch.equal(loaded.module(x), module(x))
    assert loaded.card.name == "street"


def write(path: Path, config: EspNetConfig, prefix: str = "") -> dict[str, torch.Tensor]:
    tensors = {f"{prefix}{k}": v for k, v in build(config).state_dict().items()}
    torch.save(tensors, path)
    return tensors


@pytest.mark.parametrize(
    ("config", "prefix"),
    [
        (EspNetConfig(architecture="espnet", p=1, q=2, classes=3, skip=19), ""),
        (EspNetConfig(architecture="espnet", p=0, q=1, classes=3, skip=16), ""),
        (EspNetConfig(architecture="espnet-c", p=3, q=0, classes=3), ""),
        (EspNetConfig(architecture="espnet-c", p=1, q=1, classes=3), "encoder."),
        (EspNetConfig(architecture="encoder", p=1, q=1, classes=3), ""),
    ],
)
def test_configuration_is_found_from_the_tensors(tmp_path: Path, config: EspNetConfig, prefix: str) -> None:
    write(tmp_path / "own.pth", config, prefix)
    _, card = import_pth(tmp_path / "own.pth", classes="glas-grade", normalisation=PLAIN)
    assert card.network == config
    assert "own.pth" in card.source


def test_unknown_meaning_of_outputs_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "own.pth", EspNetConfig(p=1, q=1, classes=3))
    with pytest.raises(ModelError, match="has 3 outputs, and what they mean"):
        import_pth(tmp_path / "own.pth")
    with pytest.raises(ModelError, match="no class table 'tissue'; there are"):
        import_pth(tmp_path / "own.pth", classes="tissue")
    with pytest.raises(ModelError, match="has 3 outputs, the class table 'voc21' 21 classes"):
        import_pth(tmp_path / "own.pth", classes="voc21")
    with pytest.raises(ModelError, match=r"mean and std .* give them as --mean and --std"):
        import_pth(tmp_path / "own.pth", classes="glas-grade")


def test_files_of_another_kind_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    with pytest.raises(ModelError, match="cannot read"):
        import_pth(path)
    path.write_text("no pickle")
    with pytest.raises(ModelError, match="not a PyTorch file"):
        import_pth(path)
    torch.save({"weights": 3}, path)
    with pytest.raises(ModelError, match="does not hold a state dict"):
        import_pth(path)
    torch.save({"fc.weight": torch.zeros(2, 2)}, path)
    with pytest.raises(ModelError, match="not an ESPNet"):
        import_pth(path)


def test_code_in_a_pickle_is_not_run(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.touch, (str(tmp_path / "ran"),))

    torch.save({"a": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(ModelError, match="not a PyTorch file of plain tensors"):
        import_pth(tmp_path / "evil.pth")
    assert not (tmp_path / "ran").exists()


def test_missing_and_left_over_tensors_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "own.pth"
    tensors = write(path, EspNetConfig(p=1, q=1, classes=3))
    del tensors["up_l3.0.weight"]
    torch.save(tensors, path)
    with pytest.raises(ModelError, match=r"not an espnet p=1 q=1 with 3 classes: 1 missing \(up_l3.0.weight\)"):
        import_pth(path, classes="glas-grade", normalisation=PLAIN)
