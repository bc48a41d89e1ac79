"""The job of `wsi-espnet train`, from top to bottom: a data set and settings in, a folder with a model out."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from lightning.pytorch.loggers import TensorBoardLogger

from wsi_espnet.atomic import write_bytes_atomic
from wsi_espnet.data.adapter import Dataset
from wsi_espnet.errors import UsageError
from wsi_espnet.models.card import ModelCard
from wsi_espnet.models.network_config import ESPNET_C
from wsi_espnet.models.weights import save_model
from wsi_espnet.resume import alone
from wsi_espnet.training.callbacks import Keeper, Logbook, TrainProgress, best_row
from wsi_espnet.training.config import RunConfig, TrainConfig
from wsi_espnet.training.make_card import make_card
from wsi_espnet.training.pictures import draw_curves, draw_predictions
from wsi_espnet.training.run_folder import RunFolder, read_rows
from wsi_espnet.training.setup import Setup, open_data, set_up
from wsi_espnet.training.trainer import arithmetic, choose_device, fit, make_trainer, quiet


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
        `out` holds something else, or a run with other settings, or another process is training there.
    UsageError
        Settings that do not fit the data set or this machine.
    DataError
        The data set is damaged or of another layout.
    """
    folder = RunFolder(Path(out), config)
    # Processes that train together share the folder: the first one holds it for all.
    with alone(folder.folder) if _rank(config.run) == 0 else contextlib.nullcontext():
        folder.ensure_free(overwrite=overwrite)
        dataset = open_data(config)
        device = choose_device(config.run)
        if config.encoder_stage is not None:
            if _rank(config.run) == 0:
                folder.begin(command, overwrite=overwrite)
            encoder = train(_encoder_stage(config), folder.folder / "encoder", command=command, progress=progress)
            config, overwrite = _decoder_stage(config, encoder.model), False

        with arithmetic(config.run.threads):
            _stage(config, dataset, folder, device, command=command, overwrite=overwrite, progress=progress)
        return _result(folder)


def _stage(
    config: TrainConfig,
    dataset: Dataset,
    folder: RunFolder,
    device: str,
    *,
    command: str,
    overwrite: bool,
    progress: Callable[[TrainProgress], None] | None,
) -> None:
    """One network, from its first or its last kept epoch to its last."""
    first = _rank(config.run) == 0
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
    with quiet():
        trainer = make_trainer(config.run, device, clip=config.optimiser.clip, callbacks=callbacks, logger=logger)
        fit(trainer, setup, config, checkpoint=folder.last if resumed else None)


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
