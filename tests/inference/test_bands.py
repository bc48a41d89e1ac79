"""In bands or whole, a network says the same."""

from __future__ import annotations

import logging
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_networks import MEAN, SCALE, network, window
from torch import Tensor, nn

from wsi_espnet.inference import maps, segmenter
from wsi_espnet.inference.bands import BandedEspNet
from wsi_espnet.inference.layers import Convolution, in_precision
from wsi_espnet.inference.maps import Workspace
from wsi_espnet.inference.segmenter import BandedSegmenter, Segmenter, read_out
from wsi_espnet.models.catalog import find_model, read_card
from wsi_espnet.models.espnet import EspNet


def whole(module: EspNet, px: Tensor) -> Tensor:
    return module(((px.float() - MEAN) * SCALE).permute(2, 0, 1)[None])  # type: ignore[no-any-return]


def banded(module: EspNet, px: Tensor, workspace: Workspace | None = None) -> Tensor:
    dtype = module.classifier.weight.dtype
    found = list(BandedEspNet(module)(px, MEAN, SCALE, workspace or Workspace(dtype)))
    assert [row for row, _, _ in found] == list(np.cumsum([0, *(x.shape[1] for _, _, x in found)])[:-1])
    return torch.from_numpy(np.concatenate([x for _, _, x in found], axis=1))[None]


@settings(deadline=None, max_examples=30)
@given(
    height=st.integers(1, 40),
    width=st.integers(1, 16),
    p=st.integers(1, 3),
    q=st.integers(1, 3),
    classes=st.sampled_from([2, 3, 6, 12]),  # kernels are compiled for each
    skip=st.sampled_from([16, 19]),
    size=st.sampled_from([1, 12000, 80000, 1 << 22]),
    seed=st.integers(0, 1000),
)
def test_bands_say_what_the_whole_says(
    height: int, width: int, p: int, q: int, classes: int, skip: int, size: int, seed: int
) -> None:
    module, px = network(p=p, q=q, classes=classes, skip=skip, seed=seed), window(8 * height, 8 * width, seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(maps, "BAND_BYTES", size)
        got = banded(module, px)
    wanted = whole(module, px)
    assert got.shape == wanted.shape
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4 * float(wanted.abs().max()))


