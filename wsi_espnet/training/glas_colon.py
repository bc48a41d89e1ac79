"""How the bundled model `glas-colon` is trained; read from top to bottom.

    python -m wsi_espnet.training.glas_colon --data GLAS_FOLDER --out FOLDER [--init AUTHORS.pth] [--epochs N]

The folder then holds `config.json`, `log.csv` (one line per epoch), `checkpoint.pt` (everything that is
needed to go on) and `glas-colon.safetensors` (the best network so far with its card). Started again, a run
goes on from its last epoch and ends with the same bits as an undisturbed one: all chance is drawn from (seed,
epoch).
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import logging
import math
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from wsi_espnet.data.glas import GLAS_MPP, GlasImage, read_glas, split_by_patient
from wsi_espnet.errors import ResumeError
from wsi_espnet.models.card import EspNetConfig, ModelCard, Normalisation
from wsi_espnet.models.catalog import SUFFIX, class_table
from wsi_espnet.models.espnet import EspNet
from wsi_espnet.models.weights import load_model, save_model
from wsi_espnet.training.glas_augment import mosaic, random_crop
from wsi_espnet.training.glas_init import start_from
from wsi_espnet.training.glas_score import CLASSES, mosaics_of, score
from wsi_espnet.training.losses import inverse_log_weights
from wsi_espnet.training.steps import average_decay, decayed_or_not, move_average

COARSE_WEIGHT = 0.4
"""Share of the loss on the encoder's own logits; it takes the place of the authors' separate first stage."""

DICE_WEIGHT = 0.5

log = logging.getLogger(__name__)


class GlasColonConfig(BaseModel):
    """Every number that decides the outcome, besides the data and the number of threads."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    epochs: Annotated[int, Field(ge=1)] = 45
    seed: int = 0
    batch: Annotated[int, Field(ge=2)] = 8
    crop_px: Annotated[int, Field(ge=16, multiple_of=8)] = 384
    crops_per_image: Annotated[int, Field(ge=1)] = 4
    learning_rate: Annotated[float, Field(gt=0)] = 2e-3
    weight_decay: Annotated[float, Field(ge=0)] = 1e-2
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.998
    mosaic_share: Annotated[float, Field(ge=0, le=1)] = 0.0
    """How many crops are put together from four."""
    held_out: tuple[str, ...] = ("3", "6", "15")
    p: int = 2
    q: int = 8
    init: Path | None = None
    """The authors' `.pth` that the encoder starts from, or a `.safetensors` that all of it starts from; None starts
    from random weights."""

    @property
    def network(self) -> EspNetConfig:
        """The network that is trained."""
        return EspNetConfig(architecture="espnet", p=self.p, q=self.q, classes=CLASSES, skip=19)


def train(
    images: Sequence[GlasImage],
    out: Path,
    config: GlasColonConfig,
    *,
    command: str,
    on_step: Callable[[int, float], None] | None = None,
) -> Path:
    """Train on all patients but those held out, and return the file of the best network.

    Parameters
    ----------
    images
        Both sides of the split.
    out
        Folder of the run; one that holds a checkpoint of the same `config` is continued.
    config
        All settings.
    command
        What the card names as its source.
    on_step
        Called after every optimiser step with the number of steps done and the loss.

    Raises
    ------
    ResumeError
        `out` holds a run with other settings.
    """
    training, validation = split_by_patient(images, config.held_out)
    normalisation = measure_colours(training)
    weights = class_weights(training)
    mosaics = mosaics_of(validation)

    torch.manual_seed(config.seed)
    module = EspNet(config.network)
    if config.init is not None and config.init.suffix == SUFFIX:
        module.load_state_dict(load_model(config.init).module.state_dict())
    elif config.init is not None:
        start_from(module, config.init)
    module = module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    average = EspNet(config.network)
    average.load_state_dict(module.state_dict())
    optimiser = torch.optim.AdamW(decayed_or_not(module, config.weight_decay), lr=config.learning_rate)
    steps_per_epoch = len(training) * config.crops_per_image // config.batch
    total_steps = config.epochs * steps_per_epoch

    out.mkdir(parents=True, exist_ok=True)
    history = _resume(out, config, module, average, optimiser)
    step = len(history) * steps_per_epoch
    for epoch in range(len(history), config.epochs):
        module.train()
        losses = []
        for pixels, labels in batches(training, config, normalisation, epoch):
            _set_learning_rate(optimiser, config.learning_rate * schedule(step, steps_per_epoch, total_steps))
            fine, coarse = module.fine_and_coarse(pixels)
            loss = segmentation_loss(fine, labels, weights)
            loss = loss + COARSE_WEIGHT * segmentation_loss(coarse, labels[:, 4::8, 4::8], weights)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(module.parameters(), 5.0)
            optimiser.step()
            step += 1
            move_average(average, module, average_decay(step, config.ema_decay))
            losses.append(loss.item())
            if on_step is not None:
                on_step(step, losses[-1])

        scores = score(average, validation, normalisation)
        together = score(average, mosaics, normalisation)
        scores = {**scores, **{f"mosaic {name}": value for name, value in together.items()}}
        history.append({"epoch": epoch + 1, "loss": float(np.mean(losses)), **scores})
        log.info(" ".join(f"{key} {value:.4g}" for key, value in history[-1].items()))
        if _merit(history[-1], config) >= max(_merit(row, config) for row in history):
            card = make_card(config, training, validation, normalisation, history[-1], command)
            save_model(out / "glas-colon.safetensors", average, card, overwrite=True)
        _write_log(out / "log.csv", history)
        _save_checkpoint(out, config, module, average, optimiser, history)
    return out / "glas-colon.safetensors"


