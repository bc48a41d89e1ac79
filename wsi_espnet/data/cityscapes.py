"""Cityscapes: 19 classes of streets, 2048 x 1024 px, from its label ids or its train ids.

Cordts et al., CVPR 2016. Files lie at `leftImg8bit/SPLIT/CITY/NAME_leftImg8bit.png` and
`gtFine/SPLIT/CITY/NAME_gtFine_labelIds.png` or `..._labelTrainIds.png`. The table of ids is that of
mcordts/cityscapesScripts@0bcc4a72 `cityscapesscripts/helpers/labels.py` (MIT). The ground truth of the test split is
withheld by its authors, so that split is not offered.
"""

from __future__ import annotations

from pathlib import Path

from wsi_espnet.data.adapter import Listing
from wsi_espnet.data.files import FileDataset, Files, error, pair
from wsi_espnet.data.pictures import Lookup, lookup_of
from wsi_espnet.data.tables import read_table
from wsi_espnet.errors import DataError
from wsi_espnet.models.catalog import class_table

SPLITS = ("train", "val")
IMAGE, LABEL_IDS, TRAIN_IDS = "_leftImg8bit.png", "_gtFine_labelIds.png", "_gtFine_labelTrainIds.png"


class Cityscapes(FileDataset):
    """The folder with `leftImg8bit` and `gtFine`; splits whose folders are absent are left out."""

    name = "cityscapes"

    def __init__(self, root: Path) -> None:
        self.root = root
        self.classes = class_table("cityscapes19")
        self.splits = tuple(split for split in SPLITS if (root / "leftImg8bit" / split).is_dir())
        if not self.splits:
            raise DataError(f"{root} is not Cityscapes: it has none of {', '.join(f'leftImg8bit/{s}' for s in SPLITS)}")

    def _list(self, split: str) -> Listing:
        truth = self.root / "gtFine" / split
        if not truth.is_dir():
            return Listing((), (error(truth, "the folder is missing"),))
        images = _files(self.root / "leftImg8bit" / split, IMAGE)
        labelled = _files(truth, LABEL_IDS)
        from_labels, from_train = train_ids(), lookup_of(len(self.classes))
        found = pair(
            images,
            _files(truth, TRAIN_IDS) | labelled,
            lambda key: from_labels if key in labelled else from_train,
        )
        nothing = () if images else (error(self.root / "leftImg8bit" / split, f"no CITY/NAME{IMAGE} is in it"),)
        return Listing(found.samples, (*nothing, *found.findings))


def train_ids() -> Lookup:
    """Train id 0..18 by label id, 255 where the label is ignored."""
    return lookup_of({int(row["id"]): int(row["train_id"]) for row in read_table("cityscapes")}, ignored=())


def _files(folder: Path, end: str) -> Files:
    """Files below the folders of cities by CITY/NAME."""
    return {f"{path.parent.name}/{path.name[: -len(end)]}": path for path in sorted(folder.glob(f"*/*{end}"))}
