"""What the processes of the training benchmark do."""

from __future__ import annotations

import time
from typing import Any

import lightning.pytorch as pl

from wsi_espnet.training.config import read_config
from wsi_espnet.training.setup import open_data, set_up
from wsi_espnet.training.trainer import arithmetic, choose_device, fit, make_trainer, quiet


def time_steps(*, pipeline: str, data: str, steps: int, warm_up_steps: int, changes: dict[str, Any]) -> dict[str, Any]:
    """Train for some steps; how long those after the first took, and how long the network was at work in that time."""
    config = read_config(pipeline, data=data, changes=changes)
    clock = StepClock(warm_up_steps + steps)
    with arithmetic(config.run.threads), quiet():
        setup = set_up(config, open_data(config), survey=None, rank=0)
        trainer = make_trainer(
            config.run, choose_device(config.run), clip=config.optimiser.clip, callbacks=[clock], logger=False
        )
        fit(trainer, setup, config, checkpoint=None)
    seconds = clock.ends[-1] - clock.ends[warm_up_steps - 1]
    counted = zip(clock.starts[warm_up_steps:], clock.ends[warm_up_steps:], strict=True)
    return {
        "seconds": seconds,
        "network_seconds": sum(end - start for start, end in counted),
        "images_per_s": steps * config.run.batch / seconds,
        "steps": steps,
        "batch": config.run.batch,
    }


class StepClock(pl.Callback):
    """When each step began and ended, and no more of them than are wanted."""

    def __init__(self, steps: int) -> None:
        self.steps = steps
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
        trainer.should_stop = trainer.should_stop or len(self.ends) == self.steps
