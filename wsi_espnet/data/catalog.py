"""Which data sets there are, by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from wsi_espnet.data.adapter import Dataset
from wsi_espnet.data.camvid import CamVid
from wsi_espnet.errors import DataError

DATASETS: dict[str, Callable[..., Dataset]] = {
    "camvid": CamVid,
}
"""Adapters, called with the root folder and options by keyword."""


def open_dataset(name: str, root: str | Path, **options: Any) -> Dataset:
    """The data set of that name at a folder.

    Raises
    ------
    DataError
        There is no such adapter or folder, the folder is of another layout, or the adapter has no such option.
    """
    if name not in DATASETS:
        raise DataError(f"no data set adapter {name!r}; there are {', '.join(DATASETS)}")
    root = Path(root)
    if not root.is_dir():
        raise DataError(f"the folder {root} of the data set {name} is missing")
    return DATASETS[name](root, **options)
