"""Label ids and categories against the published table."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from wsi_espnet.data.street_labels import categories_of, cityscapes_label_ids
from wsi_espnet.errors import UsageError
from wsi_espnet.models.catalog import class_table


def test_ids_and_categories_are_those_of_the_official_table(shared: Path) -> None:
    with (shared / "data/labels/cityscapes_labels.csv").open() as file:
        rows = {int(r["trainId"]): r for r in csv.DictReader(file) if 0 <= int(r["trainId"]) < 255}
    classes = class_table("cityscapes20")
    lookup = cityscapes_label_ids(classes)
    assert lookup[:20].tolist() == [*(int(rows[i]["id"]) for i in range(19)), 0]
    assert set(lookup[20:].tolist()) == {0}
    found = categories_of(class_table("cityscapes19").names)
    assert found == {rows[i]["name"]: rows[i]["category"] for i in range(19)}


def test_other_classes_have_neither() -> None:
    assert categories_of(class_table("camvid11").names) is None
    with pytest.raises(UsageError, match="Cityscapes has no label for the class 'pavement' of camvid11"):
        cityscapes_label_ids(class_table("camvid11"))