def batches(
    images: Sequence[GlasImage], config: GlasColonConfig, normalisation: Normalisation, epoch: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """(B, 3, S, S) float32 and (B, S, S) int64 of one epoch; incomplete batches are left out."""
    rng = np.random.default_rng([config.seed, epoch])
    order = np.concatenate([rng.permutation(len(images)) for _ in range(config.crops_per_image)])
    for start in range(0, len(order) - config.batch + 1, config.batch):
        chosen = [images[i] for i in order[start : start + config.batch]]
        alone = [random_crop(image.rgb, image.labels, side_px=config.crop_px, rng=rng) for image in chosen]
        crops = mosaic(alone, share=config.mosaic_share, rng=rng) if config.mosaic_share else alone
        pixels = torch.from_numpy(np.stack([normalisation.apply(rgb) for rgb, _ in crops]))
        labels = torch.from_numpy(np.stack([labels for _, labels in crops]).astype(np.int64))
        yield pixels.contiguous(memory_format=torch.channels_last), labels


def segmentation_loss(logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """Class-weighted cross-entropy plus half of the soft Dice loss, averaged over the classes.

    Parameters
    ----------
    logits
        (B, C, H, W).
    labels
        (B, H, W) int64.
    weights
        (C,).
    """
    log_probabilities = F.log_softmax(logits, dim=1)
    entropy = F.nll_loss(log_probabilities, labels, weight=weights)
    probabilities = log_probabilities.exp()
    truth = F.one_hot(labels, logits.shape[1]).permute(0, 3, 1, 2).to(logits.dtype)
    shared = (probabilities * truth).sum(dim=(0, 2, 3))
    total = (probabilities + truth).sum(dim=(0, 2, 3))
    return entropy + DICE_WEIGHT * (1 - (2 * shared + 1) / (total + 1)).mean()


def class_weights(images: Sequence[GlasImage]) -> Tensor:
    """(3,) 1 / ln(1.10 + p) of each class's share p of all px: the rule of the authors' training code."""
    counts = sum(np.bincount(image.labels.ravel(), minlength=CLASSES) for image in images)
    return torch.from_numpy(inverse_log_weights(np.asarray(counts))).float()


def measure_colours(images: Sequence[GlasImage]) -> Normalisation:
    """Mean and standard deviation of each channel over all px, to two decimals."""
    pixels = [image.rgb.reshape(-1, 3).astype(np.float64) for image in images]
    count = sum(len(p) for p in pixels)
    mean = sum(p.sum(axis=0) for p in pixels) / count
    std = np.sqrt(sum(((p - mean) ** 2).sum(axis=0) for p in pixels) / count)
    red, green, blue = (round(float(v), 2) for v in mean)
    red_std, green_std, blue_std = (round(float(v), 2) for v in std)
    return Normalisation(order="rgb", mean=(red, green, blue), std=(red_std, green_std, blue_std))


def schedule(step: int, warm_up: int, total: int) -> float:
    """Factor of the learning rate: a linear rise over the first epoch, then half a cosine to 0."""
    if step < warm_up:
        return (step + 1) / warm_up
    return 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(1, total - warm_up)))


