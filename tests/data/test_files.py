"""The data set that the documentation adds works as it says."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from data.make import picture, save

from wsi_espnet.data.check import check
from wsi_espnet.data.files import FileDataset, read_table, read_text
from wsi_espnet.errors import DataError

PAGE = Path(__file__).resolve().parents[2] / "docs" / "data.md"


@pytest.fixture(scope="module")
def adapter() -> type[FileDataset]:
    (program,) = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert len(program.splitlines()) <= 60
    names: dict[str, object] = {"__name__": "pets"}
    exec(compile(program, str(PAGE), "exec"), names)
    pets = names["Pets"]
    assert isinstance(pets, type)
    assert issubclass(pets, FileDataset)
    return pets


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for seed, name in enumerate(("Abyssinian_1", "beagle_7", "pug_2")):
        save(tmp_path / "images" / f"{name}.jpg", picture(seed))
        trimap = np.repeat(np.array([1, 2, 3], np.uint8), 256).reshape(24, 32)
        save(tmp_path / "annotations/trimaps" / f"{name}.png", trimap)
    (tmp_path / "annotations/trainval.txt").write_text("Abyssinian_1 1 1 1\npug_2 3 2 4\n")
    (tmp_path / "annotations/test.txt").write_text("beagle_7 2 2 1\n")
    return tmp_path


def test_the_documented_adapter_reads_its_layout(adapter: type[FileDataset], folder: Path) -> None:
    pets = adapter(folder)
    report = check(pets, workers=1)
    assert report.findings == ()
    assert [(s.name, s.listed, s.shares) for s in report.splits] == [
        ("trainval", 2, (0.5, 0.5)),
        ("test", 1, (0.5, 0.5)),
    ]
    np.testing.assert_array_equal(np.unique(pets.samples("test")[0].read().labels), [0, 1, 255])


def test_the_documented_adapter_says_what_is_wrong(adapter: type[FileDataset], folder: Path) -> None:
    pets = adapter(folder)
    (folder / "images/pug_2.jpg").unlink()
    with pytest.raises(DataError, match=r"pug_2\.jpg: the list names pug_2, but this file is missing"):
        pets.samples("trainval")
    with pytest.raises(DataError, match="is not the pets"):
        adapter(folder / "images")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_tables_are_read_with_the_mark_of_excel_and_without(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "table.csv"
    path.write_text("slide, split\nPr\u00e4parat.svs , train\nb.svs\n", encoding=encoding)
    rows = [{"slide": "Pr\u00e4parat.svs", " split": "train"}, {"slide": "b.svs", " split": ""}]
    assert read_table(path) == rows
    assert read_text(path).startswith("slide")


def test_text_of_another_encoding_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("slide\nPr\u00e4parat.svs\n", encoding="latin-1")
    for read in (read_table, read_text):
        with pytest.raises(DataError, match=r"table\.csv cannot be read .*save it as UTF-8 text"):
            read(path)
    with pytest.raises(DataError, match="No such file"):
        read_text(tmp_path / "absent.csv")


def test_a_table_with_a_field_that_never_ends_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text('slide\n"' + "a.svs\n" * 30000)
    with pytest.raises(DataError, match=r"table\.csv is not a table \(field larger than .*save it as CSV"):
        read_table(path)
