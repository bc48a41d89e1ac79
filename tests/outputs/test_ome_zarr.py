"""The label pyramid on disk: who writes what, and what a shard that is there means."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from ome_zarr_models.v05 import Image
from ome_zarr_models.v05.image_label import ImageLabel

from wsi_espnet.geometry import Level, ReadPlan, Region
from wsi_espnet.models.catalog import class_table
from wsi_espnet.outputs.levels import chunk_px, majority, write_image
from wsi_espnet.outputs.ome_zarr import ResultStore
from wsi_espnet.slides.stored_tissue import write_tissue

SHAPE = (700, 1100)
CORE = 256


def plan(shape: tuple[int, int] = SHAPE) -> ReadPlan:
    return ReadPlan(Level(0, (1400, 2200), 1.0), (0.5, 0.5), shape, (40.0, 60.0), (2.0, 2.0))


def make(path: Path, *, probabilities: bool = False) -> ResultStore:
    store = ResultStore(path / "a.ome.zarr", SHAPE, CORE, 3, 0, probabilities)
    px = np.full((70, 110, 3), 200, np.uint8)
    coarse = ReadPlan(Level(0, (1400, 2200), 1.0), (5.0, 5.0), (70, 110), (40.0, 60.0), (20.0, 20.0))
    write_image(store.path, px, coarse, levels=len(store.shapes), name="a", marks={"kept": 1})
    store.create(plan(), class_table("glas-grade"), name="a")
    labels = zarr.open_group(store.path / "labels", mode="r+")
    write_tissue(labels, plan(), np.ones((7, 11), bool), levels=len(store.shapes))
    return store


def core(index: tuple[int, int]) -> Region:
    y, x = index[0] * CORE, index[1] * CORE
    return Region(y, x, min(CORE, SHAPE[0] - y), min(CORE, SHAPE[1] - x))


def fill(store: ResultStore, labels: np.ndarray, indices: list[tuple[int, int]]) -> None:
    for index in indices:
        store.write(core(index), labels[core(index).slices], None)
    for level in range(1, len(store.shapes)):
        rows, columns = store.shard_counts[level]
        for r in range(rows):
            for c in range(columns):
                store.reduce(level, r, c)


def test_levels_are_made_from_what_is_known_and_the_rest_is_read(tmp_path: Path, labels: np.ndarray) -> None:
    read, told = make(tmp_path / "read"), make(tmp_path / "told")
    fill(read, labels, all_indices(read))
    known = {index: told.write(core(index), labels[core(index).slices], None) for index in all_indices(told)}
    del known[0, 1]
    shard = told.path / "labels/classes/0/c/0/0"
    shard.write_bytes(b"not a shard")  # known, so it is not looked into
    for level in range(1, len(told.shapes)):
        rows, columns = told.shard_counts[level]
        places = [(r, c) for r in range(rows) for c in range(columns)]
        known = {place: half for place in places if (half := told.reduce(level, *place, known)) is not None}
        assert set(known) == set(places)
        np.testing.assert_array_equal(told.open_labels(level)[:], read.open_labels(level)[:])
        assert told.reduce(level, 0, 0) is None


@pytest.fixture
def labels() -> np.ndarray:
    coarse = np.random.default_rng(1).integers(0, 3, (88, 138), dtype=np.uint8)
    return np.kron(coarse, np.ones((8, 8), np.uint8))[: SHAPE[0], : SHAPE[1]]


def all_indices(store: ResultStore) -> list[tuple[int, int]]:
    rows, columns = store.shard_counts[0]
    return [(r, c) for r in range(rows) for c in range(columns)]


def test_every_level_is_the_majority_of_the_one_before(tmp_path: Path, labels: np.ndarray) -> None:
    store = make(tmp_path)
    fill(store, labels, all_indices(store))
    expected = labels
    for level in range(len(store.shapes)):
        np.testing.assert_array_equal(store.open_labels(level)[...], expected)
        expected = majority(expected)


@given(st.data(), st.integers(1, 300), st.integers(1, 9))
def test_the_most_frequent_of_four_px_stays_and_of_equals_the_upper_left_one(
    data: st.DataObject, h: int, w: int
) -> None:
    labels = data.draw(hnp.arrays(np.uint8, (h, w), elements=st.sampled_from([0, 1, 2, 255])))
    half = majority(labels)
    assert half.shape == (-(-h // 2), -(-w // 2))
    for y, x in np.ndindex(half.shape):
        rows, columns = [2 * y, min(2 * y + 1, h - 1)], [2 * x, min(2 * x + 1, w - 1)]
        four = [int(labels[row, column]) for row in rows for column in columns]
        assert half[y, x] == max(four, key=four.count)  # the first of several, as `max` takes it


def test_a_result_is_valid_ngff_with_as_many_label_levels_as_image_levels(tmp_path: Path, labels: np.ndarray) -> None:
    store = make(tmp_path)
    fill(store, labels, all_indices(store))
    image = Image.from_zarr(zarr.open_group(store.path, mode="r"))
    label = ImageLabel.from_zarr(zarr.open_group(store.path / "labels" / "classes", mode="r"))
    images = image.ome_attributes.multiscales[0].datasets
    assert len(images) == len(label.ome_attributes.multiscales[0].datasets) == len(store.shapes)
    properties = label.ome_attributes.image_label.properties
    assert [p.label_value for p in properties] == [0, 1, 2, 255]


def test_only_written_cores_have_files_and_the_rest_reads_as_glass(tmp_path: Path, labels: np.ndarray) -> None:
    store = make(tmp_path)
    fill(store, labels, [(1, 2)])
    assert store.has((1, 2))
    assert not store.has((0, 0))
    found = store.open_labels(0)[...]
    np.testing.assert_array_equal(found[core((1, 2)).slices], labels[core((1, 2)).slices])
    found[core((1, 2)).slices] = 0
    assert not found.any()
    files = [p for p in (store.path / "labels/classes/0/c").rglob("*") if p.is_file()]
    assert len(files) == 1


def test_a_core_of_nothing_but_glass_still_counts_as_finished(tmp_path: Path) -> None:
    store = make(tmp_path)
    store.write(core((0, 0)), np.zeros((CORE, CORE), np.uint8), None)
    assert store.has((0, 0))


def test_a_discarded_core_is_gone_from_every_level_and_comes_back_the_same(tmp_path: Path, labels: np.ndarray) -> None:
    store = make(tmp_path)
    fill(store, labels, all_indices(store))
    before = {p: p.read_bytes() for p in store.path.rglob("*") if p.is_file()}
    store.discard((1, 1))
    assert not store.has((1, 1))
    assert len([p for p in store.path.rglob("*") if p.is_file()]) < len(before)
    fill(store, labels, [(1, 1)])
    assert {p: p.read_bytes() for p in store.path.rglob("*") if p.is_file()} == before


def test_a_failed_core_is_unlabelled_where_it_is_tissue(tmp_path: Path) -> None:
    store = make(tmp_path)
    inside = np.zeros((CORE, CORE), bool)
    inside[:100] = True
    store.write_failed((0, 0), core((0, 0)), inside)
    found = store.open_labels(0)[:CORE, :CORE]
    assert (found[:100] == 255).all()
    assert (found[100:] == 0).all()


def test_probabilities_have_a_pyramid_of_means(tmp_path: Path, labels: np.ndarray) -> None:
    store = make(tmp_path, probabilities=True)
    field = np.random.default_rng(0).integers(0, 256, (3, *SHAPE), dtype=np.uint8)
    for index in all_indices(store):
        region = core(index)
        store.write(region, labels[region.slices], field[(slice(None), *region.slices)])
    store.reduce(1, 0, 0)
    assert store.has((0, 0))
    arrays = zarr.open_group(store.path / "probabilities", mode="r")
    np.testing.assert_array_equal(arrays["0"][...], field)
    part = field[:, : 2 * CORE, : 2 * CORE].astype(int)
    mean = part.reshape(3, CORE, 2, CORE, 2).sum((2, 4))
    np.testing.assert_array_equal(arrays["1"][:, :CORE, :CORE], (mean + 2) // 4)
    Image.from_zarr(arrays)


def test_labels_lie_where_the_plan_says(tmp_path: Path) -> None:
    store = make(tmp_path)
    label = zarr.open_group(store.path / "labels" / "classes", mode="r").attrs["ome"]
    for k, dataset in enumerate(label["multiscales"][0]["datasets"]):
        scale, translation = dataset["coordinateTransformations"]
        assert scale["scale"] == [0.5 * 2**k, 0.5 * 2**k]
        # Centre of the first px: origin_l0 plus half a px, in level-0 px of 0.25 um, less half a level-0 px.
        assert translation["translation"] == [
            pytest.approx((40 + 2 * 2**k / 2 - 0.5) * 0.25),
            pytest.approx((60 + 2 * 2**k / 2 - 0.5) * 0.25),
        ]


def test_a_store_travels_without_its_open_arrays(tmp_path: Path) -> None:
    store = make(tmp_path)
    store.open_labels(0)
    copy = pickle.loads(pickle.dumps(store))
    assert copy == store
    assert "_arrays" not in copy.__dict__


@given(st.integers(1, 400).map(lambda n: n * 8))
def test_chunks_divide_the_core(core_px: int) -> None:
    chunk = chunk_px(core_px)
    assert core_px % chunk == 0
    assert chunk % 8 == 0
    assert chunk <= 512
