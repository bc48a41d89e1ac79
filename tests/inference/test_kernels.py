"""What numba compiled computes what torch does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from wsi_espnet.inference import kernels
from wsi_espnet.inference.layers import Activation

FOLDERS = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
"""Where other processes find these tests, and what they share."""


def as_bf16(values: torch.Tensor) -> torch.Tensor:
    """Through a kernel that leaves values as they are, from float32 to bfloat16."""
    out = np.empty((1, len(values), 1), np.uint16)
    Activation.none(1)(values.float().numpy().reshape(1, -1, 1), out)
    return torch.from_numpy(out).view(torch.bfloat16).flatten()


def test_float32_is_rounded_to_bf16_as_torch_rounds_it() -> None:
    rng = np.random.default_rng(0)
    bits = torch.from_numpy(rng.integers(0, 1 << 32, 100_000, dtype=np.uint64).astype(np.uint32).view(np.float32))
    halves = torch.from_numpy((np.arange(1 << 16, dtype=np.uint32) << 16 | 0x8000).view(np.float32))  # ties
    special = torch.tensor([0.0, -0.0, torch.inf, -torch.inf, 3.4e38, 1e-40])
    for values in (bits, halves, special):
        got, wanted = as_bf16(values), values.to(torch.bfloat16)
        numbers = ~values.isnan() & (values.abs() >= torch.finfo(torch.float32).tiny)  # x * 1 + 0 may flush the others
        torch.testing.assert_close(got[numbers], wanted[numbers], rtol=0, atol=0)
        assert got[values.isnan()].isnan().all()


def test_not_a_number_stays_none_whatever_its_bits() -> None:
    """What all ones as bits round to would be 0."""
    values = torch.from_numpy(np.array([0x7FFFFFFF, 0xFFFFFFFF, 0x7F800001], np.uint32).view(np.float32))
    assert as_bf16(values).isnan().all()


@settings(deadline=None, max_examples=30)
@given(channels=st.integers(1, 40), more=st.integers(0, 8), seed=st.integers(0, 1000))
def test_activation_is_normalisation_and_prelu(channels: int, more: int, seed: int) -> None:
    torch.manual_seed(seed)
    norm, act = torch.nn.BatchNorm2d(channels).eval().requires_grad_(False), torch.nn.PReLU(channels)
    for vector in (norm.running_mean, norm.weight, norm.bias, act.weight.data):
        torch.nn.init.normal_(vector)  # type: ignore[arg-type]
    x, out = torch.randn(5, 7, channels + more), np.full((5, 7, channels + 1), 7, np.float32)
    Activation.of(norm, act)(x.numpy(), out)
    wanted = act(norm(x[None, ..., :channels].permute(0, 3, 1, 2))).detach()[0].permute(1, 2, 0)
    np.testing.assert_allclose(out[..., :channels], wanted, rtol=1e-5, atol=1e-5)
    assert (out[..., channels:] == 7).all()


@settings(deadline=None, max_examples=50)
@given(
    classes=st.integers(1, 21),
    spread=st.sampled_from([0.0, 1.0, 30.0, 1e4]),
    few=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_the_largest_logit_wins_and_shares_are_those_of_softmax(
    classes: int, spread: float, few: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    logits = spread * (rng.integers(-2, 3, (classes, 6, 5)) if few else rng.normal(0, 1, (classes, 6, 5)))
    logits = logits.astype(np.float32)
    labels, shares = np.full((9, 8), 99, np.uint8), np.full((classes, 9, 8), 99, np.uint8)
    assert kernels.read_out(logits, labels, shares, 2, 1)
    np.testing.assert_array_equal(labels[2:8, 1:6], logits.argmax(0))
    odds = np.exp(logits.astype(np.float64) - logits.max(0))
    assert np.abs(shares[:, 2:8, 1:6] - 255 * odds / odds.sum(0)).max() < 0.501
    for result in (labels, *shares):
        result[2:8, 1:6] = 99
        assert (result == 99).all()


def test_one_strange_logit_is_told() -> None:
    for value in (np.nan, np.inf, -np.inf):
        logits = np.zeros((3, 20, 37), np.float32)
        logits[1, 13, 35] = value
        assert not kernels.read_out(logits, np.empty((20, 37), np.uint8), np.empty((3, 20, 37), np.uint8), 0, 0)


def test_kernels_need_no_place_to_be_kept_in(tmp_path: Path) -> None:
    """Neither beside their source nor in a home."""
    package = tmp_path / "kernels_alone.py"
    package.write_bytes(Path(kernels.__file__).read_bytes())
    code = (
        "import numpy as np, numba.core.caching as caching\n"
        "caching._CacheLocator.ensure_cache_path = lambda self: open('/nowhere/at/all', 'w')\n"
        "import kernels_alone as kernels\n"
        "logits, labels = np.zeros((2, 8, 8), np.float32), np.zeros((8, 8), np.uint8)\n"
        "print(kernels.read_out(logits, labels, np.zeros((2, 8, 8), np.uint8), 0, 0))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(tmp_path)}, check=False,
        capture_output=True, text=True,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "True\n"), done.stderr
    assert [path.name for path in tmp_path.rglob("*.nbc")] == []


@pytest.mark.slow
def test_what_is_kept_serves_the_next_process(tmp_path: Path) -> None:
    """Constants of a kernel must not differ from process to process, or each would compile for itself."""
    code = "import sys\nsys.path[:0] = sys.argv[1:]\nimport test_bands as t\nt.banded(t.network(), t.window(24, 40))\n"
    saved = []
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", code, *FOLDERS],
            env=os.environ | {"NUMBA_DEBUG_CACHE": "1", "NUMBA_CACHE_DIR": str(tmp_path)}, check=True,
            capture_output=True, text=True,
        )  # fmt: skip
        saved.append(done.stdout.count("data saved"))
    assert saved[0] > 10  # not the small ones alone, which have no constants
    assert saved[1] == 0


@pytest.mark.slow
def test_no_kernel_leaves_its_arrays(tmp_path: Path) -> None:
    """Kernels do not look where they read and write; numba compiles a look into them if it is asked to."""
    code = (
        "import sys\n"
        "sys.path[:0] = sys.argv[1:]\n"
        "import numpy as np, test_bands as t\n"
        "from wsi_espnet.inference import kernels\n"
        "for classes, skip, band in ((2, 19, 1), (3, 16, 80_000), (6, 19, 1 << 22)):\n"
        "    t.maps.BAND_BYTES = band\n"
        "    t.banded(t.network(classes=classes, skip=skip), t.window(72, 40))\n"
        "t.banded(t.in_precision(t.network(), t.torch.bfloat16), t.window(24, 40))\n"
        "import test_columns as u\n"
        "for begin in range(5):\n"
        "    columns = np.array([(begin, 5 - row % (6 - begin)) for row in range(9)], np.int32)\n"
        "    for dtype in (u.torch.float32, u.torch.bfloat16):\n"
        "        u.logits(t.window(72, 40), columns, dtype=dtype)\n"
        "from test_vectors import product\n"
        "try:\n"
        "    weights = np.zeros((1, 8, 16), np.float32), np.zeros((1, 0, 8), np.float32)\n"
        "    product(np.zeros(20, np.float32), weights, 3)\n"
        "except IndexError:\n"
        "    print('looked there too')\n"
        "logits = np.zeros((3, 5, 7), np.float32)\n"
        "kernels.read_out(logits, np.zeros((9, 7), np.uint8), np.zeros((3, 9, 7), np.uint8), 4, 0)\n"
        "try:\n"
        "    kernels.read_out(logits, np.zeros((8, 7), np.uint8), np.zeros((3, 8, 7), np.uint8), 4, 0)\n"
        "except IndexError:\n"
        "    print('looked')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *FOLDERS],
        # Compiled without optimising, which looks as much in half the time.
        env=os.environ | {"NUMBA_BOUNDSCHECK": "1", "NUMBA_OPT": "0", "NUMBA_CACHE_DIR": str(tmp_path)}, check=False,
        capture_output=True, text=True,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "looked there too\nlooked\n"), done.stderr
