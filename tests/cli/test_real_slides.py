"""Slides of real scanners through the command line with the bundled network."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import zarr
from ome_zarr_models.v05.image import Image as NgffImage
from ome_zarr_models.v05.image_label import ImageLabel
from PIL import Image
from small import Call, files_below

SLIDES = {
    "aperio": ("CMU-1-Small-Region.svs", "", (2388, 1787)),
    "hamamatsu": ("test3-DAPI-2-(387).ndpi", "", (1790, 1461)),
    "dicom, enlarged": (
        "multi_frame_jpeg_camelyon_challenge_image.dcm",
        "--mpp 20 --allow-upsampling",
        (1014, 1669),
    ),
    "generic tiff": ("boxes.tiff", "--slide-mpp 0.62", (250, 300)),
    "mirax, coarse": ("mirax_partial/Mirax2-Fluorescence-2.mrxs", "--mpp 20", (124, 169)),
    "a few px": ("small.svs", "--tissue none", (13, 13)),
}
MIRAX = SLIDES["mirax, coarse"][0]


@pytest.mark.slow
@pytest.mark.parametrize("case", SLIDES.values(), ids=SLIDES)
def test_a_slide_goes_through(
    slides: Path, tmp_path: Path, wsi_espnet: Call, case: tuple[str, str, tuple[int, int]]
) -> None:
    name, options, shape = case
    told = wsi_espnet("segment", slides / name, "-o", tmp_path / "out", "--json", *options.split())
    assert told.status == 0, told.err
    said = json.loads(told.out)
    assert said["failed"] == []
    assert said["unlabelled_mm2"] == 0
    assert sum(c["share_of_tissue"] for c in said["classes"].values()) == pytest.approx(1)
    root = zarr.open_group(said["mask"], mode="r")
    NgffImage.from_zarr(root)
    ImageLabel.from_zarr(root["labels/classes"])
    assert root["labels/classes/0"].shape == shape
    with Image.open(said["overview"]) as overview:
        overview.load()
    assert {p.name for p in (tmp_path / "out").iterdir()} == {
        Path(said[key]).name for key in ("mask", "overview", "areas_csv", "areas_json")
    }


@pytest.mark.slow
def test_a_slide_with_missing_files_is_reported_as_such(slides: Path, tmp_path: Path, wsi_espnet: Call) -> None:
    """The finest levels of this slide are not there; its coarse ones, which show where the tissue is, are."""
    base = ("segment", slides / MIRAX, "-o", tmp_path / "out")
    told = wsi_espnet(*base)
    assert told.status == 1
    last = told.err.splitlines()[-1]
    assert last.startswith("error: 6 of 6 windows could not be read and are unlabelled (255)")
    assert "Data0005.dat" in last
    assert "(unlabelled)" in told.out
    mask = tmp_path / "out" / "Mirax2-Fluorescence-2.ome.zarr"
    assert set(np.unique(zarr.open_array(mask / "labels" / "classes" / "0", mode="r")[...])) <= {0, 255}
    failures = zarr.open_group(mask, mode="r").attrs["wsi_espnet"]["failures"]
    assert sorted(tuple(f["index"]) for f in failures) == [(r, c) for r in range(2) for c in range(3)]
    before = files_below(tmp_path / "out")
    again = wsi_espnet(*base)
    assert (again.status, again.out) == (told.status, told.out)
    assert files_below(tmp_path / "out") == before


@pytest.mark.parametrize("name", ["boxes_0.dcm", "unreadable/unopenable.tiff", "unreadable/unreadable.svs"])
def test_a_slide_that_cannot_be_used_is_refused(slides: Path, tmp_path: Path, wsi_espnet: Call, name: str) -> None:
    told = wsi_espnet("segment", slides / name, "-o", tmp_path / "out")
    told.assert_refused(1, Path(name).name)
