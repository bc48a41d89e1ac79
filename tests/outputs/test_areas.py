"""Areas against counting every px at once."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from wsi_espnet.classes import ClassTable, TissueClass
from wsi_espnet.errors import GeometryError, OutputError
from wsi_espnet.geometry import Region
from wsi_espnet.outputs.areas import Outlined, measure_areas, read_areas, write_areas
from wsi_espnet.slides.tissue_mask import TissueMask


def table(names: list[str]) -> ClassTable:
    classes = tuple(TissueClass(id=i, name=n, color=(i, i, i)) for i, n in enumerate(names))
    return ClassTable(name=f"of {len(names)}", classes=classes, glass=0)


CLASSES = table(["stroma", "gland", "tumour"])


class Counting:
    """Labels that remember which px were read."""

    def __init__(self, labels: NDArray[np.uint8]) -> None:
        self.labels = labels
        self.read = np.zeros(labels.shape, dtype=np.int64)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.labels.shape

    def __getitem__(self, key: tuple[slice, slice]) -> Any:
        self.read[key] += 1
        return self.labels[key]


@given(st.data(), st.integers(1, 50), st.integers(1, 50), st.integers(1, 60))
def test_areas_do_not_depend_on_blocks(data: st.DataObject, h: int, w: int, block: int) -> None:
    labels = data.draw(hnp.arrays(np.uint8, (h, w), elements=st.sampled_from([0, 1, 2, 255])))
    cells = data.draw(hnp.arrays(np.bool_, st.tuples(st.integers(1, h), st.integers(1, w))))
    tissue = TissueMask(cells, (h, w), "auto")
    areas = measure_areas(labels, tissue, CLASSES, 0.25, block=block)
    within = labels[tissue.sample(Region(0, 0, h, w))]
    assert [a.px for a in (*areas.classes, areas.unlabelled)] == [int((within == i).sum()) for i in (0, 1, 2, 255)]
    assert areas.tissue_px == tissue.area_px
    if areas.tissue_px:
        assert math.isclose(sum(a.share_of_tissue for a in (*areas.classes, areas.unlabelled)), 1)


def test_area_in_square_millimetres_is_px_times_their_size() -> None:
    labels = np.full((1000, 2000), 2, dtype=np.uint8)
    areas = measure_areas(labels, TissueMask(np.ones((1, 1), dtype=bool), (1000, 2000), "none"), CLASSES, 0.5 * 0.5)
    assert areas.classes[2].mm2 == pytest.approx(0.5)
    assert areas.tissue_mm2 == pytest.approx(0.5)


def test_blocks_without_tissue_are_not_read_and_none_is_read_twice() -> None:
    labels = Counting(np.zeros((400, 600), dtype=np.uint8))
    cells = np.zeros((8, 12), dtype=bool)
    cells[1, 1] = cells[6, 10] = True
    measure_areas(labels, TissueMask(cells, (400, 600), "auto"), CLASSES, 1.0, block=100)
    assert labels.read.max() == 1
    assert labels.read.sum() == 2 * 50 * 50


def test_blocks_that_were_counted_are_not_read() -> None:
    labels = Counting(np.ones((200, 200), dtype=np.uint8))
    tissue = TissueMask(np.ones((1, 1), dtype=bool), (200, 200), "none")
    areas = measure_areas(labels, tissue, CLASSES, 1.0, block=100, known={(0, 1): (7, 3)})
    assert [area.px for area in areas.classes[:2]] == [7, 30_003]
    assert not labels.read[:100, 100:].any()
    assert labels.read[100:].all()


def test_tissue_of_blocks_that_were_never_written_is_unlabelled() -> None:
    labels = Counting(np.ones((200, 200), dtype=np.uint8))
    tissue = TissueMask(np.ones((1, 1), dtype=bool), (200, 200), "none")
    areas = measure_areas(labels, tissue, CLASSES, 1.0, block=100, has_block=lambda r: r.y == 0)
    assert (areas.classes[1].px, areas.unlabelled.px, areas.unlabelled.share_of_tissue) == (
        20_000,
        20_000,
        0.5,
    )
    assert not labels.read[100:].any()


@pytest.mark.parametrize("glass", [0, None])
def test_in_the_rim_around_tissue_only_what_is_called_something_else_than_glass_counts(glass: int | None) -> None:
    labels = np.repeat(np.array([[0, 1, 2, 255]], np.uint8), 3, axis=0)  # a row each of glass, tissue, rim
    tissue = TissueMask(np.array([[0], [1], [2]], np.uint8), (3, 4), "auto")
    classes = CLASSES.model_copy(update={"glass": glass})
    areas = measure_areas(labels, tissue, classes, 1.0)
    assert [a.px for a in (*areas.classes, areas.unlabelled)] == [1 if glass == 0 else 2, 2, 2, 1]
    never_written = measure_areas(labels, tissue, classes, 1.0, has_block=lambda _: False)
    assert never_written.unlabelled.px == never_written.tissue_px == 4


def test_a_zarr_array_is_measured(tmp_path: Path) -> None:
    labels = zarr.create_array(tmp_path / "l.zarr", shape=(300, 500), chunks=(128, 128), dtype="u1", fill_value=1)
    labels[:100] = 2
    tissue = TissueMask(np.ones((1, 1), dtype=bool), (300, 500), "none")
    assert [a.px for a in measure_areas(labels, tissue, CLASSES, 1.0, block=256).classes] == [
        0,
        100_000,
        50_000,
    ]


def test_ids_beyond_the_table_are_refused() -> None:
    tissue = TissueMask(np.ones((1, 1), dtype=bool), (4, 4), "none")
    with pytest.raises(OutputError, match=r"hold ids \[7\].*ends at 2"):
        measure_areas(np.full((4, 4), 7, dtype=np.uint8), tissue, CLASSES, 1.0)


def test_a_mask_of_another_image_is_refused() -> None:
    tissue = TissueMask(np.ones((1, 1), dtype=bool), (4, 5), "none")
    with pytest.raises(GeometryError, match=r"\(4, 4\).*\(4, 5\)"):
        measure_areas(np.zeros((4, 4), dtype=np.uint8), tissue, CLASSES, 1.0)


def test_files_hold_the_same_numbers(tmp_path: Path) -> None:
    labels = np.zeros((100, 100), dtype=np.uint8)
    labels[:30] = 1
    labels[-10:] = 255
    tissue = TissueMask(np.ones((1, 1), dtype=bool), (100, 100), "none")
    areas = measure_areas(labels, tissue, CLASSES, 0.25)
    csv_path, json_path = write_areas(areas, tmp_path / "new", facts={"slide": "ä.svs", "mpp": [0.5, 0.5]})
    assert read_areas(json_path) == areas
    assert csv_path.read_text() == (
        "id,name,px,mm2,share_of_tissue\n"
        "0,stroma,6000,0.001500,0.600000\n"
        "1,gland,3000,0.000750,0.300000\n"
        "2,tumour,0,0.000000,0.000000\n"
        "255,unlabelled,1000,0.000250,0.100000\n"
    )
    document = json.loads(json_path.read_text(encoding="utf-8"))
    assert document["slide"] == "ä.svs"
    assert document["tissue_px"] == 10_000
    for row, entry in zip(
        csv.DictReader(csv_path.read_text().splitlines()),
        [*document["classes"], document["unlabelled"]],
        strict=True,
    ):
        assert int(row["px"]) == entry["px"]
        assert float(row["mm2"]) == pytest.approx(entry["mm2"], abs=1e-6)


def test_a_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    tissue = TissueMask(np.ones((1, 1), dtype=bool), (4, 4), "none")
    areas = measure_areas(np.zeros((4, 4), dtype=np.uint8), tissue, CLASSES, 1.0)
    with pytest.raises(OutputError, match="cannot be written"):
        write_areas(areas, tmp_path / "taken", facts={})


def test_a_damaged_file_of_areas_is_refused(tmp_path: Path) -> None:
    (tmp_path / "areas.json").write_text('{"classes": [{"id": 0}]}')
    with pytest.raises(OutputError, match=r"cannot be read .* segment the slide again"):
        read_areas(tmp_path / "areas.json")


@given(
    corner=st.tuples(st.floats(-20, 80), st.floats(-20, 80)),
    size=st.tuples(st.floats(0.5, 90), st.floats(0.5, 90)),
    block=st.integers(1, 70),
)
def test_in_an_outline_px_whose_centre_it_holds_are_counted(
    corner: tuple[float, float], size: tuple[float, float], block: int
) -> None:
    labels = np.random.default_rng(0).integers(0, 3, (60, 70), np.uint8)
    tissue = TissueMask(np.ones((6, 7), np.bool_), (60, 70), "auto")
    low, high = np.array(corner), np.add(corner, size)
    ring = np.array([low, (low[0], high[1]), high, (high[0], low[1])])
    inside = [(np.arange(n) + 0.5 >= low[a]) & (np.arange(n) + 0.5 < high[a]) for a, n in enumerate(labels.shape)]
    wanted = np.bincount(labels[np.ix_(*inside)].ravel(), minlength=3)
    areas = measure_areas(labels, Outlined(tissue, [[ring]]), CLASSES, 1.0, block=block)
    assert [area.px for area in areas.classes] == wanted.tolist()


@pytest.mark.parametrize("classes", [2, 8, 9, 30])
def test_any_number_of_classes_is_counted(classes: int) -> None:
    labels = np.random.default_rng(classes).integers(0, classes, (60, 50), dtype=np.uint8)
    tissue = TissueMask(labels % 2 == 0, labels.shape, "auto")
    areas = measure_areas(labels, tissue, table([f"c{i}" for i in range(classes)]), 1.0)
    assert [a.px for a in areas.classes] == [int((labels == i).sum()) * (i % 2 == 0) for i in range(classes)]
