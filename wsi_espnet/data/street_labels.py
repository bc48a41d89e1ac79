"""Names that street scenes share: label ids and categories of Cityscapes, by class name.

mcordts/cityscapesScripts@0bcc4a72 `cityscapesscripts/helpers/labels.py` (MIT): `id` and `category` of the 19 labels
that are evaluated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from wsi_espnet.classes import ClassTable
from wsi_espnet.errors import UsageError

VOID_NAMES = frozenset({"unlabelled", "unlabeled", "void"})
"""Names under which a network may have learnt void as a class, as the authors' do ("unlabelled", last output)."""

CITYSCAPES_LABEL_IDS = {
    "road": 7,
    "sidewalk": 8,
    "building": 11,
    "wall": 12,
    "fence": 13,
    "pole": 17,
    "traffic light": 19,
    "traffic sign": 20,
    "vegetation": 21,
    "terrain": 22,
    "sky": 23,
    "person": 24,
    "rider": 25,
    "car": 26,
    "truck": 27,
    "bus": 28,
    "train": 31,
    "motorcycle": 32,
    "bicycle": 33,
}
"""`labelIds`, which the official script and the server take; 0 is unlabeled."""

CITYSCAPES_UNLABELED = 0

CITYSCAPES_CATEGORIES = {
    "flat": ("road", "sidewalk"),
    "construction": ("building", "wall", "fence"),
    "object": ("pole", "traffic light", "traffic sign"),
    "nature": ("vegetation", "terrain"),
    "sky": ("sky",),
    "human": ("person", "rider"),
    "vehicle": ("car", "truck", "bus", "train", "motorcycle", "bicycle"),
}
"""The 7 categories and the evaluated classes in each."""

CATEGORY_OF = {name: category for category, members in CITYSCAPES_CATEGORIES.items() for name in members}
"""The same by class."""


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
