"""`wsi-espnet view`."""

from __future__ import annotations

from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer


def view(
    paths: Annotated[list[Path], typer.Argument(help="Slides, OME-Zarr images, or results of segment.")],
) -> None:
    """Open slides and their masks in napari."""
    from wsi_espnet.errors import DependencyError
    from wsi_espnet.outputs.opened import find_result
    from wsi_espnet.slides.source import open_source

    if find_spec("napari") is None:
        raise DependencyError("to view slides napari is needed: pip install 'wsi-espnet[napari]'")
    for path in paths:
        if find_result(path) is None:
            open_source(path).close()  # says what is wrong before a window opens
    # The library does not know its plugins: the plugin says under this name how it is started.
    (viewer,) = entry_points(group="wsi_espnet.viewer")
    viewer.load()(paths)
