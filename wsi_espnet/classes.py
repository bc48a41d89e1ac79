"""Class tables: what the ids of a label image mean, and in which colour they are shown."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

UNLABELLED = 255
"""Id of pixels without a class: void in ground truth, windows that could not be read in results."""

Channel = Annotated[int, Field(ge=0, le=255)]


class TissueClass(BaseModel):
    """One class: its id in the label image (0..254), its name, its display colour (R, G, B; 0..255)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: Annotated[int, Field(ge=0, lt=UNLABELLED)]
    name: Annotated[str, Field(min_length=1)]
    color: tuple[Channel, Channel, Channel]


class ClassTable(BaseModel):
    """The classes of a model or data set, in the order of the network's outputs.

    Parameters
    ----------
    name
        Short name of the table, such as ``glas-grade``.
    classes
        At least two; ids are 0, 1, ... n - 1 in this order, names are unique.
    glass
        Id of the class that bare glass belongs to; None where the table has no such class (street scenes).
        Pixels outside the tissue of a slide are given this id.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    classes: Annotated[tuple[TissueClass, ...], Field(min_length=2, max_length=UNLABELLED)]
    glass: int | None = None

    @model_validator(mode="after")
    def _ensure_ids_count_up(self) -> ClassTable:
        ids = [c.id for c in self.classes]
        if ids != list(range(len(ids))):
            raise ValueError(f"class ids must be 0..{len(ids) - 1} in order, got {ids}")
        return self

    @model_validator(mode="after")
    def _ensure_unique_names(self) -> ClassTable:
        names = [c.name for c in self.classes]
        if len(set(names)) != len(names):
            raise ValueError(f"class names must be unique, got {names}")
        return self

    @model_validator(mode="after")
    def _ensure_glass_is_a_class(self) -> ClassTable:
        if self.glass is not None and not 0 <= self.glass < len(self.classes):
            raise ValueError(f"glass must be one of the ids 0..{len(self.classes) - 1}, got {self.glass}")
        return self

    def __len__(self) -> int:
        return len(self.classes)

    @property
    def names(self) -> tuple[str, ...]:
        """Class names in the order of their ids."""
        return tuple(c.name for c in self.classes)
