"""Training: what share of the time between two steps is the network's, the rest waiting for images."""

from __future__ import annotations

import logging
import time
from typing import Any

import lightning.pytorch as pl

from wsi_espnet.bench.process import Measured, measure
from wsi_espnet.bench.report import Check, Report
from wsi_espnet.bench.settings import Settings
from wsi_espnet.training.config import read_config
from wsi_espnet.training.setup import open_data, set_up
from wsi_espnet.training.trainer import arithmetic, fit, make_trainer, quiet

STEPS = 20
WARM_UP_STEPS = 2
WANTED = 0.9

RUNS: dict[str, tuple[str, dict[str, Any]]] = {
    "CamVid, decoded images kept": ("camvid", {}),
    "CamVid, each image read from its file": ("camvid", {"data.cache": False}),
    "GlaS, stain and pose changed": ("glas", {}),
}
"""Pipeline, which is also the folder's name below the data, and changes to it."""

log = logging.getLogger(__name__)


def run(settings: Settings) -> Report:
    """Time some steps of each pipeline, with images read by the process itself and by one beside it."""
    found: dict[str, Measured] = {}
    for title, (pipeline, changes) in RUNS.items():
        for workers in (0, 1):
            log.info("training: %s, %d loader processes", title, workers)
            arguments = {
                "pipeline": f"pipelines/{pipeline}.toml",
                "data": str(settings.data / "data" / pipeline),
                "changes": {**changes, "run.workers": workers},
            }
            found[f"{title}, {'a' if workers else 'no'} loader process"] = measure("train", arguments)
    return _report(found)


def _report(found: dict[str, Measured]) -> Report:
    shares = {title: one.result["network_seconds"] / one.result["seconds"] for title, one in found.items()}
    rows = [
        (title, f"{one.result['seconds'] / STEPS:.2f} s", f"{shares[title]:.1%}", f"{one.result['images_per_s']:.1f}")
        for title, one in found.items()
    ]
    checks = [
        Check(f"network's share, {title}", f"> {WANTED:.0%}", f"{share:.1%}", share > WANTED)
        for title, share in shares.items()
    ]
    return Report(
        name="training",
        title="share of a training step that is forward, backward and the optimiser's",
        columns=("", "a step", "network", "crops/s"),
        rows=rows,
        checks=checks,
        facts={"runs": {title: one.facts | {"network_share": shares[title]} for title, one in found.items()}},
        notes=(f"{STEPS} steps of the pipeline's own batch, after {WARM_UP_STEPS} that are not counted.",),
    )


def time_steps(*, pipeline: str, data: str, changes: dict[str, Any]) -> dict[str, Any]:
    """Train for some steps; how long they took, and how long the network was at work in that time."""
    config = read_config(pipeline, data=data, changes=changes)
    clock = StepClock()
    with arithmetic(config.run.threads), quiet():
        setup = set_up(config, open_data(config), survey=None, rank=0)
        trainer = make_trainer(config.run, clip=config.optimiser.clip, callbacks=[clock], logger=False)
        fit(trainer, setup, config, checkpoint=None)
    seconds = clock.ends[-1] - clock.ends[WARM_UP_STEPS - 1]
    inside = sum(end - start for start, end in zip(clock.starts, clock.ends, strict=True) if start > clock.ends[1])
    return {
        "seconds": seconds,
        "network_seconds": inside,
        "images_per_s": STEPS * config.run.batch / seconds,
        "steps": STEPS,
        "batch": config.run.batch,
    }


class StepClock(pl.Callback):
    """When each step began and ended, and no more of them than are wanted."""

    def __init__(self) -> None:
        self.starts: list[float] = []
        self.ends: list[float] = []

    def on_train_batch_start(self, trainer: pl.Trainer, module: pl.LightningModule, batch: Any, batch_idx: int) -> None:
        """The images are there."""
        self.starts.append(time.perf_counter())

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """The weights have moved."""
        self.ends.append(time.perf_counter())
        trainer.should_stop = trainer.should_stop or len(self.ends) == WARM_UP_STEPS + STEPS
