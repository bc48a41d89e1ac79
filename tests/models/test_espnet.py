from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from wsi_espnet.models.espnet import CoarseNet, EspNet, build, pad_to_multiple
from wsi_espnet.models.network_config import EspNetConfig

# (classes, q) -> ESPNet-C, ESPNet with skip 16, ESPNet with skip 19; counted on the authors' own code, p = 2.
COUNTS = {
    (20, 3): (187_529, 202_649, 203_189),
    (20, 5): (252_297, 267_417, 267_957),
    (20, 8): (349_449, 364_569, 365_109),
    (19, 8): (349_193, 362_949, 363_462),
    (12, 8): (347_401, 354_193, 354_517),
    (8, 3): (184_457, 188_225, 188_441),
    (8, 8): (346_377, 350_145, 350_361),
    (5, 3): (183_689, 185_729, 185_864),
    (5, 8): (345_609, 347_649, 347_784),
}


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def net(architecture: str, *, classes: int, q: int = 3, skip: int = 19, p: int = 2) -> CoarseNet | EspNet:
    return build(EspNetConfig(architecture=architecture, p=p, q=q, classes=classes, skip=skip))


@pytest.mark.parametrize(("classes", "q"), COUNTS)
def test_parameter_counts_are_the_authors(classes: int, q: int) -> None:
    coarse, skip16, skip19 = COUNTS[classes, q]
    assert parameters(net("espnet-c", classes=classes, q=q)) == coarse
    assert parameters(net("espnet", classes=classes, q=q, skip=16)) == skip16
    assert parameters(net("espnet", classes=classes, q=q, skip=19)) == skip19


def test_plain_encoder_has_the_posters_parameter_count() -> None:
    assert parameters(net("encoder", classes=20, q=3)) == 186_464


@pytest.mark.parametrize(("p", "q", "classes"), [(0, 0, 2), (1, 4, 3), (3, 2, 7)])
def test_parameter_counts_follow_the_closed_form(p: int, q: int, classes: int) -> None:
    counted = parameters(net("espnet-c", classes=classes, p=p, q=q))
    assert counted == 69_513 + 7_872 * p + 32_384 * q + 256 * classes


@pytest.mark.parametrize(("q", "coarse", "full"), [(3, 99, 134), (5, 121, 156), (8, 154, 189)])
def test_number_of_state_keys_is_the_authors(q: int, coarse: int, full: int) -> None:
    def keys(module: nn.Module) -> int:
        return sum(not k.endswith("num_batches_tracked") for k in module.state_dict())

    assert keys(net("espnet-c", classes=20, q=q)) == coarse
    assert keys(net("espnet", classes=20, q=q)) == full


@pytest.mark.parametrize("classes", [2, 3, 4, 5, 12])
@pytest.mark.parametrize("skip", [16, 19])
def test_any_number_of_classes_trains(classes: int, skip: int) -> None:
    module = net("espnet", classes=classes, skip=skip)
    logits = module(torch.randn(2, 3, 32, 48))
    assert logits.shape == (2, classes, 32, 48)
    logits.square().mean().backward()
    assert all(p.grad is None or bool(torch.isfinite(p.grad).all()) for p in module.parameters())
    assert all(p.grad is not None for p in module.parameters())


@pytest.mark.parametrize("size", [(1, 1), (7, 9), (8, 8), (61, 40), (250, 130)])
@pytest.mark.parametrize("architecture", ["encoder", "espnet-c", "espnet"])
def test_any_input_size_goes_through(architecture: str, size: tuple[int, int]) -> None:
    module = net(architecture, classes=3).eval()
    with torch.inference_mode():
        logits = module(torch.randn(1, 3, *size))
    assert logits.shape[-2:] == tuple(-(-side // module.stride) for side in size)


def test_odd_sizes_give_the_same_as_repeating_the_last_row_and_column() -> None:
    module = net("espnet", classes=3).eval()
    x = np.random.default_rng(0).normal(size=(1, 3, 29, 35)).astype(np.float32)
    padded = np.pad(x, ((0, 0), (0, 0), (0, 3), (0, 5)), mode="edge")
    with torch.inference_mode():
        assert torch.equal(module(torch.from_numpy(x)), module(torch.from_numpy(padded))[..., :29, :35])


def test_multiples_of_eight_are_not_padded() -> None:
    x = torch.zeros(1, 3, 16, 24)
    assert pad_to_multiple(x) is x


@pytest.mark.parametrize("architecture", ["espnet-c", "espnet"])
def test_exports_with_any_multiple_of_eight(architecture: str) -> None:
    module = net(architecture, classes=3).eval()
    rows, columns = torch.export.Dim("rows", min=2, max=512), torch.export.Dim("columns", min=2, max=512)
    shapes = {"x": {2: 8 * rows, 3: 8 * columns}}
    exported = torch.export.export(module, (torch.randn(1, 3, 64, 96),), dynamic_shapes=shapes)
    assert not any("pad" in str(n.target) for n in exported.graph.nodes if "avg_pool" not in str(n.target))
    x = torch.randn(1, 3, 40, 32)
    with torch.inference_mode():
        torch.testing.assert_close(exported.module()(x), module(x))


def test_coarse_logits_of_the_decoder_network_are_those_of_its_encoder() -> None:
    module = net("espnet", classes=3).eval()
    assert isinstance(module, EspNet)
    coarse_net = net("espnet-c", classes=3).eval()
    coarse_net.load_state_dict(module.encoder.state_dict(), strict=True)
    x = torch.randn(1, 3, 50, 41)
    with torch.inference_mode():
        torch.testing.assert_close(module.fine_and_coarse(x)[1], coarse_net(x))


def test_modules_can_be_walked() -> None:
    assert sum(isinstance(m, nn.Conv2d) for m in net("espnet", classes=3).modules()) > 30
