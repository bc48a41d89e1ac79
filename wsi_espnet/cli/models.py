"""`wsi-espnet models list|show|import|measure|calibrate`."""

from __future__ import annotations

import shlex
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wsi_espnet.cli import say
from wsi_espnet.cli.values import options_of, triple
from wsi_espnet.errors import UsageError

if TYPE_CHECKING:
    from wsi_espnet.models.card import Normalisation

app = typer.Typer(
    help="Models: list the bundled ones, show a card, import published weights, measure statistics, calibrate.",
    no_args_is_help=True,
)


class Order(StrEnum):
    """Channel orders of a network's input."""

    RGB = "rgb"
    BGR = "bgr"


@app.command("list")
def list_models(as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False) -> None:
    """List the bundled models."""
    from wsi_espnet.models.catalog import bundled_models, read_card

    cards = [read_card(path) for path in bundled_models()]
    if as_json:
        say.print_json(
            [{"name": c.name, "summary": c.summary, "mpp": c.mpp, "classes": c.classes.names} for c in cards]
        )
        return
    say.print_table(
        ["model", "um per px ", "classes", "what it is"],
        [(c.name, "-" if c.mpp is None else f"{c.mpp:g}", ", ".join(c.classes.names), c.summary) for c in cards],
    )


@app.command()
def show(
    model: Annotated[str, typer.Argument(help="Bundled name or .safetensors file.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """Show a model's card: what it is, its data and terms, scores and limits."""
    from wsi_espnet.models.catalog import find_model, read_card

    card = read_card(find_model(model))
    if as_json:
        say.print_json(card.model_dump(mode="json"))
        return
    rows = [
        ("name", card.name),
        ("summary", card.summary),
        ("network", str(card.network)),
        ("scale", "none (street scenes)" if card.mpp is None else f"{card.mpp:g} um per px"),
        ("classes", ", ".join(f"{c.id} {c.name}" for c in card.classes.classes)),
        ("data", card.data),
        ("terms", card.terms),
        ("split", card.split),
        ("scores", "; ".join(_score(k, v) for k, v in card.scores.items()) or "none measured"),
        *([("temperature", f"{card.temperature:g}")] if card.temperature != 1 else []),
        ("limits", card.limits),
        ("source", card.source),
    ]
    say.print_table(["", ""], rows)


@app.command("import")
def import_model(
    file: Annotated[Path, typer.Argument(help="A .pth file of the original authors' code.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="File to write [NAME.safetensors].")] = None,
    classes: Annotated[str | None, typer.Option(help="Class table by name [told from the number of classes].")] = None,
    name: Annotated[str | None, typer.Option(help="Name of the model [the file's].")] = None,
    mean: Annotated[
        str | None, typer.Option(help="What it was trained with, 0..255: three numbers [the authors'].")
    ] = None,
    std: Annotated[str | None, typer.Option(help="The same; --mean and --std go together [the authors'].")] = None,
    order: Annotated[Order | None, typer.Option(help="Of the channels of input, mean and std [bgr].")] = None,
    divide: Annotated[float | None, typer.Option(help="What normalised values are divided by [255].")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a file that is there.")] = False,
) -> None:
    """Turn weights of the original authors' code into a .safetensors file with a card."""
    from wsi_espnet.models.importer import import_pth
    from wsi_espnet.models.weights import save_model

    module, card = import_pth(file, classes=classes, name=name, normalisation=_normalisation(mean, std, order, divide))
    written = save_model(out or Path(f"{card.name}.safetensors"), module, card, overwrite=overwrite)
    say.out.print(f"{written}  {card.network} ({card.classes.name})", markup=False)


@app.command()
def measure(
    model: Annotated[str, typer.Argument(help="Bundled name or .safetensors file.")],
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Training settings as TOML, which say what crops are.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The .safetensors file to write.")],
    data: Annotated[Path | None, typer.Option(help="Folder of the data set [data.root of the file].")] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a setting: augment.blank=0.6."),
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Batches of crops to look at.")] = 160,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a file that is there.")] = False,
) -> None:
    """Write a copy of a model whose batch normalisation is measured afresh on training crops.

    For the mean of several models' weights, and for one that will meet other pictures than it was trained on.
    """
    from wsi_espnet.training.config import read_config
    from wsi_espnet.training.extra import ensure_extra

    ensure_extra()
    config = read_config(file, data=data, changes=options_of(changes or []))
    from wsi_espnet.measure import measure as job

    with say.progress_bar("batches") as update:
        done = job(
            model,
            config,
            out,
            command=shlex.join(["wsi-espnet", *sys.argv[1:]]),
            steps=steps,
            overwrite=overwrite,
            progress=lambda done, total: update(done, total, ""),
        )
    say.out.print(f"{done.model}  mIoU {done.miou:.4f} on {config.data.validation}", markup=False)


@app.command()
def calibrate(
    model: Annotated[str, typer.Argument(help="Bundled name or .safetensors file.")],
    dataset: Annotated[str, typer.Argument(help="Adapter by name, such as camvid.")],
    data: Annotated[Path, typer.Option(help="Root folder of the data set.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The .safetensors file to write.")],
    split: Annotated[str, typer.Option(help="Which split; one that the model was not trained on.")] = "val",
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Option of the data set.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a file that is there.")] = False,
) -> None:
    """Write a copy of a model whose probabilities mean what they say; its labels stay the same."""
    from wsi_espnet.calibrate import calibrate as job

    with say.progress_bar("images") as update:
        done = job(
            model,
            dataset,
            out,
            data=data,
            split=split,
            options=options_of(settings or []),
            overwrite=overwrite,
            progress=lambda done, total: update(done, total, ""),
        )
    say.out.print(
        f"{done.model}  temperature {done.temperature:.3f}, expected calibration error "
        f"{done.before:.4f} before, {done.after:.4f} after, on {done.px} px",
        markup=False,
    )


def _normalisation(
    mean: str | None, std: str | None, order: Order | None, divide: float | None
) -> Normalisation | None:
    """What the options say; where they are silent about order and divisor, those of the authors' code."""
    given = {"--mean": mean, "--std": std, "--order": order, "--divide": divide}
    if all(value is None for value in given.values()):
        return None
    if mean is None or std is None:
        said = ", ".join(option for option, value in given.items() if value is not None)
        raise UsageError(f"a normalisation is --mean and --std, got only {said}; give both, or none of them")
    from wsi_espnet.models.card import Normalisation
    from wsi_espnet.settings import parse

    values = {
        "order": (order or Order.BGR).value,
        "mean": triple(mean, "--mean"),
        "std": triple(std, "--std"),
        "divide": 255.0 if divide is None else divide,
    }
    return parse(Normalisation, values, "the normalisation")


def _score(name: str, value: float | dict[str, float]) -> str:
    if isinstance(value, dict):
        return f"{name} ({', '.join(f'{k} {v:.3f}' for k, v in value.items())})"
    return f"{name} {value:.3f}"
