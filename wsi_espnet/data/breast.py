"""Y-Net's breast biopsies: eight kinds of tissue, 384 x 384 px, masks with R = G = B = id.

Mehta et al., MICCAI 2018; the layout is that of sacmehta/YNet@d851318d `stage1/data` (MIT): `SPLIT.txt` with a line
``/trainrgb/NAME.png, /trainannot/NAME.png, DIAGNOSIS`` per patch. Patches are of several scales, which their names
hint at and nothing states, so no um per px is given.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from wsi_espnet.data.adapter import Listing
from wsi_espnet.data.files import FileDataset, error, listed, read_text
from wsi_espnet.data.pictures import lookup_of
from wsi_espnet.errors import DataError
from wsi_espnet.models.catalog import class_table

SPLITS = ("train", "val", "test")


class Breast(FileDataset):
    """The folder with `train.txt` and the like; the diagnosis of a line is not used."""

    name = "breast"

    def __init__(self, root: Path) -> None:
        self.root = root
        self.classes = class_table("breast8")
        self.splits = tuple(split for split in SPLITS if (root / f"{split}.txt").is_file())
        if not self.splits:
            raise DataError(f"{root} is not Y-Net's data: it has none of the lists {', '.join(SPLITS)}, as .txt")

    def _list(self, split: str) -> Listing:
        path = self.root / f"{split}.txt"
        images: dict[str, Path] = {}
        masks: dict[str, Path] = {}
        findings = []
        names = []
        for number, line in enumerate(read_text(path).splitlines(), start=1):
            parts = [part.strip().lstrip("/") for part in line.split(",")]
            if line.strip() and len(parts) < 2:
                findings.append(error(path, f"line {number} must be IMAGE, MASK, DIAGNOSIS, got {line!r}"))
            elif line.strip():
                name = PurePosixPath(parts[0]).stem
                names.append(name)
                images[name], masks[name] = self.root / parts[0], self.root / parts[1]
        found = listed(names, images.__getitem__, masks.__getitem__, lookup_of(len(self.classes)))
        return Listing(found.samples, (*findings, *found.findings))
