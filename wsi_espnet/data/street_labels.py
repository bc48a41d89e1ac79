"""Names that street scenes share: label ids and categories of Cityscapes, by class name.

mcordts/cityscapesScripts@0bcc4a72 `cityscapesscripts/helpers/labels.py` (MIT): `id` and `category` of the 19 labels
that are evaluated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from wsi_espnet.classes import UNLABELLED, ClassTable
from wsi_espnet.data.tables import read_table
from wsi_espnet.errors import UsageError

VOID_NAMES = frozenset({"unlabelled", "unlabeled", "void"})
"""Names under which a network may have learnt void as a class, as the authors' do ("unlabelled", last output)."""

_EVALUATED = [row for row in read_table("cityscapes") if int(row["train_id"]) != UNLABELLED]

CITYSCAPES_LABEL_IDS = {row["name"]: int(row["id"]) for row in _EVALUATED}
"""`labelIds` of the 19 classes, which the official script and the server take; 0 is unlabeled."""

CITYSCAPES_UNLABELED = 0

CATEGORY_OF = {row["name"]: row["category"] for row in _EVALUATED}
"""The category of each of the 19 classes, 7 in all."""


def categories_of(names: Sequence[str]) -> Mapping[str, str] | None:
    """Category of each class by name, if all are classes of Cityscapes; None otherwise.

    Examples
    --------
    >>> categories_of(["road", "rider"])["rider"], categories_of(["road", "pavement"])
    ('human', None)
    """
    return {name: CATEGORY_OF[name] for name in names} if CATEGORY_OF.keys() >= set(names) else None


def is_cityscapes(classes: ClassTable) -> bool:
    """Whether every class, void aside, is one of Cityscapes."""
    return {name for name in classes.names if name not in VOID_NAMES} <= CITYSCAPES_LABEL_IDS.keys()


def cityscapes_label_ids(classes: ClassTable) -> NDArray[np.uint8]:
    """The label id of each class id, (256,) uint8; void and whatever is no class become 0, as the authors do.

    Raises
    ------
    UsageError
        A class is not one of Cityscapes.
    """
    if not is_cityscapes(classes):
        unknown = next(n for n in classes.names if n not in CITYSCAPES_LABEL_IDS and n not in VOID_NAMES)
        raise UsageError(
            f"Cityscapes has no label for the class {unknown!r} of {classes.name}; "
            "label ids can be written of models with Cityscapes' classes only"
        )
    lookup = np.full(256, CITYSCAPES_UNLABELED, np.uint8)
    for c in classes.classes:
        lookup[c.id] = CITYSCAPES_LABEL_IDS.get(c.name, CITYSCAPES_UNLABELED)
    return lookup
