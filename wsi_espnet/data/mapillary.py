"""Mapillary Vistas v1.2 and v2.0: streets of all continents, with maps onto the classes of Cityscapes.

Neuhold et al., ICCV 2017. `SPLIT/images/NAME.jpg`, and masks of ids in `SPLIT/v1.2/labels` (or `SPLIT/labels`, as
v1.2 was first handed out) and `SPLIT/v2.0/labels`.

No map onto Cityscapes is official, and the one behind ESPNet's published numbers was not found. These are offered:

    cs19_strict      22 of the 66 classes are mapped; from a DAFormer-derived script (Apache-2.0)
    cs19_robustnet   25; shachoi/RobustNet@1ff5c047 `datasets/mapillary.py` (BSD-3-Clause)
    cs19_inclusive   45; a public script whose repository was not identified
    cat7_...         the same maps, then Cityscapes' seven categories

Names and colours of v1.2 and v2.0 are those of open-mmlab/mmsegmentation `mmseg/datasets/mapillary.py` and
open-edge-platform/datumaro `datumaro/plugins/data_formats/mapillary_vistas/format.py`, which agree. For the maps, a
class of v2.0 counts as the class of v1.2 in the last column of its table: the one of its name, or the one that was
divided (persons, lane markings, traffic lights, traffic signs). Classes that v2.0 adds are ignored in maps.
"""

from __future__ import annotations

from pathlib import Path

from wsi_espnet.classes import UNLABELLED, ClassTable
from wsi_espnet.data.adapter import Listing
from wsi_espnet.data.files import FileDataset, pair_by_stem
from wsi_espnet.data.pictures import Lookup, lookup_of
from wsi_espnet.data.tables import read_table
from wsi_espnet.errors import DataError, UsageError
from wsi_espnet.models.catalog import class_table

SPLITS = ("training", "validation")
OWN = {"v1.2": "mapillary65", "v2.0": "mapillary123"}
"""Class table by version; the last id of each, void--unlabeled, is ignored."""
MAPS = ("strict", "robustnet", "inclusive")
TARGETS = ("own", *(f"cs19_{name}" for name in MAPS), *(f"cat7_{name}" for name in MAPS))


class Mapillary(FileDataset):
    """The folder with `training` and `validation`, or one with `images` and `v1.2` of its own: the split ``all``.

    Parameters
    ----------
    root
        The folder.
    version
        ``v1.2`` or ``v2.0``.
    target
        Which classes its labels are: ``own``, or a map, whose name is then part of the data set's.
    """

    def __init__(self, root: Path, *, version: str = "v1.2", target: str = "own") -> None:
        if version not in OWN or target not in TARGETS:
            raise UsageError(
                f"mapillary has the versions {', '.join(OWN)} and the targets {', '.join(TARGETS)}, "
                f"got {version!r} and {target!r}"
            )
        self.root, self.version = root, version
        self.name = f"mapillary-{version}-{target}"
        self.classes, self.lookup = _classes(version, target), _lookup(version, target)
        splits = tuple(split for split in SPLITS if (root / split / "images").is_dir())
        self.splits = splits or (("all",) if (root / "images").is_dir() else ())
        if not self.splits:
            raise DataError(f"{root} is not Mapillary Vistas: it has neither images nor {' or '.join(SPLITS)}/images")

    def _list(self, split: str) -> Listing:
        folder = self.root if split == "all" else self.root / split
        layouts = [folder / self.version / "labels", folder / self.version]
        if self.version == "v1.2":
            layouts.append(folder / "labels")
        masks = next((layout for layout in layouts if layout.is_dir()), layouts[0])
        return pair_by_stem(folder / "images", masks, self.lookup)


def _classes(version: str, target: str) -> ClassTable:
    if target == "own":
        return class_table(OWN[version])
    return class_table("cityscapes19" if target.startswith("cs19") else "cityscapes7")


def _lookup(version: str, target: str) -> Lookup:
    rows = read_table(f"mapillary_{version}")
    if target == "own":
        return lookup_of(len(rows) - 1, ignored=[len(rows) - 1, UNLABELLED])
    kind, _, name = target.partition("_")
    train_ids = {row["name"]: int(row[f"cs19_{name}"]) for row in read_table("mapillary_v1.2")}
    wanted = _categories() if kind == "cat7" else {}
    mapped = (train_ids.get(row.get("v1.2", row["name"]), UNLABELLED) for row in rows)
    return lookup_of({value: wanted.get(id_, id_) for value, id_ in enumerate(mapped)})


def _categories() -> dict[int, int]:
    """Id of Cityscapes' category by train id."""
    names = class_table("cityscapes7").names
    rows = [row for row in read_table("cityscapes") if int(row["train_id"]) != UNLABELLED]
    return {int(row["train_id"]): names.index(row["category"]) for row in rows}