def test_a_part_of_a_picture_is_a_window() -> None:
    module, px = network(), window(24, 64)
    torch.testing.assert_close(banded(module, px[:, 8:48]), banded(module, px[:, 8:48].contiguous()), rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kernel", [1, 3])
def test_a_convolution_takes_and_gives_channels_last(kernel: int, dtype: torch.dtype) -> None:
    """A band that torch does not see as such is copied to other orders and back, in four times the time."""
    convolve = Convolution(torch.randn(8, 24, kernel, kernel).to(dtype))
    band = np.zeros((12, 40, 24), Workspace(dtype).array("", 1).dtype)
    assert convolve(band).flags.c_contiguous


@settings(deadline=None, max_examples=30)
@given(classes=st.integers(1, 21), few=st.booleans(), seed=st.integers(0, 1000))
def test_the_largest_logit_wins_and_of_equal_ones_the_first(classes: int, few: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    logits = rng.integers(-2, 3, (2, classes, 6, 5)) if few else rng.normal(0, 3, (2, classes, 6, 5))
    labels, probabilities = read_out(torch.from_numpy(logits.astype(np.float32)))
    np.testing.assert_array_equal(labels, logits.argmax(1))
    odds = np.exp(logits)
    assert np.abs(probabilities.numpy() - 255 * odds / odds.sum(1, keepdims=True)).max() < 0.501
    assert labels.dtype == probabilities.dtype == torch.uint8


def test_a_workspace_forgets_the_window_before() -> None:
    module, used = network(), Workspace(torch.float32)
    for number, (height, width) in enumerate([(256, 128), (64, 320), (96, 40), (512, 256), (256, 128)]):
        px = window(height, width, number)
        assert torch.equal(banded(module, px, used), banded(module, px))


def test_memory_grows_under_nobody_who_looks_at_it() -> None:
    used = Workspace(torch.float32)
    small = used.array("map", 5)
    small[:] = 1
    used.array("map", 3, 1 << 20)[:] = 2
    assert small.tolist() == [1] * 5
    del small
    used.array("map", 7 << 20)[:] = 3
    assert [len(block) for block in used._blocks.values()] == [4 * (7 << 20)]


def test_what_is_kept_is_sixty_bytes_a_px() -> None:
    """Detail 19, two maps of the pyramids 32, reduced maps 7, image 1, classes 2, a band 2: the rest are margins."""
    used = Workspace(torch.float32)
    banded(network(), window(2048, 1024), used)
    kept = sum(len(block) for block in used._blocks.values())
    assert kept / (2048 * 1024) < 67


def test_bands_in_bf16_are_nearer_to_fp32_than_the_whole_in_it() -> None:
    module, px = network(q=3), window(256, 256)
    wanted = whole(module, px)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = whole(module, px)
    got = banded(in_precision(module, torch.bfloat16), px)
    assert got.dtype == torch.float32
    assert (got - wanted).abs().mean() < (mixed - wanted).abs().mean()
    assert (got.argmax(1) == wanted.argmax(1)).float().mean() > 0.97


def test_a_copy_in_another_precision_convolves_in_it_and_leaves_the_network() -> None:
    module = network()
    copy = in_precision(module, torch.bfloat16)
    assert {x.dtype for x in module.state_dict().values() if x.is_floating_point()} == {torch.float32}
    convolutions = nn.Conv2d, nn.ConvTranspose2d
    kinds = {(isinstance(layer, convolutions), x.dtype) for layer in copy.modules() for x in layer.parameters(False)}
    assert kinds == {(True, torch.bfloat16), (False, torch.float32)}


def test_the_memory_of_a_large_picture_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segmenter, "KEPT_PX", 64 * 64)
    run, seen = segmenter.Banded(network(), torch.float32), torch.randn(1, 3, 66, 60)
    assert torch.equal(run(seen), run(seen))
    assert run._idle == []
    run(seen[..., :64, :])
    assert len(run._idle) == 1


def test_calls_at_once_have_a_workspace_each_and_threads_that_take_turns_share_one() -> None:
    card = read_card(find_model("glas-colon"))
    run = BandedSegmenter(Segmenter(network(), card, torch.float32, "cpu"))
    windows = [window(256, 256, seed)[None] for seed in range(8)]
    wanted = [run(px)[0] for px in windows]
    for px, labels in zip(windows, wanted, strict=True):
        with ThreadPoolExecutor(1) as pool:  # brings a new thread
            assert torch.equal(pool.submit(run, px).result()[0], labels)
    assert len(run._network._idle) == 1
    with ThreadPoolExecutor(2) as pool:  # what one writes, the other must not read
        for (got, *_), labels in zip(pool.map(run, windows * 3), wanted * 3, strict=True):
            assert torch.equal(got, labels)
    assert len(run._network._idle) <= 2
    with run._network._workspace() as one, run._network._workspace() as other:
        assert one is not other


def test_who_waits_for_kernels_is_told_once(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(segmenter, "TOLD_AFTER_S", 0.05)
    banded_network = segmenter.Banded(network(), torch.float32)
    run = banded_network._run

    def slow(*args: object) -> object:
        time.sleep(0.3)
        return run(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(slow, "classes", run.classes, raising=False)
    monkeypatch.setattr(banded_network, "_run", slow)
    with caplog.at_level(logging.INFO):
        for _ in range(2):
            banded_network(torch.zeros((1, 3, 8, 8)))
    assert [record.message.split(",")[0] for record in caplog.records] == ["compiling the network for this processor"]
