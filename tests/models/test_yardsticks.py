"""The yardstick and the teacher: their size, what ImageNet taught them, and how they behave beside the ESPNets."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from skimage import data

from wsi_espnet.errors import UsageError
from wsi_espnet.export import export
from wsi_espnet.models.card import EfficientNetConfig, ModelCard, NetworkConfig, UNetConfig
from wsi_espnet.models.efficientnet import EfficientNet
from wsi_espnet.models.networks import build, logits_layer
from wsi_espnet.models.weights import load_model, save_model
from wsi_espnet.segment import segment
from wsi_espnet.training.imagenet import INPUT, copy_imagenet, stored_weights

UNET, TEACHER = UNetConfig(width=4, classes=3), EfficientNetConfig(size=0, classes=3)
SIZE = 2
"""Of the EfficientNet-Lite whose ImageNet weights the tests install."""


def weights_of(width: int, classes: int) -> int:
    """Counted layer by layer: kernels without bias, gain and offset of each normalisation."""

    def double(a: int, b: int) -> int:
        return 9 * a * b + 9 * b * b + 4 * b

    widths = [width * 2**level for level in range(5)]
    pairs = list(pairwise(widths))
    up = sum(4 * b * a + a + double(2 * a, a) for a, b in pairs)
    return double(3, width) + sum(double(a, b) for a, b in pairs) + up + width * classes + classes


@pytest.mark.parametrize(("width", "classes"), [(64, 2), (64, 11), (8, 3)])
def test_a_unet_has_as_many_parameters_as_its_layers_say(width: int, classes: int) -> None:
    net = build(UNetConfig(width=width, classes=classes))
    assert sum(p.numel() for p in net.parameters()) == weights_of(width, classes)
    assert (width, classes) != (64, 2) or weights_of(width, classes) == 31_037_698


@pytest.mark.parametrize(("size", "millions"), [(0, 4.7), (1, 5.4), (2, 6.1), (3, 8.2), (4, 13.0)])
def test_an_efficientnet_has_as_many_parameters_as_published(size: int, millions: float) -> None:
    """The table of tensorflow/tpu `models/official/efficientnet/lite`, whose networks end in 1000 classes."""
    net = EfficientNet(EfficientNetConfig(size=size, classes=3))
    encoder = sum(p.numel() for name, p in net.named_parameters() if not name.startswith(("join.", "classifier.")))
    deepest = net._blocks[-1]._project_conv.out_channels
    head = deepest * 1280 + 2 * 1280 + 1280 * 1000 + 1000
    assert round((encoder + head) / 1e6, 1) == millions


def imagenet_class(rgb: NDArray[np.uint8]) -> int:
    """What the stored weights, their last layers among them, take a photograph for: id among ImageNet's 1000."""
    net = EfficientNet(EfficientNetConfig(size=SIZE, classes=3)).eval()
    copy_imagenet(net, SIZE)
    stored, _ = stored_weights(SIZE)
    image = F.interpolate(torch.from_numpy(INPUT.apply(rgb))[None], (260, 260), mode="bilinear", antialias=True)
    with torch.inference_mode():
        *_, deepest = net.seen(image)
        head = F.conv2d(deepest, stored["_conv_head.weight"])
        gain, offset, mean, var = (stored[f"_bn1.{k}"] for k in ("weight", "bias", "running_mean", "running_var"))
        pooled = F.relu6(F.batch_norm(head, mean, var, gain, offset, eps=1e-3)).mean(dim=(2, 3))
        return int(F.linear(pooled, stored["_fc.weight"], stored["_fc.bias"]).argmax())


def test_imagenet_weights_know_a_cat_and_a_coffee() -> None:
    cats, espresso = {281, 282, 285}, 967
    assert imagenet_class(data.chelsea()) in cats
    assert imagenet_class(data.coffee()) == espresso


@pytest.mark.parametrize("config", [UNET, TEACHER], ids=str)
@pytest.mark.parametrize("shape", [(32, 48), (33, 41), (8, 8)])
def test_logits_have_the_size_of_the_image(config: NetworkConfig, shape: tuple[int, int]) -> None:
    net = build(config).eval()
    fine, coarse = net.fine_and_coarse(torch.randn(1, 3, *shape))  # type: ignore[union-attr, operator]
    assert fine.shape == (1, 3, *shape)
    assert coarse.shape == (1, 3, -(-shape[0] // 8), -(-shape[1] // 8))


@pytest.fixture(params=[UNET, TEACHER], ids=str)
def model(request: pytest.FixtureRequest, tmp_path: Path, make_card: Callable[..., ModelCard]) -> Path:
    torch.manual_seed(0)
    card = make_card(network=request.param)
    return save_model(tmp_path / "yardstick.safetensors", build(request.param).eval(), card)


def test_a_file_gives_back_network_and_card(model: Path) -> None:
    loaded = load_model(model)
    assert loaded.card.network in (UNET, TEACHER)
    assert str(loaded.card.network) in ("unet, width 4, 3 classes", "efficientnet-lite0, 3 classes")
    assert logits_layer(loaded.module).weight.shape[:2] in ((3, 4), (3, 32))


def test_slides_and_exports_are_refused_in_one_sentence(model: Path, slides: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="which is for `train`, `evaluate` and `predict`; windows of a slide"):
        segment(slides / "CMU-1-Small-Region.svs", tmp_path / "out", model=model)
    with pytest.raises(UsageError, match="which is for `train`, `evaluate` and `predict`; ESPNets are what"):
        export(model, tmp_path / "onnx")
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "onnx").exists()
