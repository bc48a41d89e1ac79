"""Classes of a model as classes of a data set."""

from __future__ import annotations

import pytest

from wsi_espnet.classes import ClassTable, TissueClass
from wsi_espnet.data.class_map import map_classes
from wsi_espnet.errors import UsageError
from wsi_espnet.models.catalog import class_table


def table(name: str, *names: str) -> ClassTable:
    return ClassTable(name=name, classes=tuple(TissueClass(id=i, name=n, color=(i, i, i)) for i, n in enumerate(names)))


def test_classes_meet_by_name_whatever_their_ids_and_case() -> None:
    found = map_classes(table("m", "Road", "sky", "unlabelled"), table("d", "sky", "tree", "road"))
    assert found.lookup[:3].tolist() == [2, 0, 255]
    assert found.targets == {"Road": "road", "sky": "sky", "unlabelled": None}
    assert found.unreached == ("tree",)
    assert set(found.lookup[3:].tolist()) == {255}


def test_several_classes_may_become_one() -> None:
    found = map_classes(
        class_table("glas-grade"),
        table("d", "stroma", "gland"),
        {"glass and stroma": "stroma", "benign gland": "gland", "malignant gland": "GLAND"},
    )
    assert found.lookup[:3].tolist() == [0, 1, 1]


def test_a_star_takes_those_without_a_place_and_no_others() -> None:
    found = map_classes(class_table("cityscapes20"), class_table("camvid11"), {"sidewalk": "pavement", "*": "void"})
    kept = {name: target for name, target in found.targets.items() if target is not None}
    assert kept == {n: n for n in ("road", "building", "fence", "pole", "sky", "car")} | {"sidewalk": "pavement"}


def test_classes_of_cityscapes_become_its_categories_where_those_are_the_classes() -> None:
    model = class_table("cityscapes20")
    names = ["flat", "construction", "object", "nature", "sky", "human", "vehicle"]
    found = map_classes(model, table("cityscapes7", *names))
    expected = [0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 4, 5, 5, 6, 6, 6, 6, 6, 6, 255]  # categoryId - 1 of the official table
    assert found.lookup[:20].tolist() == expected


def test_void_of_the_data_set_may_be_asked_for_by_name() -> None:
    assert map_classes(table("m", "a", "b"), table("d", "a", "b"), {"a": "void"}).lookup[:2].tolist() == [255, 1]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, r'the classes sidewalk, wall, .* are not in camvid11, which has pavement, .*--map "sidewalk=CLASS"'),
        ({"side walk": "pavement"}, "the model has no class 'side walk'"),
        ({"sidewalk": "footpath"}, "the data set has no class 'footpath'"),
        ({"*": "everything"}, "the data set has no class 'everything'"),
    ],
)
def test_what_does_not_fit_is_told(given: dict[str, str], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        map_classes(class_table("cityscapes20"), class_table("camvid11"), given)


def test_nothing_in_common_is_refused() -> None:
    with pytest.raises(UsageError, match="no class of glas-grade is one of camvid11"):
        map_classes(class_table("glas-grade"), class_table("camvid11"), {"*": "void"})
