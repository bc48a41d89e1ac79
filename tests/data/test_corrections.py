"""Corrections go into the manifest that is there; a widget's own tests are in `tests/napari`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from small import blobs, small_slide, tiny_model

from wsi_espnet.data.corrections import save_corrections
from wsi_espnet.data.slides import Slides
from wsi_espnet.errors import DataError
from wsi_espnet.geometry import Region
from wsi_espnet.outputs.opened import OpenedResult, open_result
from wsi_espnet.segment import segment

PART = Region(100, 120, 40, 50)
OTHER = "Pr\u00e4parat.svs"


@pytest.fixture
def result(tmp_path: Path) -> OpenedResult:
    small_slide(tmp_path / "s.svs", blobs(400, 600))
    model = tiny_model(tmp_path / "tiny.safetensors")
    return open_result(segment(tmp_path / "s.svs", tmp_path / "out", model=model).path)


def keep(result: OpenedResult, folder: Path) -> Path:
    return save_corrections(result, PART, np.ones(PART.shape, np.uint8), folder)


def test_a_manifest_that_excel_saved_is_added_to(result: OpenedResult, tmp_path: Path) -> None:
    (tmp_path / "teach").mkdir()
    manifest = tmp_path / "teach/manifest.csv"
    manifest.write_text(f"slide,annotation,split,stain\r\n{OTHER},a.xml,val,HE\r\n", encoding="utf-8-sig")
    keep(result, tmp_path / "teach")
    header, *rows = manifest.read_text(encoding="utf-8").splitlines()
    assert header == "slide,annotation,split,stain,mpp"
    assert rows[0] == f"{OTHER},a.xml,val,HE,"
    assert Slides(tmp_path / "teach", size=64).splits == ("val", "train")


def test_a_manifest_that_cannot_be_added_to_is_refused_and_kept(result: OpenedResult, tmp_path: Path) -> None:
    (tmp_path / "teach").mkdir()
    manifest = tmp_path / "teach/manifest.csv"
    for content, said in (
        (f"slide,annotation,split\n{OTHER},a.xml,val\n".encode("latin-1"), r"cannot be read .*save it as UTF-8 text"),
        (
            b"slide;annotation;split\na.svs;a.xml;val\n",
            "must have the columns slide, annotation, split, got slide;anno",
        ),
    ):
        manifest.write_bytes(content)
        with pytest.raises(DataError, match=rf"manifest\.csv {said}"):
            keep(result, tmp_path / "teach")
        assert manifest.read_bytes() == content
