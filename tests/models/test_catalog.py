from __future__ import annotations

import csv
from pathlib import Path

import pytest

from wsi_espnet.errors import ModelError
from wsi_espnet.models.catalog import bundled_models, class_table, class_table_names, find_model, read_card


def test_every_bundled_table_is_valid_and_has_its_files_name() -> None:
    assert class_table_names() == [
        *("breast8", "camvid11", "camvid12", "cityscapes19", "cityscapes20", "cityscapes7"),
        *("glas-gland", "glas-grade", "mapillary123", "mapillary65", "voc21"),
    ]
    for name in class_table_names():
        assert class_table(name).name == name


def test_table_lengths_are_in_their_names() -> None:
    counted = [name for name in class_table_names() if name[-1].isdigit()]
    assert {name: len(class_table(name)) for name in counted} == {
        n: int("".join(filter(str.isdigit, n))) for n in counted
    }
    assert (len(class_table("glas-grade")), len(class_table("glas-gland"))) == (3, 2)


def test_only_slides_have_glass() -> None:
    glass = {name: class_table(name).glass for name in class_table_names()}
    slides = {"breast8", "glas-gland", "glas-grade"}
    assert glass == {name: 0 if name in slides else None for name in class_table_names()}


def test_cityscapes_is_the_train_ids_and_then_unlabelled(shared: Path) -> None:
    with (shared / "data/labels/cityscapes_labels.csv").open(newline="") as file:
        rows = {int(r["trainId"]): r for r in csv.DictReader(file) if 0 <= int(r["trainId"]) < 255}
    table = class_table("cityscapes20")
    assert table.names == (*(rows[i]["name"] for i in range(19)), "unlabelled")
    for i in range(19):
        assert table.classes[i].color == tuple(int(rows[i][c]) for c in "rgb")


def test_camvid_is_in_segnets_order() -> None:
    assert class_table("camvid12").names == (
        *("sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian"),
        *("bicyclist", "unlabelled"),
    )


@pytest.mark.parametrize(("trained", "scored"), [("camvid12", "camvid11"), ("cityscapes20", "cityscapes19")])
def test_a_table_with_void_is_the_one_without_and_void(trained: str, scored: str) -> None:
    assert class_table(trained).classes[:-1] == class_table(scored).classes
    assert class_table(trained).names[-1] == "unlabelled"


def test_voc_colours_follow_the_bit_rule() -> None:
    def bit_rule(i: int) -> tuple[int, ...]:
        return tuple(sum(((i >> (3 * k + c)) & 1) << (7 - k) for k in range(8)) for c in range(3))

    assert [c.color for c in class_table("voc21").classes] == [bit_rule(i) for i in range(21)]


def test_mapillary_is_the_published_list_without_unlabelled(shared: Path) -> None:
    with (shared / "data/labels/mapillary_v1.2_66.csv").open(newline="") as file:
        *rows, last = csv.DictReader(file)
    assert last["name"] == "void--unlabeled"
    assert class_table("mapillary65").names == tuple(row["name"] for row in rows)
    assert [c.color for c in class_table("mapillary65").classes] == [tuple(int(row[c]) for c in "rgb") for row in rows]


def test_categories_are_those_of_cityscapes(shared: Path) -> None:
    with (shared / "data/labels/cityscapes_labels.csv").open(newline="") as file:
        categories = {int(r["categoryId"]): r["category"] for r in csv.DictReader(file)}
    assert class_table("cityscapes7").names == tuple(categories[i] for i in range(1, 8))


def test_unknown_table_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ModelError, match="no class table 'nuclei'; there are breast8, camvid11"):
        class_table("nuclei")


@pytest.mark.parametrize("name", ["../zoo/x", "", "glas-grade.json"])
def test_table_names_are_not_paths(name: str) -> None:
    with pytest.raises(ModelError, match="no class table"):
        class_table(name)


def test_bundled_models_are_found_by_name() -> None:
    for path in bundled_models():
        assert find_model(path.stem) == path
        assert read_card(path).name == path.stem


def test_a_path_is_found_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "mine.safetensors"
    path.write_bytes(b"x")
    assert find_model(path) == path
    assert find_model(str(path)) == path


def test_unknown_model_is_refused_with_the_bundled_ones() -> None:
    with pytest.raises(ModelError, match=r"no model 'glas-kolon'.*glas-colon"):
        find_model("glas-kolon")
