"""Networks compiled for this machine's CPU, kept between runs."""

from __future__ import annotations

import functools
import hashlib
import logging
import math
import os
import pickle
import platform
import shutil
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

Run = Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]

_WARM_UP_PX = (832, 896)
"""Two different multiples of 8, so that neither side is taken for a constant. In fp32 torch convolves inputs of up to
20480 values in another way, which is compiled apart; here the smallest input, 2 classes at stride 8, is larger."""

_UNFIT = (OSError, EOFError, pickle.UnpicklingError, AttributeError, ImportError, RuntimeError, ValueError)
"""What loading a damaged file, or one for another machine, raises; compiling anew mends each."""

_SMALLEST_PX = 64
"""Windows with a shorter side, or with fewer px than at the warm-up, are computed as they are: the code is made for
the ways of convolving that torch takes from there on."""

log = logging.getLogger(__name__)


def find_compiler() -> str | None:
    """Path of a C++ compiler, if there is one."""
    return next(
        (found for name in (os.environ.get("CXX"), "g++", "c++") if name and (found := shutil.which(name))),
        None,
    )


def compile_network(network: nn.Module, key: str, *, sources: Sequence[Path]) -> Run:
    """The network as machine code for any window size; threads may call it at once.

    The C++ wrapper releases Python's lock while it runs, so that threads really compute side by side (8.4 against
    2.9 Mpx/s with two threads on two cores). The code is kept in a folder of the user's cache: tracing the network
    and looking up its code anew takes 13 s, loading what was kept 4 s, compiling 30 to 70 s (on two cores).

    Parameters
    ----------
    network
        From (B, H, W, 3) uint8 to three tensors, the last one of them (); no parameter asks for gradients. The code
        takes the windows of a batch one by one, so the batch does not change what comes out.
    key
        What `network` is: other weights and another precision have other keys.
    sources
        Files that it is written in; what was compiled before they changed is not used.
    """
    folder = Path(os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(_cache_dir())))
    path = folder / f"network-{digest(key, sources)}.bin"
    torch.set_num_threads(1)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # notes of the compiler about itself, nothing that a user can act on
        example = torch.zeros((1, *_WARM_UP_PX, 3), dtype=torch.uint8)
        run = _load(path, network, example)
        if run is None:
            for side in (1, 2):
                torch._dynamo.maybe_mark_dynamic(example, side)
            compiled: Any = torch.compile(network, fullgraph=True, options={"cpp_wrapper": True})
            found = compiled.forward.aot_compile(((example,), {}))  # no longer traced at its calls
            run = functools.partial(found, network)
            run(example)
            try:
                folder.mkdir(parents=True, exist_ok=True)
                found.save_compiled_function(str(path))  # under another name first
            except OSError as exc:
                log.warning("warning: the compiled network cannot be kept in %s: %s", folder, exc.strerror)
    return functools.partial(_run, run, network)


def _run(compiled: Run, network: nn.Module, windows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    height, width = windows.shape[1:3]
    if min(height, width) < _SMALLEST_PX or height * width < math.prod(_WARM_UP_PX):
        found: tuple[Tensor, Tensor, Tensor] = network(windows)
        return found
    # The code looks at strides, and that of an axis of length 1 may be anything until the axis is made anew.
    one_by_one = (compiled(window.contiguous()[None]) for window in windows)
    if len(windows) == 1:
        return next(one_by_one)
    labels, probabilities, finite = zip(*one_by_one, strict=True)
    return torch.cat(labels), torch.cat(probabilities), torch.stack(finite).all()


def _load(path: Path, network: nn.Module, example: Tensor) -> Run | None:
    """What an earlier run has kept, or None."""
    if not path.is_file():
        return None
    try:
        with path.open("rb") as file:
            run = functools.partial(torch.compiler.load_compiled_function(file), network)
        run(example)  # its guards say whether it fits
    except _UNFIT as exc:
        log.info("the compiled network in %s is not used: %s", path, exc)
        return None
    return run


def digest(key: str, sources: Sequence[Path]) -> str:
    """A name for everything that machine code depends on; folders of users may be shared by unlike machines."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.is_file() else [platform.processor()]
    cpu = next((line for line in lines if line.startswith(("flags", "Features"))), lines[0])
    digest = hashlib.sha256("\n".join((key, torch.__version__, cpu)).encode())
    for source in sources:
        digest.update(source.read_bytes())
    return digest.hexdigest()[:32]


def _cache_dir() -> Path:
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "wsi-espnet" / "compiled"
