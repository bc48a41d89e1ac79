"""`wsi-espnet`: one command per job. Results go to stdout, progress and notes to stderr."""

from __future__ import annotations

import atexit
import gc
import logging
import sys

import typer

from wsi_espnet import __version__
from wsi_espnet.cli import (
    batch,
    data,
    evaluate,
    export,
    info,
    mask,
    models,
    outlines,
    pipeline,
    predict,
    sample,
    segment,
    tile,
    train,
    view,
)
from wsi_espnet.errors import WsiEspnetError

INTERRUPTED = 130
"""Exit status after Ctrl-C: 128 and the number of SIGINT, as shells have it."""

_INTERRUPTED = "interrupted; what is finished is kept, run the same command again to go on"

app = typer.Typer(
    name="wsi-espnet",
    help="Whole-slide segmentation with ESPNet: from a slide to a tissue-class mask.",
    no_args_is_help=True,
    rich_markup_mode=None,  # square brackets in the help are defaults, not markup
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("segment")(segment.segment)
app.command("view")(view.view)
app.command("outlines")(outlines.outlines)
app.command("mask")(mask.mask)
app.command("predict")(predict.predict)
app.command("evaluate")(evaluate.evaluate)
app.command("info")(info.info)
app.command("tile")(tile.tile)
app.command("sample")(sample.sample)
app.command("train")(train.train)
app.command("export", cls=export.ExportCommand)(export.export)
app.command("run")(pipeline.pipeline)
app.add_typer(batch.app, name="batch")
app.add_typer(models.app, name="models")
app.add_typer(data.app, name="data")


def _version(asked: bool) -> None:
    if asked:
        sys.stdout.write(f"wsi-espnet {__version__}\n")
        raise typer.Exit


@app.callback()
def main(
    verbose: bool = typer.Option(False, "--verbose", "-v", help="Say more about what is done."),
    version: bool = typer.Option(
        False, "--version", is_eager=True, callback=_version, help="Say which version this is."
    ),
) -> None:
    """Whole-slide segmentation with ESPNet: from a slide to a tissue-class mask."""
    logging.basicConfig(stream=sys.stderr, format="%(message)s", level=logging.WARNING)
    logging.getLogger("wsi_espnet").setLevel(logging.DEBUG if verbose else logging.INFO)
    if not verbose:
        # Zarr's event loop tells at exit which of its writes an error left undone; the error has been told already.
        logging.getLogger("asyncio").setLevel(logging.CRITICAL)


def run() -> None:
    """Entry point: what a user can do something about becomes one sentence and an exit status, never a traceback."""
    # When it ends, Python looks through all objects for rubbish, half a million of torch's among them: a second in
    # which the user waits for the prompt.
    atexit.register(gc.freeze)
    try:
        status = app(standalone_mode=False)
    except WsiEspnetError as exc:
        fail(f"error: {exc}", exc.exit_code)
    except typer.TyperException as exc:  # an option or argument that the command does not take
        message = exc.format_message()
        if message.startswith("Usage:"):  # the help of a command that was given nothing at all
            fail(message, exc.exit_code)
        fail(f"error: {_in_one_line(message)}; see --help", exc.exit_code)
    except (typer.Abort, KeyboardInterrupt):
        fail(_INTERRUPTED, INTERRUPTED)
    if status == INTERRUPTED:  # Typer catches Ctrl-C itself and hands back this status
        fail(_INTERRUPTED, INTERRUPTED)


def fail(message: str, status: int) -> None:
    """Leave with a message on stderr."""
    sys.stderr.write(message + "\n")
    sys.exit(status)


def _in_one_line(message: str) -> str:
    """Typer's sentence, without the word that pydantic puts before each."""
    return " ".join(message.split()).replace("Value error, ", "").rstrip(".")
