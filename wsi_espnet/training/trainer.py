"""The training loop, which is Lightning's: how it is made, run, kept quiet, and what it changes in this process."""

from __future__ import annotations

import logging
import signal
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
import torch

from wsi_espnet.errors import UsageError
from wsi_espnet.training.callbacks import WholeCheckpoints
from wsi_espnet.training.config import RunConfig, TrainConfig
from wsi_espnet.training.setup import Setup

PRECISIONS: dict[str, Literal["32-true", "bf16-mixed", "16-mixed"]] = {
    "fp32": "32-true",
    "bf16": "bf16-mixed",
    "fp16": "16-mixed",
}
"""What Lightning calls them."""


def choose_device(run: RunConfig) -> str:
    """``cpu`` or ``cuda``.

    Raises
    ------
    UsageError
        This machine has fewer devices than `run` asks for.
    """
    device = run.device if run.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    there = torch.cuda.device_count()
    if device == "cuda" and there < run.devices:
        raise UsageError(
            f"run.device=cuda with run.devices={run.devices} needs as many CUDA devices, and torch sees {there}; "
            "lower it, or set run.device=cpu"
        )
    return device


def make_trainer(
    run: RunConfig, device: str, *, clip: float | None, callbacks: list[pl.Callback], logger: Any
) -> pl.Trainer:
    """A trainer on the devices, in the precision and for the epochs of `run`."""
    precision = run.precision if run.precision != "auto" else "bf16" if device == "cuda" else "fp32"
    return pl.Trainer(
        accelerator=device,
        devices=run.devices,
        strategy="ddp" if run.devices > 1 else "auto",
        # Small crops of one device have statistics of their own, and the devices would drift apart.
        sync_batchnorm=run.devices > 1 and device == "cuda",
        precision=PRECISIONS[precision],
        max_epochs=run.epochs,
        accumulate_grad_batches=run.accumulate,
        gradient_clip_val=clip,
        check_val_every_n_epoch=run.validate_every,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,  # the samplers of wsi_espnet.training.loader know their share
        callbacks=callbacks,
        plugins=[WholeCheckpoints()],
        logger=logger,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def fit(trainer: pl.Trainer, setup: Setup, config: TrainConfig, *, checkpoint: Path | None) -> None:
    """Run all epochs, or those after `checkpoint`.

    Raises
    ------
    KeyboardInterrupt
        Ctrl-C, as from any other function.
    """
    before = signal.getsignal(signal.SIGINT)
    try:
        trainer.fit(setup.module, *setup.loaders(config), ckpt_path=checkpoint, weights_only=True)
    except SystemExit as exc:
        if not isinstance(exc.__context__, KeyboardInterrupt):
            raise
        # Lightning answers Ctrl-C with exit status 1 and ignores any further one; whoever called decides about both.
        signal.signal(signal.SIGINT, before)
        raise KeyboardInterrupt from None


@contextmanager
def quiet() -> Iterator[None]:
    """Lightning's banners and advice stay away; what goes wrong is still said."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        # Between Lightning 2.6 and torch 2.13; nothing here can change it.
        warnings.filterwarnings("ignore", message=r".*isinstance\(treespec, LeafSpec\).*", category=FutureWarning)
        # The number of loader processes is the user's choice, and so is a device left unused.
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        warnings.filterwarnings("ignore", message=".*available but not used.*")
        # A machine may belong to a SLURM cluster without this being a job of it.
        warnings.filterwarnings("ignore", message=".*`srun` command is available.*")
        # A run may well have fewer steps than Lightning's own logging waits for, which is not used here.
        warnings.filterwarnings("ignore", message=".*number of training batches.*smaller than the logging interval.*")
        # The folder holds the first run's logs when it is resumed, on purpose.
        warnings.filterwarnings("ignore", message=".*Checkpoint directory .* exists and is not empty.*")
        try:
            yield
        finally:
            for logger, level in zip(loggers, before, strict=True):
                logger.setLevel(level)


@contextmanager
def arithmetic(threads: int | None) -> Iterator[None]:
    """Compute with `threads` CPU threads (None: as it is) and without denormals; afterwards as before.

    The authors' networks have dead channels whose weights shrink to denormals, on which a CPU is many times slower.
    Both settings are the whole process's, and whoever called has a use for denormals.
    """
    threads_before = torch.get_num_threads()
    flushed_before = (torch.tensor(torch.finfo(torch.float32).smallest_normal) / 2).item() == 0
    torch.set_num_threads(threads or threads_before)
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(flushed_before)
        torch.set_num_threads(threads_before)
