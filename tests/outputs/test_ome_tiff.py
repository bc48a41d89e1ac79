"""Masks as OME-TIFF, read by programs that did not write them."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import tifffile
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small import CLASSES

from wsi_espnet.errors import OutputError
from wsi_espnet.outputs.levels import majority
from wsi_espnet.outputs.ome_tiff import TILE_PX, write_ome_tiff


def pyramid(height: int, width: int, levels: int) -> list[Any]:
    made = [np.random.default_rng(0).choice(np.array([0, 1, 2, 255], np.uint8), (height, width))]
    while len(made) < levels:
        made.append(majority(made[-1]))
    return made


def write(path: Path, levels: list[Any], **how: Any) -> Path:
    write_ome_tiff(path, levels, CLASSES, mpp=(0.5, 0.25), name="s1 mask", facts="of s1 <&>", **how)
    return path


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(1, 1200), st.integers(1, 1200), st.integers(1, 4))
def test_every_level_holds_its_ids(tmp_path: Path, height: int, width: int, count: int) -> None:
    levels = pyramid(height, width, count)
    path = write(tmp_path / "m.ome.tiff", levels)
    with tifffile.TiffFile(path) as tiff:
        assert tiff.is_ome
        assert len(tiff.series) == 1
        found = tiff.series[0].levels
        assert len(found) == count
        for px, level in zip(levels, found, strict=True):
            np.testing.assert_array_equal(level.asarray(), px)
    with rasterio.open(path) as other:  # GDAL's reader
        np.testing.assert_array_equal(other.read(1), levels[0])


def test_scale_and_classes_are_in_the_xml(tmp_path: Path) -> None:
    path = write(tmp_path / "m.ome.tiff", pyramid(600, 700, 2))
    with tifffile.TiffFile(path) as tiff:
        assert tiff.ome_metadata is not None
        root = ET.fromstring(tiff.ome_metadata)
        page = tiff.pages[0]
        assert (page.tilewidth, page.tilelength) == (TILE_PX, TILE_PX)
        numerator, denominator = page.tags["XResolution"].value
        assert numerator / denominator == pytest.approx(1e4 / 0.25)
    ome = {"o": "http://www.openmicroscopy.org/Schemas/OME/2016-06"}
    px = root.find(".//o:Pixels", ome)
    assert px is not None
    assert {k: px.get(k) for k in ("SizeX", "SizeY", "Type", "PhysicalSizeX", "PhysicalSizeY")} == {
        "SizeX": "700", "SizeY": "600", "Type": "uint8", "PhysicalSizeX": "0.25", "PhysicalSizeY": "0.5"
    }  # fmt: skip
    assert px.get("PhysicalSizeXUnit") == "µm"
    assert {m.get("K"): m.text for m in root.iterfind(".//o:M", ome)} == {
        "0": "glass", "1": "stroma", "2": "gland", "255": "unlabelled"
    }  # fmt: skip
    assert root.findtext(".//o:Description", namespaces=ome) == "of s1 <&>"


def test_bands_are_read_once_and_told_about(tmp_path: Path) -> None:
    levels = pyramid(1100, 700, 2)
    reads = []

    class Counted:
        shape = levels[0].shape

        def __getitem__(self, key: tuple[slice, slice]) -> Any:
            reads.append(key)
            return levels[0][key]

    told: list[tuple[int, int]] = []
    write(tmp_path / "m.ome.tiff", [Counted(), levels[1]], progress=lambda *done: told.append(done))
    assert [(rows.start, rows.stop) for rows, _ in reads] == [(0, 512), (512, 1024), (1024, 1100)]
    assert told == [(n, 5) for n in range(1, 6)]


def test_of_a_damaged_mask_no_file_is_left(tmp_path: Path) -> None:
    array = zarr.create_array(tmp_path / "labels", shape=(1100, 600), chunks=(64, 64), dtype="uint8")
    array[...] = 1
    (tmp_path / "labels" / "c" / "12" / "2").write_bytes(b"damaged")
    (tmp_path / "out").mkdir()
    with pytest.raises(OutputError, match=r"rows 512\.\.1024, columns 0\.\.600: a chunk is damaged"):
        write(tmp_path / "out" / "m.ome.tiff", [array])
    assert list((tmp_path / "out").iterdir()) == []
