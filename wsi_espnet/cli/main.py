"""`wsi-espnet`: one command per job. Results go to stdout, progress and notes to stderr."""

from __future__ import annotations

import logging
import sys

import click
import typer

from wsi_espnet.cli import info, models, sample, segment, tile
from wsi_espnet.errors import WsiEspnetError

app = typer.Typer(
    name="wsi-espnet",
    help="Whole-slide segmentation with ESPNet: from a slide to a tissue-class mask.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("segment")(segment.segment)
app.command("info")(info.info)
app.command("tile")(tile.tile)
app.command("sample")(sample.sample)
app.add_typer(models.app, name="models")


@app.callback()
def main(
    verbose: bool = typer.Option(False, "--verbose", "-v", help="Say more about what is done."),
) -> None:
    """Whole-slide segmentation with ESPNet: from a slide to a tissue-class mask."""
    logging.basicConfig(stream=sys.stderr, format="%(message)s", level=logging.WARNING)
    logging.getLogger("wsi_espnet").setLevel(logging.DEBUG if verbose else logging.INFO)


def run() -> None:
    """Entry point: our own errors become one sentence and an exit status, never a traceback."""
    try:
        app(standalone_mode=False)
    except WsiEspnetError as exc:
        fail(f"error: {exc}", exc.exit_code)
    except click.ClickException as exc:
        exc.show()
        sys.exit(exc.exit_code)
    except (click.Abort, KeyboardInterrupt):
        fail("interrupted; what is finished is kept, run the same command again to go on", 130)
    except BrokenPipeError:
        sys.exit(1)


def fail(message: str, status: int) -> None:
    """Leave with a message on stderr."""
    sys.stderr.write(message + "\n")
    sys.exit(status)
