"""The job of `wsi-espnet train`, from top to bottom: a data set and settings in, a folder with a model out."""

from __future__ import annotations

import logging
import os
import signal
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
import torch
from lightning.pytorch.loggers import TensorBoardLogger

from wsi_espnet.atomic import write_bytes_atomic
from wsi_espnet.errors import UsageError
from wsi_espnet.models.card import ESPNET_C, ModelCard
from wsi_espnet.models.weights import save_model
from wsi_espnet.training.callbacks import Keeper, Logbook, TrainProgress, WholeCheckpoints, best_row
from wsi_espnet.training.config import RunConfig, TrainConfig
from wsi_espnet.training.make_card import make_card
from wsi_espnet.training.pictures import draw_curves, draw_predictions
from wsi_espnet.training.run_folder import RunFolder, read_rows
from wsi_espnet.training.setup import Setup, open_data, set_up

PRECISIONS: dict[str, Literal["32-true", "bf16-mixed", "16-mixed"]] = {
    "fp32": "32-true",
    "bf16": "bf16-mixed",
    "fp16": "16-mixed",
}
"""What Lightning calls them."""


@dataclass(frozen=True, slots=True)
class TrainResult:
    """What a run came to.

    Parameters
    ----------
    folder
        All that it left.
    model
        The best network with its card.
    epoch, miou
        When it was reached, from 1, and its score on the validation split, 0..1.
    """

    folder: Path
    model: Path
    epoch: int
    miou: float


def train(
    config: TrainConfig,
    out: str | Path,
    *,
    command: str,
    overwrite: bool = False,
    progress: Callable[[TrainProgress], None] | None = None,
) -> TrainResult:
    """Train a network, or go on with a run that was cut short, to the same bits as an undisturbed one.

    Parameters
    ----------
    config
        All settings.
    out
        Folder of the run; see `wsi_espnet.training.run_folder` for what is in it.
    command
        What the card and the folder name as their source.
    overwrite
        Replace a run that is there.
    progress
        Called after every optimiser step.

    Raises
    ------
    ResumeError
        `out` holds something else, or a run with other settings.
    UsageError
        Settings that do not fit the data set or this machine.
    DataError
        The data set is damaged or of another layout.
    """
    folder = RunFolder(Path(out), config)
    folder.ensure_free(overwrite=overwrite)
    dataset = open_data(config)
    first = _rank(config.run) == 0
    if config.encoder_stage is not None:
        if first:
            folder.begin(command, overwrite=overwrite)
        encoder = train(_encoder_stage(config), folder.folder / "encoder", command=command, progress=progress)
        config, overwrite = _decoder_stage(config, encoder.model), False

    if config.run.threads is not None:
        torch.set_num_threads(config.run.threads)
    torch.set_flush_denormal(True)  # the authors' dead channels hold denormals, which are slow
    known = folder.survey if folder.survey.is_file() and not overwrite else None
    setup = set_up(config, dataset, survey=known, rank=_rank(config.run))
    if first:  # not before everything fits: a start that failed is no run
        folder.begin(command, overwrite=overwrite)
        write_bytes_atomic(folder.survey, (setup.survey.model_dump_json(indent=2) + "\n").encode())

    resumed = folder.last.is_file()
    done_steps = _steps_in(folder.last) if resumed else 0
    # In this order: the logs of an epoch are there before its checkpoint says that it is over.
    callbacks = [Logbook(folder, done_steps=done_steps, progress=progress), _keeper(config, setup, folder, command)]
    # What a killed process logged after the checkpoint is not shown twice.
    logger = TensorBoardLogger(folder.folder, name="tensorboard", version="", purge_step=done_steps + 1)
    with _quiet():
        trainer = _trainer(config.run, clip=config.optimiser.clip, callbacks=callbacks, logger=logger)
        _fit(trainer, setup, config, checkpoint=folder.last if resumed else None)
    return _result(folder)


