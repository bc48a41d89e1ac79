"""Which data sets there are, by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wsi_espnet.data.adapter import Dataset
from wsi_espnet.data.breast import Breast
from wsi_espnet.data.camvid import CamVid
from wsi_espnet.data.cityscapes import Cityscapes
from wsi_espnet.data.folder import Folder
from wsi_espnet.data.glas import Glas
from wsi_espnet.data.mapillary import Mapillary
from wsi_espnet.data.slides import Slides
from wsi_espnet.data.voc import Voc
from wsi_espnet.errors import DataError, UsageError


@dataclass(frozen=True, slots=True)
class Adapter:
    """A data set adapter.

    Parameters
    ----------
    make
        Called with the root folder, and options by keyword.
    summary
        What it reads, for a list of adapters.
    options
        What each option takes, by its name.
    """

    make: Callable[..., Dataset]
    summary: str
    options: dict[str, str]


DATASETS: dict[str, Adapter] = {
    "camvid": Adapter(CamVid, "CamVid in SegNet's folders, 11 classes", {}),
    "cityscapes": Adapter(Cityscapes, "leftImg8bit and gtFine, 19 classes", {}),
    "voc": Adapter(Voc, "PASCAL VOC 2012 with SBD's trainaug, 21 classes", {}),
    "mapillary": Adapter(
        Mapillary,
        "Mapillary Vistas, own classes or Cityscapes'",
        {"version": "v1.2 | v2.0", "target": "own | {cs19,cat7}_{strict,robustnet,inclusive}"},
    ),
    "glas": Adapter(
        Glas,
        "GlaS colon glands, split by patient",
        {
            "grade": "true | false",
            "held_out": '["3", "6", "15"]',
            "negatives": "slides without glands, none",
            "mpp": "0.62005",
        },
    ),
    "breast": Adapter(Breast, "Y-Net's breast biopsies, 8 tissues", {}),
    "folder": Adapter(Folder, "images, masks and classes.toml", {}),
    "slides": Adapter(
        Slides,
        "whole slides with outlines or masks: manifest.csv and classes.toml",
        {"size": "px, 512", "windows": "per slide, 100", "seed": "0"},
    ),
}
"""Adapters by name."""


def open_dataset(name: str, root: str | Path, **options: Any) -> Dataset:
    """The data set of that name at a folder.

    Raises
    ------
    DataError
        There is no such adapter or folder, or the folder is of another layout.
    UsageError
        The adapter has no such option, or the option no such value.
    """
    if name not in DATASETS:
        raise DataError(f"no data set adapter {name!r}; there are {', '.join(DATASETS)}")
    adapter = DATASETS[name]
    unknown = sorted(options.keys() - adapter.options.keys())
    if unknown:
        known = ", ".join(f"{key} ({value})" for key, value in adapter.options.items()) or "none"
        raise UsageError(f"the data set adapter {name} has no option {unknown[0]!r}; it has {known}")
    root = Path(root)
    if not root.is_dir():
        raise DataError(f"the folder {root} of the data set {name} is missing")
    return adapter.make(root, **options)
