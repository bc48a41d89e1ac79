"""What the benchmarks' processes do with this package itself."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from wsi_espnet import segment_setup
from wsi_espnet.bench.trace import Trace
from wsi_espnet.geometry import Region
from wsi_espnet.grid import MULTIPLE, intersect
from wsi_espnet.inference import tasks
from wsi_espnet.inference.columns import wanted_columns
from wsi_espnet.inference.predictor import Execution
from wsi_espnet.inference.torch_backend import TorchPredictor, choose_execution
from wsi_espnet.outputs import result as result_folder
from wsi_espnet.outputs.ome_zarr import ResultStore
from wsi_espnet.outputs.result import ResultFolder
from wsi_espnet.segment import segment
from wsi_espnet.slides.source import open_source

CELL_PX = (512, 768)
"""(height, width) of the part of each image, from its middle, that a composed slide shows."""


def segment_slide(*, slide: str, out: str, traced: bool = False, **options: Any) -> dict[str, Any]:
    """`wsi_espnet.segment` with options; with `traced` also where its time went."""
    trace = _watch_run() if traced else None
    started = time.monotonic()
    done = segment(slide, out, overwrite=True, **options)
    stopped = time.monotonic()
    facts: dict[str, Any] = {
        "mask": str(done.path / "labels" / "classes" / "0"),
        "tissue_mask": str(done.path / "labels" / "tissue" / "0"),
        "shape": list(done.plan.shape),
        "seconds": done.seconds,
        "windows": done.windows,
        "work_px": done.work_px,
        "tissue_px": done.areas.tissue_px,
        "failures": len(done.failures),
        "execution": _facts(done.execution),
    }
    return facts if trace is None else {**facts, "trace": _where(trace, started, stopped)}


def plan_work(*, slide: str, model: str, **options: Any) -> dict[str, Any]:
    """What the network would have to compute; nothing is computed."""
    with open_source(slide) as source:
        setup = segment_setup.decide(source, **{**_SETUP, **options}, model=model)
    windows = setup.windows.values()
    return {
        "windows": len(windows),
        "work_px": sum(window.work_px for window in windows),
        "cores_px": sum(window.core.area for window in windows),
    }


def bare_network(*, slide: str, model: str, **options: Any) -> dict[str, Any]:
    """The windows of a run, read into memory first, through the network and nothing else, on as many threads."""
    with open_source(slide) as source:
        setup = segment_setup.decide(source, **{**_SETUP, **options}, model=model)
        planned = setup.windows.values()
        windows = [tasks.read_window(source, setup.plan, window.read)[None] for window in planned]
        columns = [[wanted_columns(window, setup.tissue)] for window in planned]
    predictor = TorchPredictor(setup.model, setup.execution)
    workers = setup.memory.workers
    with ThreadPoolExecutor(workers) as pool:
        # Each thread has met the network before the clock starts.
        list(pool.map(predictor.predict, windows[:workers], columns))
        started = time.monotonic()
        for _ in pool.map(lambda *given: predictor.predict(*given).labels.shape, windows, columns):
            pass
        seconds = time.monotonic() - started
    work_px = sum(window.work_px for window in setup.windows.values())
    facts = {"seconds": seconds, "windows": len(windows), "work_px": work_px, "workers": workers}
    return {**facts, "execution": _facts(setup.execution)}


def images_alone(*, placement: str, glas: str, model: str, out: str, halo: int, **options: Any) -> dict[str, Any]:
    """Each image of a composed slide segmented by itself, mirrored `halo` px beyond its sides, laid out as the slide.

    Writes the labels of the whole slide, as an array (h, w) uint8, to the file `out`.
    """
    info = json.loads(Path(placement).read_text(encoding="utf-8"))
    execution = choose_execution(**{**_EXECUTION, **options})
    predictor = TorchPredictor(model, execution)
    labels = np.zeros((info["height"], info["width"]), np.uint8)
    known: dict[tuple[str, bool, bool], NDArray[np.uint8]] = {}
    for cell in info["cells"]:
        key = (cell["image"], cell["flip_y"], cell["flip_x"])
        if key not in known:
            known[key] = _mirrored(predictor, _shown(Path(glas) / "images" / f"{key[0]}.jpg", *key[1:]), halo)
        _paste(labels, known[key], cell["y"], cell["x"])
    np.save(out, labels)
    return {"mask": out, "images": len({key[0] for key in known}), "execution": _facts(execution)}


def cells_apart(*, slide: str, placement: str, model: str, out: str, halo: int, **options: Any) -> dict[str, Any]:
    """As `images_alone`, but each image as the slide shows it: compressed once more, and cut by glass."""
    info = json.loads(Path(placement).read_text(encoding="utf-8"))
    execution = choose_execution(**{**_EXECUTION, **options})
    predictor = TorchPredictor(model, execution)
    labels = np.zeros((info["height"], info["width"]), np.uint8)
    with open_source(slide) as source:
        plan = source.plan(predictor.card.mpp)
        for cell in info["cells"]:
            region = intersect(Region(cell["y"], cell["x"], *CELL_PX), plan.region)
            if region is not None:
                labels[region.slices] = _mirrored(predictor, source.read(plan, region), halo)
    np.save(out, labels)
    return {"mask": out, "cells": len(info["cells"]), "execution": _facts(execution)}


def _shown(image: Path, flip_y: bool, flip_x: bool) -> NDArray[np.uint8]:
    """The middle of an image, turned as the slide shows it."""
    px = np.asarray(Image.open(image).convert("RGB"))
    y, x = (px.shape[0] - CELL_PX[0]) // 2, (px.shape[1] - CELL_PX[1]) // 2
    return px[y : y + CELL_PX[0], x : x + CELL_PX[1]][:: -1 if flip_y else 1, :: -1 if flip_x else 1]


def _mirrored(predictor: TorchPredictor, px: NDArray[np.uint8], halo: int) -> NDArray[np.uint8]:
    """Labels of px that are mirrored beyond their sides, there lengthened to a multiple of 8."""
    h, w = px.shape[:2]
    around = np.pad(px, ((halo, halo + -h % MULTIPLE), (halo, halo + -w % MULTIPLE), (0, 0)), mode="symmetric")
    return predictor.predict(around[None]).labels[0, halo : halo + h, halo : halo + w]


def _paste(canvas: NDArray[np.uint8], part: NDArray[np.uint8], y: int, x: int) -> None:
    top, left = max(0, -y), max(0, -x)
    target = canvas[y + top : y + part.shape[0], x + left : x + part.shape[1]]
    target[...] = part[top : top + target.shape[0], left : left + target.shape[1]]


def _watch_run() -> Trace:
    trace = Trace()
    trace.watch(segment_setup, "find_tissue", "find tissue")
    trace.watch(ResultFolder, "open", "open result")
    trace.watch(TorchPredictor, "__init__", "open network")
    trace.watch(tasks, "read_window", "read")
    trace.watch(TorchPredictor, "predict", "network")
    trace.watch(tasks, "split", "split")
    trace.watch(tasks, "blend", "blend")
    trace.watch(ResultStore, "write", "write")
    trace.watch(ResultStore, "reduce", "pyramid")
    trace.watch(result_folder, "measure_areas", "areas")
    trace.watch(ResultFolder, "_draw", "overview")
    return trace


def _where(trace: Trace, started: float, stopped: float) -> dict[str, Any]:
    first, last = trace.between("network")
    phases = {"before the first window": first - started, "windows": last - first, "after the last": stopped - last}
    return {"phases": phases, "seconds_over_threads": trace.seconds()}


def _facts(execution: Execution) -> dict[str, Any]:
    return {"device": execution.device, "precision": execution.precision}


_EXECUTION: dict[str, Any] = {"device": "cpu", "precision": "auto", "batch": 1}
_SETUP: dict[str, Any] = {
    **_EXECUTION,
    "backend": "torch",
    "mpp": None,
    "allow_upsampling": False,
    "tissue": "auto",
    "window": None,
    "halo": None,
    "stitch": "blend",
    "workers": None,
    "memory_bytes": None,
    "probabilities": False,
}
"""Defaults of `wsi_espnet.segment.segment`, on the CPU."""
