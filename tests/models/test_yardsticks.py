"""Networks beside the ESPNet family: their size, what ImageNet taught one, and that they do what the family does."""

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
from torch import nn

from wsi_espnet.errors import UsageError
from wsi_espnet.export import export
from wsi_espnet.models.baselines.efficientnet import EfficientNet
from wsi_espnet.models.card import ModelCard
from wsi_espnet.models.catalog import read_card
from wsi_espnet.models.full_size import DoublingConv
from wsi_espnet.models.network_config import (
    EXPORTED,
    BaselineConfig,
    EfficientNetConfig,
    NetworkConfig,
    UNetConfig,
    UnitsConfig,
)
from wsi_espnet.models.networks import build, logits_layer
from wsi_espnet.models.weights import load_model, save_model
from wsi_espnet.segment import segment
from wsi_espnet.training.imagenet import INPUT, copy_imagenet, stored_weights
from wsi_espnet.training.module import fine_and_coarse

UNET, TEACHER = UNetConfig(width=4, classes=3), EfficientNetConfig(size=0, classes=3)
ESP_PSP = BaselineConfig(architecture="esp-psp", classes=3)
UNITS = UnitsConfig(unit="shufflenet", p=1, q=1, classes=3)
SMALL: list[NetworkConfig] = [
    UNET,
    TEACHER,
    BaselineConfig(architecture="enet", classes=3),
    BaselineConfig(architecture="erfnet", classes=3),
    ESP_PSP,
    UNITS,
]
PSPNET = BaselineConfig(architecture="pspnet", classes=3)
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


PUBLISHED = [
    # Each with the parameters that its source states, to the digits stated there.
    (BaselineConfig(architecture="esp-psp", classes=8), 2_755_488, 0),  # sacmehta/YNet at d851318d, stage1/Model.py
    (BaselineConfig(architecture="enet", classes=20), 0.36e6, -4),  # arXiv 1606.02147: 0.37 M
    (BaselineConfig(architecture="erfnet", classes=20), 2.1e6, -5),  # ESPNet's plots of parameters
    (BaselineConfig(architecture="pspnet", classes=19), 65.7e6, -5),  # as above
    (UnitsConfig(unit="mobilenet", q=3, classes=20), 0.233e6, -3),  # ESPNet's project page, as the next two
    (UnitsConfig(unit="shufflenet", q=3, classes=20), 0.180e6, -3),  # published: 0.181
    (UnitsConfig(unit="resnet", q=3, classes=20), 1.2e6, -5),
]


@pytest.mark.parametrize(("config", "parameters", "digits"), PUBLISHED, ids=str)
def test_each_network_has_as_many_parameters_as_published(
    config: NetworkConfig, parameters: float, digits: int
) -> None:
    with torch.device("meta"):  # counted, and never drawn
        net = build(config)
    assert round(sum(p.numel() for p in net.parameters()), digits) == parameters


@pytest.mark.parametrize("config", [*SMALL, PSPNET], ids=str)
@pytest.mark.parametrize("shape", [(32, 48), (33, 41), (8, 8)])
def test_logits_have_the_size_of_the_image(config: NetworkConfig, shape: tuple[int, int]) -> None:
    fine, coarse = fine_and_coarse(build(config).eval(), torch.randn(1, 3, *shape))
    assert coarse.shape == (1, 3, -(-shape[0] // 8), -(-shape[1] // 8))
    assert (fine is None) == isinstance(config, UnitsConfig)
    assert fine is None or fine.shape == (1, 3, *shape)


@pytest.mark.parametrize("config", SMALL, ids=str)
def test_whatever_is_far_away_changes_nothing(config: NetworkConfig) -> None:
    """What windows of slides rest upon; PSPNet looks at the whole image and is not among these."""
    torch.manual_seed(0)
    net = build(config).eval()
    image = torch.randn(1, 3, 64, 1536)
    other = image.clone()
    other[..., 1280:] = torch.randn(1, 3, 64, 256)
    with torch.inference_mode():
        a, b = net(image), net(other)
    near = slice(0, 256 // net.stride)  # type: ignore[arg-type, operator]
    torch.testing.assert_close(a[..., near], b[..., near])
    assert not torch.equal(a, b)


def test_doubling_is_the_transposed_convolution_with_output_padding() -> None:
    torch.manual_seed(0)
    ours = DoublingConv(4, 5, bias=True)
    plain = nn.ConvTranspose2d(4, 5, 3, stride=2, padding=1, output_padding=1)
    plain.load_state_dict(ours.state_dict())
    x = torch.randn(2, 4, 7, 9)
    torch.testing.assert_close(ours(x), plain(x))


@pytest.fixture(params=SMALL, ids=str)
def model(request: pytest.FixtureRequest, tmp_path: Path, make_card: Callable[..., ModelCard]) -> Path:
    torch.manual_seed(0)
    card = make_card(network=request.param)
    return save_model(tmp_path / "yardstick.safetensors", build(request.param).eval(), card)


def test_a_file_gives_back_network_and_card(model: Path) -> None:
    loaded = load_model(model)
    assert loaded.card.network in SMALL
    assert len(logits_layer(loaded.module).weight) in (3, 16)  # (C, in, ...) or, transposed, (in, C, ...)


@pytest.mark.parametrize("model", [ESP_PSP, UNITS], ids=str, indirect=True)
def test_each_segments_a_slide(model: Path, slides: Path, tmp_path: Path) -> None:
    done = segment(slides / "CMU-1-Small-Region.svs", tmp_path / "out", model=model, mpp=2.0, precision="fp32")
    assert done.areas.tissue_px > 100_000
    assert not done.failures
    with pytest.raises(UsageError, match=r"which torch alone runs on slides; leave out --backend|has no form in ONNX"):
        segment(slides / "CMU-1-Small-Region.svs", tmp_path / "other", model=model, mpp=2.0, backend="onnx")
    assert not (tmp_path / "other").exists()


def test_those_that_leave_as_onnx_give_the_same_labels_there(model: Path, slides: Path, tmp_path: Path) -> None:
    architecture = read_card(model).network.architecture
    if architecture not in EXPORTED:
        with pytest.raises(UsageError, match="which has no form in ONNX that every target runs; what is exported are"):
            export(model, tmp_path / "onnx")
        assert not (tmp_path / "onnx").exists()
        with pytest.raises(UsageError, match="which has no form in ONNX"):
            segment(slides / "CMU-1-Small-Region.svs", tmp_path / "out", model=model, mpp=2.0, backend="onnx")
        return
    with pytest.raises(UsageError, match="which torch alone runs on slides"):
        segment(slides / "CMU-1-Small-Region.svs", tmp_path / "out", model=model, mpp=2.0, backend="onnx")
    for target, size in (("gpu", None), ("tx2", (64, 128))):
        done = export(model, tmp_path / target, target=target, size=size)
        assert min(parity.labels for parity in done.parities.values()) > 0.99
