"""Y-Net's patches, as its authors list them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from data.make import save

from wsi_espnet.data.catalog import open_dataset
from wsi_espnet.data.check import check
from wsi_espnet.errors import DataError


def test_class_shares_are_the_published_ones(shared: Path) -> None:
    breast = open_dataset("breast", shared / "data/ynet_breast")
    report = check(breast, workers=1)
    assert report.errors == 0
    # ../shared/espnet.md, section 11, measured over the same five patches
    wanted = [0.1505, 0.0001, 0.2754, 0.2514, 0.2965, 0.0248, 0.0014, 0]
    assert report.splits[0].shares == pytest.approx(wanted, abs=6e-5)
    assert report.splits[0].sizes == {(384, 384): 5}
    assert [str(f) for f in report.findings] == ["warning  train: no px of necrosis"]


def test_a_list_may_start_with_the_mark_of_excel_but_is_in_utf_8(tmp_path: Path) -> None:
    for place in ("valrgb/\u00e4.png", "valannot/\u00e4.png"):
        save(tmp_path / place, np.ones((24, 32), np.uint8))
    line = "valrgb/\u00e4.png, valannot/\u00e4.png, 0\n"
    (tmp_path / "val.txt").write_text(line, encoding="utf-8-sig")
    assert [sample.name for sample in open_dataset("breast", tmp_path).samples("val")] == ["\u00e4"]
    (tmp_path / "val.txt").write_text(line, encoding="latin-1")
    with pytest.raises(DataError, match=r"val\.txt cannot be read .*save it as UTF-8 text"):
        open_dataset("breast", tmp_path).samples("val")


def test_lines_that_name_nothing_are_found(tmp_path: Path) -> None:
    (tmp_path / "val.txt").write_text("/valrgb/a.png, /valannot/a.png, 0\n\nvalrgb/b.png\n")
    listing = open_dataset("breast", tmp_path).listing("val")
    assert [f.what for f in listing.findings] == [
        "line 3 must be IMAGE, MASK, DIAGNOSIS, got 'valrgb/b.png'",
        "the list names a, but this file is missing",
        "the list names a, but this file is missing",
    ]
    with pytest.raises(DataError, match=r"line 3 must be .* \(and 2 more findings"):
        open_dataset("breast", tmp_path).samples("val")
    (tmp_path / "val.txt").unlink()
    with pytest.raises(DataError, match="is not Y-Net's data"):
        open_dataset("breast", tmp_path)
