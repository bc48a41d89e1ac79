"""Killed at any moment and started again, a run ends with the bytes of one that was left in peace."""

from __future__ import annotations

import itertools
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from small import blobs, die_after, differing_files, in_process, small_slide, tiny_model

from wsi_espnet.errors import SlideReadError
from wsi_espnet.geometry import ReadPlan, Region
from wsi_espnet.resume import read_mark
from wsi_espnet.segment import segment
from wsi_espnet.slides.slide import Slide
from wsi_espnet.slides.source import open_source
from wsi_espnet.slides.tile import tile

Work = Callable[..., None]

SIDES = {"few windows": (280, 540), "many windows": (1200, 1200), "many shards": (2400, 2400)}


def run_segment(folder: Path, out: Path, files: int | None, options: dict[str, Any]) -> None:
    if files is not None:
        die_after(files)
    segment(folder / "slide.svs", out, model=folder / "tiny.safetensors", **options)


def run_tile(folder: Path, out: Path, files: int | None, options: dict[str, Any]) -> None:
    if files is not None:
        die_after(files)
    with open_source(folder / "slide.svs") as source:
        tile(source, out / "slide.ome.zarr", mpp=0.55, workers=2, **options)


def run_damaged(folder: Path, out: Path, files: int | None, options: dict[str, Any]) -> None:
    """As `run_segment`, on a slide of which the second core cannot be read."""
    whole = Slide.read

    def read(self: Slide, plan: ReadPlan, region: Region) -> NDArray[np.uint8]:
        if plan.mpp[0] < 1 and region.x < 150 < 200 < region.x + region.w and region.y < 50:
            raise SlideReadError(f"{self.path} is damaged")
        return whole(self, plan, region)

    Slide.read = read  # type: ignore[method-assign]
    run_segment(folder, out, files, options)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Slide and network, for short runs and for long ones."""
    made = {}
    for name, (height, width) in SIDES.items():
        made[name] = tmp_path_factory.mktemp("slides")
        picture = blobs(min(height, 600), min(width, 600))
        px = np.tile(picture, (height // picture.shape[0], width // picture.shape[1], 1))
        small_slide(made[name] / "slide.svs", px)
        tiny_model(made[name] / "tiny.safetensors", core_px=128)
    return made


def state(out: Path) -> str | None:
    """What the result says about itself."""
    return (read_mark(out / "slide.ome.zarr") or {}).get("state")


def run_quietly(work: Work, folder: Path, out: Path, options: dict[str, Any]) -> None:
    process = in_process(work, folder, out, None, options)
    process.join(timeout=60)
    assert process.exitcode == 0


def killed_after(files: int, work: Work, folder: Path, out: Path, options: dict[str, Any]) -> bool:
    """Whether a run died with `files` files written; False where it ended before."""
    process = in_process(work, folder, out, files, options)
    process.join(timeout=60)
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode != 0


RUNS = {
    "segment": (run_segment, {}, 6),
    "segment, cropped, with probabilities": (run_segment, {"stitch": "crop", "probabilities": True}, 15),
    "tile": (run_tile, {}, 1),
}
"""What is run, and how many files more it may write from one kill to the next."""


@pytest.mark.slow
@pytest.mark.parametrize(("work", "options", "step"), RUNS.values(), ids=RUNS)
def test_a_run_killed_between_any_two_files_ends_with_the_same_bytes(
    folders: dict[str, Path], tmp_path: Path, work: Work, options: dict[str, Any], step: int
) -> None:
    folder = folders["few windows"]
    quiet = tmp_path / "quiet"
    run_quietly(work, folder, quiet, options)
    wrong = {}
    for files in itertools.count(0, step):
        out = tmp_path / str(files)
        if not killed_after(files, work, folder, out, options):
            break
        run_quietly(work, folder, out, options)
        wrong[files] = differing_files(out, quiet)
    assert len(wrong) >= 4
    assert not any(wrong.values()), wrong


@pytest.mark.slow
def test_a_run_killed_among_unreadable_windows_ends_with_the_same_bytes_once_they_are_mended(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    folder = folders["few windows"]
    quiet = tmp_path / "quiet"
    run_quietly(run_segment, folder, quiet, {})
    wrong = {}
    for files in itertools.count(24, 5):
        out = tmp_path / str(files)
        killed = killed_after(files, run_damaged, folder, out, {})
        if not killed:
            assert list((out / "slide.failures").iterdir())
        run_quietly(run_segment, folder, out, {})
        wrong[files] = differing_files(out, quiet)
        if not killed:
            break
    assert len(wrong) >= 4
    assert not any(wrong.values()), wrong


@pytest.mark.slow
@pytest.mark.parametrize(
    ("work", "slide", "seed"),
    [(run_segment, "many windows", 0), (run_tile, "many shards", 1)],
    ids=["segment", "tile"],
)
def test_a_run_killed_at_ten_random_moments_ends_with_the_same_bytes(
    folders: dict[str, Path], tmp_path: Path, work: Work, slide: str, seed: int
) -> None:
    folder = folders[slide]
    quiet, out = tmp_path / "quiet", tmp_path / "out"
    started = time.monotonic()
    run_quietly(work, folder, quiet, {})
    seconds = time.monotonic() - started
    rng = random.Random(seed)
    cut_short = 0
    for _ in range(10):
        process = in_process(work, folder, out, None, {})
        process.join(timeout=rng.uniform(0.1, 0.3) * seconds)
        cut_short += process.is_alive()
        process.kill()
        process.join()
    run_quietly(work, folder, out, {})
    assert cut_short >= 3
    assert state(out) == state(quiet) == "done"
    assert differing_files(out, quiet) == []
