from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st
from ome_zarr_models.common.omero import Omero
from ome_zarr_models.v05.image import Image
from ome_zarr_models.v05.image_label import ImageLabel
from ome_zarr_models.v05.labels import Labels

from wsi_espnet import ngff
from wsi_espnet.classes import ClassTable, TissueClass
from wsi_espnet.geometry import Level, ReadPlan

CLASSES = ClassTable(
    name="glands",
    classes=(
        TissueClass(id=0, name="glass", color=(255, 255, 255)),
        TissueClass(id=1, name="stroma", color=(200, 120, 160)),
        TissueClass(id=2, name="gland", color=(90, 30, 140)),
    ),
    glass=0,
)


def plan(
    *,
    origin_l0: tuple[float, float] = (0.0, 0.0),
    l0_per_px: float = 1.0,
    slide_mpp: float = 0.5,
    origin_um: tuple[float, float] = (0.0, 0.0),
) -> ReadPlan:
    mpp = slide_mpp * l0_per_px
    return ReadPlan(Level(0, (4000, 3000), 1.0), (mpp, mpp), (2000, 1500), origin_l0, (l0_per_px, l0_per_px), origin_um)


def test_level_0_without_bounds_lies_at_the_origin() -> None:
    assert ngff.placement(plan()) == ((0.5, 0.5), (0.0, 0.0))


def test_the_origin_of_a_plan_moves_its_image() -> None:
    _, translation = ngff.placement(plan(origin_l0=(10.0, 20.5), origin_um=(100.0, 0.0)))
    assert translation == (105.0, 10.25)


@given(
    l0_per_px=st.floats(0.3, 40),
    factor=st.sampled_from([1, 2, 4, 8]),
    origin=st.floats(0, 1e5),
    slide_mpp=st.floats(0.05, 2),
    index=st.integers(0, 1000),
)
def test_px_edges_of_every_level_lie_where_the_plan_says(
    l0_per_px: float, factor: int, origin: float, slide_mpp: float, index: int
) -> None:
    scale, translation = ngff.placement(
        plan(origin_l0=(origin, origin), l0_per_px=l0_per_px, slide_mpp=slide_mpp), factor
    )
    edge_l0 = origin + index * factor * l0_per_px  # the left edge of px `index`
    edge_um = translation[1] + (index - 0.5) * scale[1]
    assert edge_um == pytest.approx((edge_l0 - 0.5) * slide_mpp, rel=1e-9, abs=1e-6)


def test_a_factor_may_differ_between_the_axes() -> None:
    scale, translation = ngff.placement(plan(slide_mpp=1.0), (8.0, 4.0))
    assert (scale, translation) == ((8.0, 4.0), (3.5, 1.5))


@given(st.integers(1, 300_000), st.integers(1, 300_000), st.integers(1, 1024))
def test_pyramids_halve_rounded_up_until_they_are_small(height: int, width: int, stop_px: int) -> None:
    shapes = ngff.pyramid_shapes((height, width), stop_px=stop_px)
    assert shapes[0] == (height, width)
    for finer, coarser in pairwise(shapes):
        assert coarser == ((finer[0] + 1) // 2, (finer[1] + 1) // 2)
        assert max(finer) > stop_px
    assert max(shapes[-1]) <= stop_px


def write_image(path: Path, levels: int = 2, *, in_um: bool = True) -> zarr.Group:
    multiscale = ngff.multiscales(
        name="slide",
        axes="cyx",
        levels=[ngff.placement(plan(), 2**k) for k in range(levels)],
        method="mean",
        in_um=in_um,
    )
    group = zarr.create_group(path, zarr_format=3, attributes=ngff.image_attributes(multiscale))
    for k in range(levels):
        group.create_array(str(k), data=np.zeros((3, 8 >> k, 8 >> k), np.uint8), dimension_names=["c", "y", "x"])
    return group


@pytest.mark.parametrize("in_um", [True, False])
def test_image_attributes_are_ngff_0_5(tmp_path: Path, in_um: bool) -> None:
    image = Image.from_zarr(write_image(tmp_path / "a.zarr", in_um=in_um))
    assert image.attributes.ome.version == "0.5"
    axes = image.attributes.ome.multiscales[0].axes
    assert [axis.unit for axis in axes] == [None, *(["micrometer" if in_um else None] * 2)]
    omero = Omero.model_validate(image.attributes.ome.omero)
    assert [(c.color, c.window.end) for c in omero.channels] == [
        ("FF0000", 255),
        ("00FF00", 255),
        ("0000FF", 255),
    ]


def test_label_attributes_are_ngff_0_5(tmp_path: Path) -> None:
    group = write_image(tmp_path / "a.zarr")
    labels = group.create_group("labels", attributes=ngff.labels_group_attributes(["mask"]))
    multiscale = ngff.multiscales(
        name="mask",
        axes="yx",
        levels=[ngff.placement(plan(), 2**k) for k in range(2)],
        method="nearest",
    )
    label = labels.create_group("mask", attributes=ngff.label_attributes(multiscale, CLASSES, hidden=[2]))
    for k in range(2):
        label.create_array(str(k), data=np.zeros((8 >> k, 8 >> k), np.uint8), dimension_names=["y", "x"])
    assert Labels.from_zarr(labels).attributes.ome.labels == ["mask"]
    image_label = ImageLabel.from_zarr(label).attributes.ome.image_label
    assert {c.label_value: c.rgba for c in image_label.colors} == {
        0: (255, 255, 255, 0),
        1: (200, 120, 160, 255),
        2: (90, 30, 140, 0),
        255: (255, 0, 255, 255),
    }
    assert image_label.source.image == "../../"
    assert {p["label-value"]: p["class"] for p in _properties(label)} == {
        0: "glass",
        1: "stroma",
        2: "gland",
        255: "unlabelled",
    }


def _properties(label: zarr.Group) -> list[dict[str, object]]:
    return json.loads(json.dumps(label.attrs.asdict()))["ome"]["image-label"]["properties"]
