"""From a model's classes to those of a data set, by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wsi_espnet.classes import UNLABELLED, ClassTable
from wsi_espnet.data.adapter import Dataset
from wsi_espnet.data.street_labels import CATEGORY_OF, VOID_NAMES
from wsi_espnet.errors import UsageError
from wsi_espnet.models.card import ModelCard

VOID = "void"
ALL_OTHERS = "*"


@dataclass(frozen=True, slots=True)
class ClassMap:
    """What each class of a model is called in a data set.

    Parameters
    ----------
    targets
        Model class -> class of the data set, or None for no class.
    lookup
        The same as ids, (256,) uint8; 255 for no class.
    unreached
        Classes of the data set that no class of the model becomes.
    """

    targets: Mapping[str, str | None]
    lookup: NDArray[np.uint8]
    unreached: tuple[str, ...]


def ensure_same_classes(model: ModelCard, dataset: Dataset) -> None:
    """Refuse a data set whose classes are not a model's, by name and in order.

    Raises
    ------
    UsageError
        They are not.
    """
    names, theirs = model.classes.names, dataset.classes.names
    if names != theirs:
        raise UsageError(
            f"{model.name} knows {', '.join(names)}, {dataset.name} has {', '.join(theirs)}; they must be the same, in "
            "the same order"
        )


def map_classes(model: ClassTable, dataset: ClassTable, given: Mapping[str, str] | None = None) -> ClassMap:
    """Map classes of the same name, those in `given` as it says, and a void class of the model to none.

    Where the data set's classes are Cityscapes' categories, a class of Cityscapes becomes its category.

    A px that a model calls void is an error where the truth has a class, as in the authors' numbers: they take the
    largest of all outputs, the last of which is void (sacmehta/ESPNet@afe71c38 `test/VisualizeResults.py`).

    Parameters
    ----------
    model, dataset
        Their class tables; case does not matter in names.
    given
        Model class -> class of the data set, or ``void``; the model class ``*`` stands for all that have no other
        place to go.

    Raises
    ------
    UsageError
        A model class has no place to go, `given` names a class that is not there, or nothing is left in common.

    Examples
    --------
    >>> from wsi_espnet.models.catalog import class_table
    >>> map_classes(class_table("camvid12"), class_table("camvid11")).lookup[[0, 10, 11]].tolist()
    [0, 10, 255]
    """
    given = dict(given or {})
    others = given.pop(ALL_OTHERS, None)
    _refuse_unknown(given, others, model, dataset)
    places = {name.casefold(): name for name in dataset.names}
    categories = CATEGORY_OF if places.keys() == set(CATEGORY_OF.values()) else {}
    wishes = {source.casefold(): target for source, target in given.items()}
    targets: dict[str, str | None] = {}
    homeless = []
    for name in model.names:
        alike = categories.get(name.casefold(), name)
        wish = wishes.get(name.casefold(), alike if alike.casefold() in places else None)
        if wish is None:
            wish = VOID if name.casefold() in VOID_NAMES else others
        if wish is None:
            homeless.append(name)
        else:
            targets[name] = places.get(wish.casefold())
    if homeless:
        raise UsageError(_homeless(homeless, model, dataset, set(targets.values())))
    return _finished(targets, model, dataset)


def _finished(targets: dict[str, str | None], model: ClassTable, dataset: ClassTable) -> ClassMap:
    unreached = tuple(name for name in dataset.names if name not in targets.values())
    if len(unreached) == len(dataset):
        raise UsageError(f"no class of {model.name} is one of {dataset.name} ({', '.join(dataset.names)})")
    lookup = np.full(256, UNLABELLED, np.uint8)
    for c in model.classes:
        target = targets[c.name]
        lookup[c.id] = UNLABELLED if target is None else dataset.names.index(target)
    return ClassMap(targets, lookup, unreached)


def _refuse_unknown(given: Mapping[str, str], others: str | None, model: ClassTable, dataset: ClassTable) -> None:
    for side, table, names in (("model", model, given), ("data set", dataset, [*given.values(), others or VOID])):
        known = {name.casefold() for name in table.names} | ({VOID} if side == "data set" else set())
        for name in names:
            if name.casefold() not in known:
                raise UsageError(f"the {side} has no class {name!r}; there are {', '.join(table.names)}")


def _homeless(homeless: list[str], model: ClassTable, dataset: ClassTable, taken: set[str | None]) -> str:
    free = [name for name in dataset.names if name not in taken]
    return (
        f"the classes {', '.join(homeless)} of {model.name} are not in {dataset.name}"
        + (f", which has {', '.join(free)} beside those in common" if free else "")
        + f'; say what each is with --map "{homeless[0]}=CLASS" or =void, or --map "*=void" for all of them'
    )
