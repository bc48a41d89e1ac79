"""Composed small slides, tiny networks, and what two results must have in common."""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from slides.make import write_slide

from wsi_espnet.classes import ClassTable, TissueClass
from wsi_espnet.models.card import ModelCard, Normalisation
from wsi_espnet.models.espnet import build
from wsi_espnet.models.network_config import EspNetConfig
from wsi_espnet.models.weights import save_model
from wsi_espnet.outputs.result import SLIDE
from wsi_espnet.resume import KEY

Px = NDArray[np.uint8]

MPP = 0.5
"""um per px of all slides and networks here."""

CLASSES = ClassTable(
    name="three",
    classes=(
        TissueClass(id=0, name="glass", color=(255, 255, 255)),
        TissueClass(id=1, name="stroma", color=(230, 120, 160)),
        TissueClass(id=2, name="gland", color=(70, 40, 150)),
    ),
    glass=0,
)


def reach_px(*, p: int, q: int, decoder: bool) -> int:
    """Px beyond which an ESPNet (p, q) sees nothing, to each side, as a multiple of 8.

    The encoder sees 399 + 128 p + 256 q px, the decoder widens that by 132; enlarging coarse logits takes 8 more.
    """
    seen = 399 + 128 * p + 256 * q + (132 if decoder else 16)
    return -(-seen // 2 // 8) * 8


def tiny_model(
    path: Path,
    *,
    architecture: Literal["encoder", "espnet-c", "espnet"] = "espnet",
    p: int = 0,
    q: int = 1,
    core_px: int = 256,
    halo_px: int = 32,
    mpp: float | None = MPP,
    classes: ClassTable = CLASSES,
    constant: float | None = None,
    seed: int = 3,
) -> Path:
    """A network of random weights with a card, small enough to be run hundreds of times.

    `constant` takes the place of every weight.
    """
    torch.manual_seed(seed)
    config = EspNetConfig(architecture=architecture, p=p, q=q, classes=len(classes))
    module = build(config).eval()
    if constant is not None:
        for weight in module.parameters():
            torch.nn.init.constant_(weight, constant)
    card = ModelCard(
        name="tiny",
        summary="random weights",
        network=config,
        classes=classes,
        mpp=mpp,
        normalisation=Normalisation(mean=(200.0, 160.0, 190.0), std=(40.0, 50.0, 40.0)),
        data="none",
        terms="none",
        split="none",
        scores={},
        limits="means nothing",
        source="made by the tests",
        core_px=core_px,
        halo_px=halo_px,
    )
    return save_model(path, module, card)


def blobs(height: int, width: int, *, seed: int = 0, share: float = 0.5) -> Px:
    """Pink and violet tissue with structure on white glass; about `share` of it is tissue."""
    rng = np.random.default_rng(seed)
    coarse, fine, grain = (
        gaussian_filter(rng.standard_normal((height, width)).astype(np.float32), sigma) for sigma in (60, 8, 1)
    )
    tissue = coarse > np.quantile(coarse, 1 - share)
    gland = fine > 0
    px = np.where(gland[..., None], (120, 60, 160), (225, 150, 190)).astype(np.float32)
    px += 60 * (grain / grain.std() / 4)[..., None]
    px[~tissue] = 245
    return np.clip(px, 0, 255).astype(np.uint8)


def small_slide(path: Path, px: Px, *, mpp: float | None = MPP) -> Path:
    """An Aperio slide of two levels."""
    return write_slide(path, [px, px[::4, ::4]], mpp=mpp, kind="aperio")


def some_of_camvid(root: Path, to: Path, step: int) -> Path:
    """Every so manieth image of the validation split, as a data set of its own."""
    for folder in ("val", "valannot"):
        (to / folder).mkdir(parents=True)
        for path in sorted((root / folder).iterdir())[::step]:
            (to / folder / path.name).symlink_to(path.resolve())
    return to


def files_below(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, by its relative path; of a result without its word on where the slide lies."""
    return {str(path.relative_to(folder)): _content(path) for path in sorted(folder.rglob("*")) if path.is_file()}


def _content(path: Path) -> bytes:
    content = path.read_bytes()
    if path.name == "zarr.json" and SLIDE.encode() in content:
        document = json.loads(content)
        document.get("attributes", {}).get(KEY, {}).pop(SLIDE, None)
        return json.dumps(document).encode()
    return content


def differing_files(a: Path, b: Path) -> list[str]:
    """Names of the files that two folders do not have in common, or that differ; none if they are equal."""
    left, right = files_below(a), files_below(b)
    return sorted(name for name in left.keys() | right.keys() if left.get(name) != right.get(name))


class Told(NamedTuple):
    """What a command left with: exit status, stdout, stderr."""

    status: int
    out: str
    err: str

    def assert_refused(self, status: int, *words: str) -> None:
        """One sentence on stderr that says these words, the right exit status, nothing else."""
        assert self.status == status, self.err
        assert self.out == ""
        lines = self.err.splitlines()
        assert len(lines) == 1, self.err
        assert lines[0].startswith("error: ")
        assert [word for word in words if word.lower() not in lines[0].lower()] == [], lines[0]


Call = Callable[..., Told]
"""The command as a function of its words."""


def run_process(*arguments: object, **how: Any) -> Told:
    """The installed command in a process of its own; `how` goes to `subprocess.run`."""
    done = subprocess.run(command(*arguments), capture_output=True, text=True, timeout=120, check=False, **how)
    return Told(done.returncode, done.stdout, done.stderr)


def command(*arguments: object) -> list[str]:
    """Words that start the installed command."""
    return [str(Path(sys.executable).with_name("wsi-espnet")), *map(str, arguments)]


PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(
    ["pytest", "scipy.ndimage", "wsi_espnet.segment", "wsi_espnet.slides.tile", "wsi_espnet.inference.torch_backend"]
)
"""Real processes that start in milliseconds: they are forked from one that has imported torch and done nothing else."""


def in_process(work: Callable[..., None], *arguments: Any) -> ForkServerProcess:
    """Start a function of a module in a process of its own, which can be killed."""
    process = PROCESSES.Process(target=work, args=arguments, daemon=True)
    process.start()
    return process


def die_after(files: int) -> None:
    """Let this process be killed by SIGKILL when it is about to put its file number `files` (from 0) into place.

    Everything in a result is written under another name and moved into place: between two moves nothing changes.
    """
    count = itertools.count()
    move = os.replace

    def counted(*paths: Any, **how: Any) -> None:
        if next(count) == files:
            os.kill(os.getpid(), signal.SIGKILL)
        move(*paths, **how)

    os.replace = counted
