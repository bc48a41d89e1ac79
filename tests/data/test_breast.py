"""Y-Net's patches, as its authors list them."""

from __future__ import annotations

from pathlib import Path

import pytest

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
