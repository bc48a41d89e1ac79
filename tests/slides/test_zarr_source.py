from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from make import noise, shrunk

from wsi_espnet import ngff
from wsi_espnet.errors import ScaleError, SlideError, SlideReadError
from wsi_espnet.geometry import Region
from wsi_espnet.slides.source import open_source
from wsi_espnet.slides.zarr_source import ZarrSource

PX = noise(300, 420)


def write_image(
    path: Path,
    levels: list[np.ndarray] | None = None,
    *,
    axes: str = "cyx",
    mpp: float = 0.5,
    translation: float = 0.0,
    unit: str | None = "micrometer",
) -> Path:
    """An NGFF 0.5 image; the px of each level are (h, w, 3)."""
    levels = [PX, shrunk(PX, (150, 210))] if levels is None else levels
    datasets, group = [], zarr.create_group(path, zarr_format=3)
    for k, px in enumerate(levels):
        planar = np.moveaxis(px, -1, 0)
        data = planar[tuple(slice(None) if axis in "cyx" else None for axis in axes)]
        chunks = tuple(1 if axis not in "yx" else 64 for axis in axes)
        group.create_array(str(k), data=data, chunks=chunks, dimension_names=list(axes))
        scale = mpp * levels[0].shape[0] / px.shape[0]
        datasets.append(
            {
                "path": str(k),
                "coordinateTransformations": [
                    {"type": "scale", "scale": [scale if axis in "yx" else 1.0 for axis in axes]},
                    {
                        "type": "translation",
                        "translation": [translation if axis in "yx" else 0.0 for axis in axes],
                    },
                ],
            }
        )
    kinds = {"c": {"type": "channel"}, "t": {"type": "time"}}
    space = {"type": "space"} | ({} if unit is None else {"unit": unit})
    multiscale = {"axes": [{"name": a, **kinds.get(a, space)} for a in axes], "datasets": datasets}
    group.update_attributes({"ome": {"version": "0.5", "multiscales": [multiscale]}})
    return path


def test_an_image_is_read_like_a_slide(tmp_path: Path) -> None:
    with open_source(write_image(tmp_path / "a.zarr")) as source:
        assert isinstance(source, ZarrSource)
        assert source.vendor == "ome-zarr"
        assert [(level.shape, level.downsample) for level in source.levels] == [
            ((300, 420), 1.0),
            ((150, 210), 2.0),
        ]
        assert (source.mpp, source.bounds_l0) == ((0.5, 0.5), Region(0, 0, 300, 420))
        region = Region(33, 57, 101, 203)
        np.testing.assert_array_equal(source.read(source.plan(0.5), region), PX[region.slices])
        half = source.plan(1.0)
        assert half.level.index == 1
        np.testing.assert_array_equal(source.read(half, half.region), shrunk(PX, (150, 210)))


def test_an_image_read_in_one_piece_and_in_pieces_is_the_same(tmp_path: Path) -> None:
    source = ZarrSource(write_image(tmp_path / "a.zarr"))
    plan = source.plan(0.77)
    part = Region(61, 100, 130, 97)
    np.testing.assert_array_equal(source.read(plan, part), source.read(plan, plan.region)[part.slices])


@pytest.mark.parametrize(("unit", "mpp"), [("micrometer", 0.5), ("nanometer", 500.0), ("millimeter", 0.0005)])
def test_units_of_length_become_um(tmp_path: Path, unit: str, mpp: float) -> None:
    path = write_image(tmp_path / "a.zarr", mpp=mpp, translation=10 * mpp, unit=unit)
    source = ZarrSource(path)
    assert source.mpp == pytest.approx((0.5, 0.5))
    assert ngff.placement(source.plan(None))[1] == pytest.approx((5.0, 5.0))