def make_card(
    config: GlasColonConfig,
    training: Sequence[GlasImage],
    validation: Sequence[GlasImage],
    normalisation: Normalisation,
    scores: dict[str, float],
    command: str,
) -> ModelCard:
    """The card of a network of this run."""
    patients = sorted({image.patient for image in training}, key=int)
    held_out = sorted({image.patient for image in validation}, key=int)
    table = class_table("glas-grade")
    return ModelCard(
        name="glas-colon",
        summary="Colon H&E at 20x: benign and malignant glands against stroma and glass.",
        network=config.network,
        classes=table,
        mpp=GLAS_MPP,
        normalisation=normalisation,
        data=f"GlaS (Warwick-QU), {len(training)} images of colon H&E with gland outlines; the class of a "
        "gland is its image's grade; Sirinukunwattana et al. 2017, doi 10.1016/j.media.2016.08.008",
        terms="research only, no commercial use, as the data",
        split=f"by patient: trained on {', '.join(patients)}; selected and scored on the {len(validation)} "
        f"images of {', '.join(held_out)}, which training never saw",
        scores={
            "mIoU": round(scores["mIoU"], 4),
            "gland against background IoU": round(scores["gland"], 4),
            "IoU": {name: round(scores[f"IoU {name}"], 4) for name in table.names},
            "mIoU, four images side by side": round(scores["mosaic mIoU"], 4),
        },
        limits="Colon H&E at about 0.62 um per px only; one laboratory and one scanner, few patients. "
        "The epoch was selected on the same patients that are scored; expect somewhat less. "
        "Glass was trained on synthetic glass. Not for diagnosis.",
        source=f"{command}; epoch {int(scores['epoch'])} of {config.epochs}",
    )


def _merit(scores: dict[str, float], config: GlasColonConfig) -> float:
    """What an epoch is chosen by: images alone or, where it is trained on mosaics, both alike."""
    return (scores["mIoU"] + scores["mosaic mIoU"]) / 2 if config.mosaic_share else scores["mIoU"]


def _set_learning_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    for group in optimiser.param_groups:
        group["lr"] = rate


def _resume(
    out: Path,
    config: GlasColonConfig,
    module: nn.Module,
    average: nn.Module,
    optimiser: torch.optim.Optimizer,
) -> list[dict[str, float]]:
    """The history so far with everything else set back to its end; empty for a new run."""
    path = out / "checkpoint.pt"
    if not path.exists():
        (out / "config.json").write_text(config.model_dump_json(indent=2) + "\n", encoding="utf-8")
        return []
    state = torch.load(path, map_location="cpu", weights_only=True)
    if state["config"] != config.model_dump_json():
        raise ResumeError(f"{out} holds a run with other settings (see its config.json); choose another --out")
    module.load_state_dict(state["module"])
    average.load_state_dict(state["average"])
    optimiser.load_state_dict(state["optimiser"])
    history: list[dict[str, float]] = state["history"]
    return history


def _save_checkpoint(
    out: Path,
    config: GlasColonConfig,
    module: nn.Module,
    average: nn.Module,
    optimiser: torch.optim.Optimizer,
    history: list[dict[str, float]],
) -> None:
    state = {
        "config": config.model_dump_json(),
        "module": module.state_dict(),
        "average": average.state_dict(),
        "optimiser": optimiser.state_dict(),
        "history": history,
    }
    torch.save(state, out / "checkpoint.pt.part")
    os.replace(out / "checkpoint.pt.part", out / "checkpoint.pt")


def _write_log(path: Path, history: list[dict[str, float]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(history[0]))
        writer.writeheader()
        writer.writerows(history)


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line and train."""
    parser = argparse.ArgumentParser(prog="python -m wsi_espnet.training.glas_colon", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with images/, masks/ and index.csv")
    parser.add_argument("--out", type=Path, required=True, help="folder of the run")
    parser.add_argument("--init", type=Path, help="the authors' .pth for the encoder, or a .safetensors for all of it")
    parser.add_argument("--learning-rate", type=float, default=GlasColonConfig.model_fields["learning_rate"].default)
    parser.add_argument("--epochs", type=int, default=GlasColonConfig.model_fields["epochs"].default)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1, help="CPU threads; another number rounds differently")
    parser.add_argument("--mosaic", type=float, default=0.0, help="share of crops that are put together from four")
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(given.threads)
    torch.set_flush_denormal(True)  # the authors' dead channels hold denormals, which are slow
    start = f" --init {given.init.parent.name}/{given.init.name}" if given.init else ""
    if given.init:
        start += f" (sha256 {hashlib.sha256(given.init.read_bytes()).hexdigest()[:12]})"
    command = (
        f"python -m {__spec__.name if __spec__ else __name__} --data glas --epochs {given.epochs} "
        f"--seed {given.seed} --threads {given.threads} --learning-rate {given.learning_rate:g} "
        f"--mosaic {given.mosaic:g}{start}"
    )
    config = GlasColonConfig(
        epochs=given.epochs,
        seed=given.seed,
        init=given.init,
        learning_rate=given.learning_rate,
        mosaic_share=given.mosaic,
    )
    best = train(read_glas(given.data), given.out, config, command=command)
    log.info("the best network is %s", best)


if __name__ == "__main__":
    main()
