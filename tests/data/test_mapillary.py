"""Mapillary Vistas: two versions, and maps whose name goes with them."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from wsi_espnet.data.catalog import open_dataset
from wsi_espnet.data.mapillary import TARGETS
from wsi_espnet.data.tables import read_table
from wsi_espnet.errors import DataError, UsageError


@pytest.fixture
def root(shared: Path) -> Path:
    return shared / "data/street/pseudo_mapillary_dataset"


@pytest.mark.parametrize("version", ["v1.2", "v2.0"])
def test_own_classes_are_the_ids_of_the_file(root: Path, version: str) -> None:
    mapillary = open_dataset("mapillary", root, version=version)
    (sample,) = mapillary.samples("all")
    labels = sample.read().labels
    np.testing.assert_array_equal(labels, np.asarray(Image.open(root / version / f"{sample.name}.png")))
    seen = [mapillary.classes.names[i] for i in np.unique(labels)]
    assert seen == ["construction--structure--building", "object--street-light", "object--support--pole"]
    assert mapillary.name == f"mapillary-{version}-own"


@pytest.mark.parametrize("target", TARGETS[1:])
def test_both_versions_of_the_ground_truth_have_the_same_map(root: Path, target: str) -> None:
    (old,), (new,) = (
        open_dataset("mapillary", root, version=version, target=target).samples("all") for version in ("v1.2", "v2.0")
    )
    np.testing.assert_array_equal(old.read().labels, new.read().labels)


@pytest.mark.parametrize("name", ["strict", "robustnet", "inclusive"])
def test_maps_are_the_published_ones(root: Path, shared: Path, tmp_path: Path, name: str) -> None:
    every = np.arange(66, dtype=np.uint8).reshape(6, 11)
    for split in ("training", "validation"):
        (tmp_path / split / "images").mkdir(parents=True)
        (tmp_path / split / "v1.2/labels").mkdir(parents=True)
        Image.fromarray(np.stack([every] * 3, axis=-1)).save(tmp_path / split / "images/a.jpg")
        Image.fromarray(every).save(tmp_path / split / "v1.2/labels/a.png")
    with (shared / "data/labels/mapillary_v1.2_66.csv").open(newline="") as file:
        wanted = [int(row[f"cs19_{name}"]) for row in csv.DictReader(file)]
    with (shared / "data/labels/cityscapes_labels.csv").open(newline="") as file:
        category = {int(row["trainId"]): int(row["categoryId"]) - 1 for row in csv.DictReader(file)} | {255: 255}
    for kind, ids in (("cs19", wanted), ("cat7", [category[i] for i in wanted])):
        mapillary = open_dataset("mapillary", tmp_path, target=f"{kind}_{name}")
        assert mapillary.splits == ("training", "validation")
        assert mapillary.name == f"mapillary-v1.2-{kind}_{name}"
        assert len(mapillary.classes) == int("".join(filter(str.isdigit, kind)))
        assert mapillary.samples("validation")[0].read().labels.ravel().tolist() == ids


def test_a_class_of_v2_counts_as_one_of_v1_with_its_colour_or_name() -> None:
    old = {row["name"]: row for row in read_table("mapillary_v1.2")}
    new = read_table("mapillary_v2.0")
    assert [int(row["id"]) for row in new] == list(range(124))
    same = [row for row in new if row["name"] in old]
    divided = {"human--person", "marking--crosswalk-zebra", "marking--general", "object--traffic-light"}
    assert {row["name"] for row in same} == old.keys() - divided - {"object--billboard"}
    for row in same:
        assert row["v1.2"] == row["name"]
        assert [row[c] for c in "rgb"] == [old[row["name"]][c] for c in "rgb"], row["name"]
    assert {row["v1.2"] for row in new} - {""} <= old.keys()


def test_unlabelled_is_ignored_and_values_beyond_it_are_refused(root: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(root, tmp_path / "m")
    (sample,) = open_dataset("mapillary", copy).samples("all")
    Image.fromarray(np.full((100, 100), 65, np.uint8)).save(copy / "v1.2" / f"{sample.name}.png")
    assert (sample.read().labels == 255).all()
    Image.fromarray(np.full((100, 100), 66, np.uint8)).save(copy / "v1.2" / f"{sample.name}.png")
    with pytest.raises(DataError, match=r"holds the ids 66, which no class has; known are 0\.\.65, 255"):
        sample.read()


def test_what_is_not_there_is_said(root: Path) -> None:
    with pytest.raises(UsageError, match=r"the versions v1\.2, v2\.0 and the targets own, cs19_strict"):
        open_dataset("mapillary", root, target="cs19")
    with pytest.raises(DataError, match="is not Mapillary Vistas"):
        open_dataset("mapillary", root / "images")