def _keeper(config: TrainConfig, setup: Setup, folder: RunFolder, command: str) -> Keeper:
    def keep(row: dict[str, str]) -> None:
        save_model(folder.model, setup.module.best_network, _card(config, setup, row, command), overwrite=True)

    def show() -> None:
        draw_curves(read_rows(folder.log), folder.curves)
        if config.run.pictures:
            draw_predictions(
                setup.module.best_network,
                setup.validation,
                setup.normalisation,
                setup.dataset.classes,
                folder.predictions,
                count=config.run.pictures,
            )

    return Keeper(folder, show=show, keep=keep)


def _card(config: TrainConfig, setup: Setup, row: dict[str, str], command: str) -> ModelCard:
    classes = setup.dataset.classes
    return make_card(
        config,
        network=config.model.network(len(classes)),
        classes=classes,
        mpp=setup.dataset.mpp,
        normalisation=setup.normalisation,
        images=(len(setup.training), len(setup.validation)),
        row=row,
        start=setup.note,
        command=command,
    )


def _encoder_stage(config: TrainConfig) -> TrainConfig:
    """Settings of the first of two runs: the encoder on its own, with labels at stride 8."""
    stage = config.encoder_stage
    assert stage is not None
    run = {"epochs": stage.epochs} | ({"batch": stage.batch} if stage.batch else {})
    rate = {"learning_rate": stage.learning_rate} if stage.learning_rate else {}
    return config.model_copy(
        update={
            "name": f"{config.name}-encoder",
            "model": config.model.model_copy(update={"architecture": ESPNET_C}),
            "run": config.run.model_copy(update=run),
            "optimiser": config.optimiser.model_copy(update=rate),
            "encoder_stage": None,
        }
    )


def _decoder_stage(config: TrainConfig, encoder: Path) -> TrainConfig:
    """Settings of the second: all of it is trained, nothing is frozen."""
    model = config.model.model_copy(update={"init": str(encoder), "init_part": "encoder"})
    return config.model_copy(update={"model": model, "encoder_stage": None})


def _trainer(run: RunConfig, *, clip: float | None, callbacks: list[pl.Callback], logger: Any) -> pl.Trainer:
    device = run.device if run.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and torch.cuda.device_count() < run.devices:
        raise UsageError(
            f"run.devices asks for {run.devices} CUDA devices and there are {torch.cuda.device_count()}; "
            "lower it, or set run.device=cpu"
        )
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


def _fit(trainer: pl.Trainer, setup: Setup, config: TrainConfig, *, checkpoint: Path | None) -> None:
    before = signal.getsignal(signal.SIGINT)
    try:
        trainer.fit(setup.module, *setup.loaders(config), ckpt_path=checkpoint, weights_only=True)
    except SystemExit as exc:
        if not isinstance(exc.__context__, KeyboardInterrupt):
            raise
        # Lightning answers Ctrl-C with exit status 1 and ignores any further one; whoever called decides about both.
        signal.signal(signal.SIGINT, before)
        raise KeyboardInterrupt from None


def _rank(run: RunConfig) -> int:
    """Number of this process among those that train together: Lightning starts the others with LOCAL_RANK set."""
    return int(os.environ.get("LOCAL_RANK", "0")) if run.devices > 1 else 0


def _steps_in(checkpoint: Path) -> int:
    return int(torch.load(checkpoint, map_location="cpu", weights_only=True)["global_step"])


def _result(folder: RunFolder) -> TrainResult:
    best = best_row(read_rows(folder.log))
    if best is None:
        raise UsageError("no epoch was scored, so no network was kept; lower run.validate_every")
    return TrainResult(folder.folder, folder.model, int(best["epoch"]), float(best["mIoU"]))


@contextmanager
def _quiet() -> Iterator[None]:
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
        # A run may well have fewer steps than Lightning's own logging waits for, which is not used here.
        warnings.filterwarnings("ignore", message=".*number of training batches.*smaller than the logging interval.*")
        # The folder holds the first run's logs when it is resumed, on purpose.
        warnings.filterwarnings("ignore", message=".*Checkpoint directory .* exists and is not empty.*")
        try:
            yield
        finally:
            for logger, level in zip(loggers, before, strict=True):
                logger.setLevel(level)
