"""PASCAL VOC 2012: 20 kinds of objects and background, palette masks with a border that is ignored.

Everingham et al., IJCV 2015. `JPEGImages/NAME.jpg`, `SegmentationClass/NAME.png`, and one name per line in
`ImageSets/Segmentation/SPLIT.txt`. The split `trainaug` (10582 images) takes its masks from `SegmentationClassAug`,
which is made of SBD (Hariharan et al., ICCV 2011).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from wsi_espnet.data.adapter import Listing
from wsi_espnet.data.files import FileDataset, error, listed, pair_by_stem, read_text
from wsi_espnet.data.pictures import lookup_of
from wsi_espnet.errors import DataError
from wsi_espnet.models.catalog import class_table

SPLITS = ("train", "val", "trainval", "trainaug")
IMAGES, LISTS = "JPEGImages", Path("ImageSets") / "Segmentation"


class Voc(FileDataset):
    """The folder with `JPEGImages`, or VOCdevkit above it; without `ImageSets` it has the one split ``all``."""

    name = "voc"
    unions: Mapping[str, tuple[str, ...]] = {"trainval": ("train", "val"), "trainaug": ("train",)}

    def __init__(self, root: Path) -> None:
        found = [path.parent for depth in ("", "*/", "*/*/") for path in sorted(root.glob(f"{depth}{IMAGES}"))]
        if len(found) != 1:
            several = f"it holds several: {', '.join(map(str, found))}; give one of them"
            raise DataError(f"{root} is not VOC: {several if found else f'no folder {IMAGES} is in it or one below'}")
        self.root = found[0]
        self.classes = class_table("voc21")
        self.splits = tuple(split for split in SPLITS if self._names(split).is_file()) or ("all",)

    def _names(self, split: str) -> Path:
        return self.root / LISTS / f"{split}.txt"

    def _list(self, split: str) -> Listing:
        lookup = lookup_of(len(self.classes))
        masks = self.root / ("SegmentationClassAug" if split == "trainaug" else "SegmentationClass")
        if split == "all":
            return pair_by_stem(self.root / IMAGES, masks, lookup)
        if not masks.is_dir():
            return Listing((), (error(masks, "the folder is missing"),))
        # Lines are names, or pairs of paths such as /JPEGImages/NAME.jpg /SegmentationClassAug/NAME.png.
        lines = read_text(self._names(split)).replace(",", " ").splitlines()
        names = [PurePosixPath(line.split()[0]).stem for line in lines if line.strip()]
        return listed(names, lambda n: self.root / IMAGES / f"{n}.jpg", lambda n: masks / f"{n}.png", lookup)