def test_without_a_unit_there_is_no_scale(tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.zarr", unit=None, translation=3.0)
    source = ZarrSource(path)
    assert source.mpp is None
    assert source.plan(None).origin_um == (0.0, 0.0)
    with pytest.raises(ScaleError, match="--slide-mpp"):
        source.plan(0.5)
    assert ZarrSource(path, mpp=0.25).plan(0.5).shape == (150, 210)
    with pytest.raises(ScaleError, match="positive number"):
        ZarrSource(path, mpp=-1)


def test_time_and_depth_of_one_are_passed_over(tmp_path: Path) -> None:
    source = ZarrSource(write_image(tmp_path / "a.zarr", axes="tczyx"))
    region = Region(10, 20, 30, 40)
    np.testing.assert_array_equal(source.read(source.plan(None), region), PX[region.slices])


def test_transformations_of_the_whole_image_come_after_those_of_a_level(tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.zarr", translation=3.0)

    def double(node: dict[str, Any]) -> None:
        node["attributes"]["ome"]["multiscales"][0]["coordinateTransformations"] = [
            {"type": "scale", "scale": [1.0, 2.0, 2.0]}
        ]

    edit(path, double)
    source = ZarrSource(path)
    assert source.mpp == (1.0, 1.0)
    assert source.plan(None).origin_um == (6.0, 6.0)


def edit(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    document = path / "zarr.json"
    node = json.loads(document.read_text())
    change(node)
    document.write_text(json.dumps(node))


def drop_multiscales(node: dict[str, Any]) -> None:
    node["attributes"]["ome"] = {"version": "0.5"}


def as_label(node: dict[str, Any]) -> None:
    node["attributes"]["ome"]["image-label"] = {"version": "0.5"}


def as_labels(node: dict[str, Any]) -> None:
    node["attributes"]["ome"] = {"version": "0.5", "labels": ["tissue"]}


def as_plate(node: dict[str, Any]) -> None:
    node["attributes"]["ome"] = {"version": "0.5", "plate": {}}


def as_collection(node: dict[str, Any]) -> None:
    node["attributes"]["ome"] = {"version": "0.5", "bioformats2raw.layout": 3}


def drop_scale(node: dict[str, Any]) -> None:
    node["attributes"]["ome"]["multiscales"][0]["datasets"][0]["coordinateTransformations"] = [
        {"type": "scale", "scale": [0, 0, 0]}
    ]


def drop_datasets(node: dict[str, Any]) -> None:
    del node["attributes"]["ome"]["multiscales"][0]["datasets"]


def drop_attributes(node: dict[str, Any]) -> None:
    node["attributes"] = {}


def rotate(node: dict[str, Any]) -> None:
    node["attributes"]["ome"]["multiscales"][0]["coordinateTransformations"] = [{"type": "rotation", "rotation": []}]


def swap_axes(node: dict[str, Any]) -> None:
    node["attributes"]["ome"]["multiscales"][0]["axes"].reverse()


@pytest.mark.parametrize(
    ("change", "say"),
    [
        (drop_attributes, "without OME metadata"),
        (drop_multiscales, "has no multiscales"),
        (as_label, "is a label image"),
        (as_labels, "only lists label images"),
        (as_plate, "is a plate"),
        (as_collection, "such as the folder 0"),
        (drop_scale, "scale must be 3 positive numbers"),
        (drop_datasets, "incomplete NGFF 0.5 metadata"),
        (rotate, "'rotation' is not part of NGFF"),
        (swap_axes, "axes must end with y, x"),
    ],
)
def test_other_kinds_and_damaged_metadata_are_refused(
    tmp_path: Path, change: Callable[[dict[str, Any]], None], say: str
) -> None:
    path = write_image(tmp_path / "a.zarr")
    edit(path, change)
    with pytest.raises(SlideError, match=say) as caught:
        open_source(path)
    assert str(path) in str(caught.value)


def test_other_arrays_than_8_bit_rgb_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SlideError, match=r"3 channels.* got the shape \(1, 300, 420\)"):
        ZarrSource(write_image(tmp_path / "gray.zarr", [PX[..., :1]]))
    with pytest.raises(SlideError, match="uint16 pixels"):
        ZarrSource(write_image(tmp_path / "deep.zarr", [PX.astype(np.uint16)]))


def test_what_is_no_zarr_3_group_is_refused(tmp_path: Path) -> None:
    image = write_image(tmp_path / "a.zarr")
    with pytest.raises(SlideError, match="give the folder above the arrays"):
        open_source(image / "0")
    (tmp_path / "old.zarr").mkdir()
    (tmp_path / "old.zarr" / ".zattrs").write_text("{}")
    with pytest.raises(SlideError, match=r"Zarr v2 \(OME-Zarr 0\.4"):
        open_source(tmp_path / "old.zarr")
    (image / "zarr.json").write_text("{")
    with pytest.raises(SlideError, match="cannot be read"):
        open_source(image)


def test_a_level_that_is_absent_is_named(tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.zarr")
    shutil.rmtree(path / "1")
    with pytest.raises(SlideError, match="level 1 of"):
        open_source(path)


def test_a_damaged_chunk_fails_by_name_and_nothing_else_fails(tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.zarr")
    (path / "0" / "c" / "1" / "2" / "3").write_bytes(b"no zstd frame")
    with open_source(path) as source:
        plan = source.plan(None)
        with pytest.raises(SlideReadError, match=r"rows 128\.\.138, columns 192\.\.202: a chunk is damaged"):
            source.read(plan, Region(128, 192, 10, 10))
        np.testing.assert_array_equal(source.read(plan, Region(0, 0, 128, 420)), PX[:128])


def test_identity_is_that_of_the_content_not_of_its_place(tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.zarr")
    copy = Path(shutil.copytree(path, tmp_path / "b" / "a.zarr"))
    identity = ZarrSource(path).identity()
    assert ZarrSource(copy).identity() == identity
    assert ZarrSource(copy, mpp=0.3).identity() != identity
    (copy / "0" / "c" / "0" / "0" / "0").unlink()
    assert ZarrSource(copy).identity() != identity
    assert str(tmp_path) not in json.dumps(identity)


def test_without_a_tissue_label_there_is_no_stored_tissue(tmp_path: Path) -> None:
    assert ZarrSource(write_image(tmp_path / "a.zarr")).stored_tissue() is None
