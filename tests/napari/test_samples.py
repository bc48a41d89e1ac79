"""The samples of the File menu."""

from __future__ import annotations

from pathlib import Path

import pytest
from napari_wsi_espnet.samples import slide_with_mask
from small import tiny_model

from wsi_espnet.outputs.opened import open_result
from wsi_espnet.segment import segment
from wsi_espnet.slides.colon import colon_slide


def test_a_mask_of_an_older_version_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = tmp_path / "wsi_espnet" / "samples"
    folder.mkdir(parents=True)
    (folder / "colon.svs").write_bytes(colon_slide(shape=(1024, 1280)))
    old = segment(folder / "colon.svs", folder / "result", model=tiny_model(tmp_path / "tiny.safetensors", mpp=1.0))
    assert open_result(old.path).model == "tiny"
    slide, mask = slide_with_mask()
    assert (slide[2], mask[2]) == ("image", "labels")
    assert open_result(old.path).model == "glas-colon"
