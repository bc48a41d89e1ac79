"""What is written while a run goes on: lines of the logs, pictures, checkpoints, the best network."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from wsi_espnet.atomic import write_bytes_atomic
from wsi_espnet.training.make_card import MEANS
from wsi_espnet.training.module import SegmentationModule
from wsi_espnet.training.run_folder import RunFolder, read_rows, write_rows
from wsi_espnet.training.steps import rate_factor


@dataclass(frozen=True, slots=True)
class TrainProgress:
    """Where a run stands: epochs and steps are counted from 1, `miou` is the last score, if there is one."""

    epoch: int
    epochs: int
    step: int
    steps: int
    loss: float
    miou: float | None


class WholeCheckpoints(TorchCheckpointIO):
    """Checkpoints that a killed process leaves whole or not at all."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Write one file."""
        content = io.BytesIO()
        torch.save(checkpoint, content)
        write_bytes_atomic(Path(path), content.getvalue())


class Logbook(pl.Callback):
    """`steps.csv`, `log.csv` and TensorBoard.

    The files are written at the end of an epoch, before its checkpoint; lines after the checkpoint that a run goes on
    from are dropped, so that a run that was cut short leaves the same files as any other.
    """

    def __init__(self, folder: RunFolder, *, done_steps: int, progress: Callable[[TrainProgress], None] | None) -> None:
        self.folder = folder
        self.progress = progress
        self.steps: list[dict[str, object]] = _until(folder.steps, done_steps)
        self.epochs: list[dict[str, object]] = _until(folder.log, done_steps)
        self.losses: list[float] = []
        self.miou: float | None = None

    def on_train_batch_end(  # type: ignore[override]
        self, trainer: pl.Trainer, module: SegmentationModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """After an optimiser step, note it."""
        if len(module.losses) < module.config.run.accumulate:
            return
        loss = float(torch.stack(module.losses).mean())
        module.losses.clear()
        self.losses.append(loss)
        step = trainer.global_step
        rate = learning_rate(module, step - 1)
        self.steps.append({"step": step, "epoch": trainer.current_epoch + 1, "loss": loss, "learning_rate": rate})
        for logger in trainer.loggers:
            logger.log_metrics({"loss": loss, "learning_rate": rate}, step=step)
        if self.progress is not None:
            self.progress(self._progress(trainer, module, loss))

    def on_train_epoch_end(self, trainer: pl.Trainer, module: SegmentationModule) -> None:  # type: ignore[override]
        """Note the epoch and write both files."""
        row = epoch_row(trainer, module, sum(self.losses) / len(self.losses))
        self.losses.clear()
        self.epochs.append(row)
        self.miou = self.miou if module.scores is None else module.scores.means["mIoU"]
        if not trainer.is_global_zero:
            return
        write_rows(self.folder.steps, self.steps)
        write_rows(self.folder.log, self.epochs)
        for logger in trainer.loggers:
            scores = {key: value for key, value in row.items() if isinstance(value, float) and "IoU" in key}
            logger.log_metrics(scores, step=trainer.global_step)

    def _progress(self, trainer: pl.Trainer, module: SegmentationModule, loss: float) -> TrainProgress:
        epochs = module.config.run.epochs
        return TrainProgress(
            epoch=trainer.current_epoch + 1,
            epochs=epochs,
            step=trainer.global_step,
            steps=epochs * module.steps_per_epoch,
            loss=loss,
            miou=self.miou,
        )


class Keeper(pl.Callback):
    """Checkpoints, and whatever is to be made of a network that is the best so far.

    Parameters
    ----------
    folder
        Of the run.
    show
        Called after each scored epoch.
    keep
        Called with the line of `log.csv` of an epoch that is better than all before.
    """

    def __init__(self, folder: RunFolder, *, show: Callable[[], None], keep: Callable[[dict[str, str]], None]) -> None:
        self.folder = folder
        self.show = show
        self.keep = keep

    def on_train_epoch_end(self, trainer: pl.Trainer, module: SegmentationModule) -> None:  # type: ignore[override]
        """Last of all, when the logs are written."""
        scored = module.scores is not None
        module.scores = None
        trainer.strategy.barrier()  # the logs are written by the first process
        rows = read_rows(self.folder.log)
        best = scored and best_row(rows) is rows[-1]
        if best:
            trainer.save_checkpoint(self.folder.best)
        if trainer.is_global_zero:
            if best:
                self.keep(rows[-1])
            if scored:
                self.show()
        # This one says that the epoch is over, so it comes last.
        trainer.save_checkpoint(self.folder.last)


def best_row(rows: list[dict[str, str]]) -> dict[str, str] | None:
    """The line of the best epoch, the first of equals; None where none is scored."""
    return max((row for row in rows if row["mIoU"]), key=lambda row: float(row["mIoU"]), default=None)


def learning_rate(module: SegmentationModule, step: int) -> float:
    """Rate that step number `step`, from 0, is made with."""
    config = module.config
    total = module.steps_per_epoch * config.run.epochs
    factor = rate_factor(step, config.schedule, steps_per_epoch=module.steps_per_epoch, total_steps=total)
    return config.optimiser.learning_rate * factor


def epoch_row(trainer: pl.Trainer, module: SegmentationModule, loss: float) -> dict[str, object]:
    """A line of `log.csv`; scores are empty where the epoch has none."""
    step = trainer.global_step
    row: dict[str, object] = {"epoch": trainer.current_epoch + 1, "step": step, "loss": loss}
    row["learning_rate"] = learning_rate(module, step - 1)
    row |= dict.fromkeys((*MEANS, *(f"IoU {name}" for name in module.names)), "")
    if module.scores is not None:
        iou = zip(module.names, module.scores.iou.tolist(), strict=True)
        row |= {key: module.scores.means[key] for key in MEANS}
        row |= {f"IoU {name}": value for name, value in iou if not math.isnan(value)}
    return row


def _until(path: Path, step: int) -> list[dict[str, object]]:
    return [dict(row) for row in read_rows(path) if int(row["step"]) <= step]
