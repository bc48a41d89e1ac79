"""The yardstick: its size, and how it behaves beside the ESPNets."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from wsi_espnet.errors import UsageError
from wsi_espnet.export import export
from wsi_espnet.models.card import ModelCard, UNetConfig
from wsi_espnet.models.networks import build, logits_layer
from wsi_espnet.models.weights import load_model, save_model
from wsi_espnet.segment import segment


def weights_of(width: int, classes: int) -> int:
    """Counted layer by layer: kernels without bias, gain and offset of each normalisation."""

    def double(a: int, b: int) -> int:
        return 9 * a * b + 9 * b * b + 4 * b

    widths = [width * 2**level for level in range(5)]
    pairs = list(pairwise(widths))
    up = sum(4 * b * a + a + double(2 * a, a) for a, b in pairs)
    return double(3, width) + sum(double(a, b) for a, b in pairs) + up + width * classes + classes


@pytest.mark.parametrize(("width", "classes"), [(64, 2), (64, 11), (8, 3)])
def test_it_has_as_many_parameters_as_its_layers_say(width: int, classes: int) -> None:
    net = build(UNetConfig(width=width, classes=classes))
    assert sum(p.numel() for p in net.parameters()) == weights_of(width, classes)
    assert (width, classes) != (64, 2) or weights_of(width, classes) == 31_037_698


@pytest.mark.parametrize("shape", [(32, 48), (33, 41), (8, 8)])
def test_logits_have_the_size_of_the_image(shape: tuple[int, int]) -> None:
    net = build(UNetConfig(width=4, classes=3)).eval()
    fine, coarse = net.fine_and_coarse(torch.randn(1, 3, *shape))  # type: ignore[union-attr, operator]
    assert fine.shape == (1, 3, *shape)
    assert coarse.shape == (1, 3, -(-shape[0] // 8), -(-shape[1] // 8))


@pytest.fixture
def model(tmp_path: Path, make_card: Callable[..., ModelCard]) -> Path:
    config = UNetConfig(width=4, classes=3)
    torch.manual_seed(0)
    return save_model(tmp_path / "unet.safetensors", build(config).eval(), make_card(network=config))


def test_a_file_gives_back_network_and_card(model: Path) -> None:
    loaded = load_model(model)
    assert loaded.card.network == UNetConfig(width=4, classes=3)
    assert str(loaded.card.network) == "unet, width 4, 3 classes"
    assert logits_layer(loaded.module).weight.shape == (3, 4, 1, 1)


def test_slides_and_exports_are_refused_in_one_sentence(model: Path, slides: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is a U-Net, the yardstick"):
        segment(slides / "CMU-1-Small-Region.svs", tmp_path / "out", model=model)
    with pytest.raises(UsageError, match="is a U-Net, the yardstick"):
        export(model, tmp_path / "onnx")
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "onnx").exists()
