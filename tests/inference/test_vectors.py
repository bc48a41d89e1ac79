"""Sums of products, and convolutions by Winograd's products, are what numpy and torch compute."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numba
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from wsi_espnet.inference import winograd
from wsi_espnet.inference.vectors import Weights, multiply
from wsi_espnet.inference.winograd import convolve

Floats = NDArray[np.float32]

INPUTS, OUTPUTS = 11, 25
"""Of the kernels that are compiled here: more than a vector, and one more than three."""


def product(source: Floats, weights: tuple[Floats, Floats], count: int) -> Floats:
    """`count` px beside each other of `Weights.values`, the rows one behind the other in `source`."""
    (rows, inputs, wide), rest = weights[0].shape, weights[1].shape[1]
    out = np.zeros((count, wide + rest), np.float32)

    @numba.njit  # not kept: what is kept does not see that `vectors` changed
    def once(source: Floats, starts: tuple[int, ...], weights: tuple[Floats, Floats], out: Floats) -> None:
        multiply(source, starts, inputs, weights, out, inputs, wide, rest)

    once(source, tuple(row * len(source) // rows for row in range(rows)), weights, out)
    return out


@pytest.mark.parametrize("outputs", [1, 3, 8, 25, 28, 40])
@pytest.mark.parametrize(("rows", "inputs"), [(1, 6), (1, 131), (3, 12)])
def test_products_are_those_of_matrices(rows: int, inputs: int, outputs: int) -> None:
    rng = np.random.default_rng(0)
    px, weights = rng.normal(size=(rows, 23, inputs)), rng.normal(size=(rows, inputs, outputs))
    found = Weights.of(weights.astype(np.float32))
    got = product(px.astype(np.float32).ravel(), found.values, 23)
    assert found.outputs == outputs
    assert found.sizes[1] + found.sizes[2] == got.shape[1] >= outputs
    np.testing.assert_allclose(got[:, :outputs], np.einsum("rpi,rio->po", px, weights), rtol=1e-4, atol=1e-4)
    assert (got[:, outputs:] == 0).all()


SIZES = winograd.filters(np.zeros((OUTPUTS, INPUTS, 3, 3), np.float32)).sizes
"""Of filters on this processor."""

_, WIDE, REST = SIZES


@numba.njit
def convolve_eleven(source: Floats, column: int, width: int, dilation: int, weights: tuple[Floats, Floats]) -> Floats:
    return convolve(source, column, width, dilation, weights, INPUTS, WIDE, REST)


@settings(deadline=None, max_examples=60)
@given(
    dilation=st.sampled_from([1, 2, 4, 8, 16]),
    rows=st.integers(1, 40),
    width=st.integers(1, 150),
    column=st.integers(16, 20),
    seed=st.integers(0, 1000),
)
def test_winograds_products_are_a_dilated_convolution(
    dilation: int, rows: int, width: int, column: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    px = rng.normal(size=(rows + 2 * dilation, width, INPUTS)).astype(np.float32)
    weight = rng.normal(size=(OUTPUTS, INPUTS, 3, 3)).astype(np.float32)
    source = np.zeros((len(px), column + winograd.room(width, dilation), INPUTS), np.float32)
    source[:, column : column + width] = px
    found = winograd.filters(weight)
    got = convolve_eleven(source, column, width, dilation, found.values)
    x = torch.from_numpy(px.astype(np.float64)).permute(2, 0, 1)[None]
    wanted = F.conv2d(x, torch.from_numpy(weight.astype(np.float64)), padding=(0, dilation), dilation=dilation)
    np.testing.assert_allclose(got[:, :width, :OUTPUTS], wanted[0].permute(1, 2, 0).numpy(), rtol=1e-4, atol=2e-4)


def test_a_convolution_of_other_sizes_is_refused() -> None:
    weights = winograd.filters(np.zeros((OUTPUTS, INPUTS, 3, 3), np.float32)).values
    enough = winograd.room(30, 4)

    def convolved(column: int, columns: int, inputs: int) -> Floats:
        return convolve_eleven(np.zeros((9, columns, inputs), np.float32), column, 30, 4, weights)

    assert convolved(4, 4 + enough, INPUTS).shape == (1, 32, WIDE + REST)
    for column, columns, inputs in ((4, 3 + enough, INPUTS), (3, 4 + enough, INPUTS), (4, 99, INPUTS + 1)):
        with pytest.raises(ValueError, match="of another size"):
            convolved(column, columns, inputs)


def test_weights_for_vectors_of_another_length_are_refused() -> None:
    """Sums of whole vectors would be written behind what there is place for."""
    weights = np.zeros((1, 8, 4), np.float32), np.zeros((1, 0, 8), np.float32)
    with pytest.raises(ValueError, match="vectors of another length"):
        product(np.zeros(80, np.float32), weights, 3)


@pytest.mark.slow
def test_longer_vectors_say_the_same(tmp_path: Path) -> None:
    """Those of AVX-512; on processors without, LLVM takes each for two."""
    code = (
        "import sys\n"
        "sys.path[:0] = sys.argv[1:]\n"
        "from wsi_espnet.inference import vectors\n"
        "vectors.lanes = lambda: 16\n"
        "import test_bands as t\n"
        "module, px = t.network(q=2), t.window(72, 104)\n"
        "got, wanted = t.banded(module, px), t.whole(module, px)\n"
        "t.torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4 * float(wanted.abs().max()))\n"
        "print('equal')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(Path(__file__).parent), str(Path(__file__).parents[1])],
        # Compiled without optimising, in half the time: what is asked for is written before that.
        env=os.environ | {"NUMBA_OPT": "0", "NUMBA_CACHE_DIR": str(tmp_path)}, check=False,
        capture_output=True, text=True,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "equal\n"), done.stderr
