"""Any folder of images and masks: `images/`, `masks/` and a `classes.toml` that says what the masks mean.

    name = "my-glands"              # optional: the folder's own name
    mpp = 0.5                       # optional: um per px
    glass = "stroma"                # optional: the class that bare glass belongs to
    ignored = [255]                 # optional: values of px without a class

    [[classes]]
    name = "stroma"
    color = [230, 120, 160]
    value = 0                       # optional: its value in the masks; 0, 1, ... in this order

Pictures and masks are paired by the name before the dot. With the folders `train`, `val` or `test`, each with
`images` and `masks`, these are the splits; otherwise there is one, ``all``.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from wsi_espnet.classes import UNLABELLED, Channel, ClassTable, TissueClass
from wsi_espnet.data.adapter import Listing
from wsi_espnet.data.files import FileDataset, pair_by_stem
from wsi_espnet.data.pictures import Lookup, lookup_of
from wsi_espnet.errors import DataError

SPLITS = ("train", "val", "test")
CLASSES = "classes.toml"

Value = Annotated[int, Field(ge=0, le=255)]


class ClassEntry(BaseModel):
    """One class: its name, its display colour (R, G, B; 0..255), its value in masks, its names in annotations."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[str, Field(min_length=1)]
    color: tuple[Channel, Channel, Channel]
    value: Value | None = None
    annotations: tuple[str, ...] = ()


class ClassFile(BaseModel):
    """A `classes.toml`; ids of classes are 0, 1, ... in its order.

    Parameters
    ----------
    name, mpp, glass, ignored, classes
        As in this module's docstring.
    outside
        For slides: the class of px that no outline holds; None ignores them.
    ignored_annotations
        For slides: names of outlines whose px are ignored.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str | None = None
    mpp: Annotated[float, Field(gt=0)] | None = None
    glass: str | None = None
    outside: str | None = None
    ignored: tuple[Value, ...] = (UNLABELLED,)
    ignored_annotations: tuple[str, ...] = ()
    classes: tuple[ClassEntry, ...]

    @model_validator(mode="after")
    def _ensure_one_meaning_per_value(self) -> ClassFile:
        values = self.values
        if len(set(values)) != len(values):
            raise ValueError(f"values of classes must differ, got {list(values)}")
        if "ignored" in self.model_fields_set and set(values) & set(self.ignored):
            raise ValueError(f"a value is either ignored or of a class, got both for {set(values) & set(self.ignored)}")
        return self

    @model_validator(mode="after")
    def _ensure_named_classes_exist(self) -> ClassFile:
        names = [c.name for c in self.classes]
        unknown = {self.glass, self.outside} - {None, *names}
        if unknown:
            raise ValueError(f"glass and outside must be names of classes, got {', '.join(map(str, unknown))}")
        return self

    @property
    def values(self) -> tuple[int, ...]:
        """Value in masks of each class."""
        return tuple(i if c.value is None else c.value for i, c in enumerate(self.classes))

    @property
    def lookup(self) -> Lookup:
        """What the values of a mask mean."""
        return lookup_of({value: id_ for id_, value in enumerate(self.values)}, ignored=self.ignored)

    @property
    def annotations(self) -> dict[str, int]:
        """Class id, or 255, by the name of an outline's class: those that a class lists, or its own name."""
        named = {name: i for i, c in enumerate(self.classes) for name in c.annotations or (c.name,)}
        return named | dict.fromkeys(self.ignored_annotations, UNLABELLED)

    def table(self, name: str) -> ClassTable:
        """The class table, called `name` where the file does not give one."""
        classes = [TissueClass(id=i, name=c.name, color=c.color) for i, c in enumerate(self.classes)]
        return ClassTable(name=self.name or name, classes=tuple(classes), glass=self.id_of(self.glass))

    def id_of(self, name: str | None) -> int | None:
        """Id of the class of a name; None for None."""
        return None if name is None else [c.name for c in self.classes].index(name)


def read_classes(root: Path) -> tuple[ClassFile, ClassTable]:
    """The `classes.toml` of a folder, and the class table that it makes.

    Raises
    ------
    DataError
        It is missing, not TOML, or does not describe classes; the message names the key.
    """
    path = root / CLASSES
    if not path.is_file():
        raise DataError(f"{path} is missing: it must list the classes, with `name` and `color` in each [[classes]]")
    try:
        file = ClassFile.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
        return file, file.table(root.resolve().name)
    except ValidationError as exc:
        fault = exc.errors()[0]
        place = ".".join(map(str, fault["loc"])) or "it"
        raise DataError(f"{path} is not valid: {place}: {fault['msg'].removeprefix('Value error, ')}") from exc
    except ValueError as exc:  # TOML, or bytes that are not UTF-8
        raise DataError(f"{path} is not a TOML file: {exc}") from exc


class Folder(FileDataset):
    """The folder with `classes.toml`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        file, self.classes = read_classes(root)
        self.name, self.mpp, self._lookup = self.classes.name, file.mpp, file.lookup
        splits = tuple(split for split in SPLITS if (root / split).is_dir())
        if splits and (root / "images").is_dir():
            raise DataError(
                f"{root} holds images and {splits[0]}; move images and masks into a split's folder, or back"
            )
        self.splits = splits or ("all",)

    def _list(self, split: str) -> Listing:
        folder = self.root if split == "all" else self.root / split
        return pair_by_stem(folder / "images", folder / "masks", self._lookup)
