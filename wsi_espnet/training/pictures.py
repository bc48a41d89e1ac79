"""What a run looks like: its curves, and what the network makes of some images."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from wsi_espnet.atomic import write_bytes_atomic
from wsi_espnet.classes import UNLABELLED, ClassTable
from wsi_espnet.models.card import Normalisation
from wsi_espnet.training.loader import Images
from wsi_espnet.training.module import full_size

WIDTH_PX = 480
"""Of each picture on the sheet."""

GAP_PX = 4


def draw_curves(rows: Sequence[dict[str, str]], path: Path) -> None:
    """A PNG of the loss and the scores over the epochs, from the lines of `log.csv`."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    epochs = [int(row["epoch"]) for row in rows]
    left.plot(epochs, [float(row["loss"]) for row in rows], color="black")
    left.set(xlabel="epoch", ylabel="training loss")
    scored = [row for row in rows if row["mIoU"]]
    for number, name in enumerate(key for key in rows[0] if key.startswith("IoU ")):
        # Not the class's own colour, which may be white, or much like another's.
        style = {"color": f"C{number % 10}", "linestyle": ("-", "--", ":")[number // 10 % 3]}
        _line(right, [row for row in scored if row[name]], name, linewidth=0.8, alpha=0.7, **style)
    _line(right, scored, "mIoU", color="black", linewidth=2)
    right.set(xlabel="epoch", ylabel="validation", ylim=(0, 1))
    if scored:
        figure.legend(fontsize="small", loc="outside right upper")
    for axes in (left, right):
        axes.xaxis.get_major_locator().set_params(integer=True)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=100)
    write_bytes_atomic(path, file.getvalue())


def _line(axes: Any, rows: Sequence[dict[str, str]], name: str, **style: Any) -> None:
    marker = "." if len(rows) == 1 else None  # a line of one point is not seen
    epochs = [int(row["epoch"]) for row in rows]
    axes.plot(epochs, [float(row[name]) for row in rows], label=name.removeprefix("IoU "), marker=marker, **style)


def draw_predictions(
    network: nn.Module, images: Images, normalisation: Normalisation, classes: ClassTable, path: Path, *, count: int
) -> None:
    """A PNG with a line for each of `count` images, spread over the set: image, truth, prediction; void is black."""
    chosen = np.unique(np.linspace(0, len(images) - 1, min(count, len(images))).round().astype(int))
    lines = []
    for index in chosen:
        rgb, labels = images[int(index)]
        predicted = predict(network, rgb, normalisation)
        shown = (rgb, _coloured(labels, classes), _coloured(predicted, classes))
        lines.append(np.hstack([_framed(picture) for picture in shown]))
    widest = max(line.shape[1] for line in lines)
    sheet = np.vstack(
        [np.pad(line, ((0, 0), (0, widest - line.shape[1]), (0, 0)), constant_values=255) for line in lines]
    )
    file = io.BytesIO()
    Image.fromarray(sheet).save(file, "PNG")
    write_bytes_atomic(path, file.getvalue())


def predict(network: nn.Module, rgb: NDArray[np.uint8], normalisation: Normalisation) -> NDArray[np.uint8]:
    """(h, w) class of each px of a whole (h, w, 3) image; the network's mode is left as it was."""
    device = next(network.parameters()).device
    training = network.training
    network.eval()
    with torch.no_grad():
        pixels = torch.from_numpy(normalisation.apply(rgb))[None].to(device)
        labels = full_size(network(pixels), pixels)[0].argmax(dim=0)
    network.train(training)
    return labels.to(torch.uint8).cpu().numpy()


def _coloured(labels: NDArray[np.uint8], classes: ClassTable) -> NDArray[np.uint8]:
    palette = np.zeros((UNLABELLED + 1, 3), np.uint8)
    palette[: len(classes)] = [c.color for c in classes.classes]
    return palette[labels]


def _framed(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    size = (WIDTH_PX, max(1, round(rgb.shape[0] * WIDTH_PX / rgb.shape[1])))
    # Nearest, because masks have no colours in between.
    small = np.asarray(Image.fromarray(rgb).resize(size, Image.Resampling.NEAREST))
    return np.pad(small, ((0, GAP_PX), (0, GAP_PX), (0, 0)), constant_values=255)
