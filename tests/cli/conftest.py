"""The command line as users meet it: arguments in; status, stdout and stderr out."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from small import Call, Told, blobs, small_slide, tiny_model

from wsi_espnet.cli import main


@pytest.fixture
def wsi_espnet(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Call:
    """The command in this process, which saves the seconds that torch takes to import."""

    def call(*arguments: object) -> Told:
        monkeypatch.setattr(sys, "argv", ["wsi-espnet", *map(str, arguments)])
        capsys.readouterr()
        status: object = 0
        try:
            main.run()
        except SystemExit as exc:
            status = exc.code or 0
        out, err = capsys.readouterr()
        assert isinstance(status, int)
        return Told(status, out, err)

    return call


@pytest.fixture(scope="session")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with slides, networks and tissue files, good and bad ones; nothing is written into it."""
    folder = tmp_path_factory.mktemp("bench")
    px = blobs(600, 800)
    tiny_model(folder / "tiny.safetensors")
    small_slide(folder / "slide.svs", px)
    small_slide(folder / "other.svs", blobs(600, 800, seed=1))
    small_slide(folder / "scaleless.svs", px, mpp=None)
    small_slide(folder / "white.svs", np.full_like(px, 245))
    (folder / "empty.svs").touch()
    (folder / "text.svs").write_text("not a slide\n" * 100, encoding="utf-8")
    (folder / "cut.svs").write_bytes((folder / "slide.svs").read_bytes()[:1000])
    weights = (folder / "tiny.safetensors").read_bytes()
    (folder / "cut.safetensors").write_bytes(weights[:-1000])
    (folder / "torn.safetensors").write_bytes(weights[:200])
    (folder / "zip.pth").write_bytes(b"PK\x03\x04" + bytes(100))
    (folder / "text.safetensors").write_text("not weights\n" * 100, encoding="utf-8")
    (folder / "text.png").write_text("not a picture\n", encoding="utf-8")
    (folder / "empty.geojson").write_text('{"type": "FeatureCollection", "features": []}', encoding="utf-8")
    (folder / "torn.geojson").write_text('{"type": "Feature', encoding="utf-8")
    return folder
