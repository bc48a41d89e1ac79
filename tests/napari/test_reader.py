"""Slides and results in a window: at their place, in their colours, read only where they are looked at."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from make import write_slide
from napari import Viewer
from napari.layers import Image, Labels
from napari_wsi_espnet.reader import get_reader
from numpy.typing import NDArray
from told import notifications

from wsi_espnet.segment import SegmentResult
from wsi_espnet.slides.slide import Slide

PLUGIN = "wsi-espnet"

Shot = Callable[[], NDArray[np.uint8]]


def px_of(viewer: Viewer, um: tuple[float, float], shape: tuple[int, ...]) -> tuple[int, int]:
    """Where a point in world coordinates is in a picture of the canvas."""
    centre, zoom = np.asarray(viewer.scene.camera.center[-2:]), viewer.scene.camera.zoom
    y, x = (np.asarray(um) - centre) * zoom + np.array(shape[:2]) / 2
    return round(y), round(x)


@pytest.mark.parametrize(
    ("name", "um"),
    [
        ("CMU-1-Small-Region.svs", ((0.0, 0.0), (1480.0, 1107.3))),
        ("test3-DAPI-2-(387).ndpi", ((0.0, 0.0), (1109.6, 905.2))),
        ("mirax_partial/Mirax2-Fluorescence-2.mrxs", ((33109.1, 2951.8), (35573.0, 6318.1))),
    ],
)
def test_a_real_slide_opens_at_its_place_in_um(
    viewer: Viewer, slides: Path, name: str, um: tuple[tuple[float, float], tuple[float, float]]
) -> None:
    (layer,) = viewer.open(str(slides / name), plugin=PLUGIN)
    assert isinstance(layer, Image)
    assert layer.rgb
    assert [str(unit) for unit in layer.units] == ["micrometer", "micrometer"]
    with Slide(slides / name) as slide:
        assert slide.mpp is not None
        bounds = slide.bounds_l0
        corner = (bounds.y * slide.mpp[0], bounds.x * slide.mpp[1])
    assert layer.translate == pytest.approx(corner, abs=slide.levels[0].downsample * slide.mpp[0])
    assert layer.extent.world[0] == pytest.approx(um[0], abs=0.5)
    assert layer.extent.world[1] == pytest.approx(um[1], abs=0.5)


def test_places_that_cannot_be_read_are_magenta(viewer: Viewer, slides: Path, picture: Shot) -> None:
    """Two data files of this slide are absent; its coarse levels are whole."""
    viewer.open(str(slides / "mirax_partial/Mirax2-Fluorescence-2.mrxs"), plugin=PLUGIN)
    assert not (picture() == (255, 0, 255)).all(axis=-1).any()
    viewer.scene.camera.zoom *= 10
    with notifications() as told:
        px = picture()
    assert (px == (255, 0, 255)).all(axis=-1).mean() > 0.9
    (message,) = told
    assert "cannot be read at level" in message
    assert message.endswith("Such places are magenta.")


def test_a_coloured_block_is_at_its_place_at_every_zoom(viewer: Viewer, tmp_path: Path, picture: Shot) -> None:
    px = np.full((3000, 4000, 3), 240, np.uint8)
    px[1200:1600, 2400:3200] = (200, 30, 60)
    write_slide(tmp_path / "block.svs", [px, px[2::4, 2::4]], kind="aperio", mpp=0.5)
    (layer,) = viewer.open(str(tmp_path / "block.svs"), plugin=PLUGIN)
    seen = set()
    for zoom in (0.15, 0.5, 2.0, 6.0):
        viewer.scene.camera.center, viewer.scene.camera.zoom = (
            (600.0, 1200.0),
            zoom,
        )  # the block's upper left corner, in um
        shot = picture()
        seen.add(layer.data_level)
        y, x = px_of(viewer, (600.0, 1200.0), shot.shape)
        d = max(3, round(4 * 0.5 * zoom) + 1)  # a px of the coarse level, in px of the screen
        assert tuple(shot[y + d, x + d]) == (200, 30, 60), zoom
        assert {tuple(shot[y - d, x + d]), tuple(shot[y + d, x - d])} == {(240, 240, 240)}, zoom
    assert seen == {0, 1}


def test_a_result_folder_opens_slide_and_mask_together(viewer: Viewer, result: SegmentResult, picture: Shot) -> None:
    image, mask = viewer.open(str(result.path.parent), plugin=PLUGIN)
    assert isinstance(image, Image)
    assert isinstance(mask, Labels)
    assert image.name == "slide.svs"
    assert image.extent.world == pytest.approx(mask.extent.world, abs=0.01)
    assert np.array_equal(mask.data[0], np.asarray(mask.metadata["wsi_espnet"]["result"].labels[0]))
    assert list(mask.features["class"]) == ["glass", "stroma", "gland", "unlabelled"]
    mask.opacity = 1
    px = picture()
    shown = {tuple(color) for color in px[px.shape[0] // 4 : -px.shape[0] // 4].reshape(-1, 3)}
    present = set(np.unique(mask.data[0])) - {0}
    assert present
    colors = {1: (230, 120, 160), 2: (70, 40, 150)}
    assert {colors[int(id_)] for id_ in present} <= shown


def test_a_mask_lies_on_its_slide_px_by_px(viewer: Viewer, result: SegmentResult, picture: Shot) -> None:
    """A mask px is drawn over the px of the slide that it is the class of: its edge is where the ids change."""
    _, mask = viewer.open(str(result.path.parent), plugin=PLUGIN)
    ids = np.asarray(mask.data[0])
    mask.opacity = 1
    ys, xs = np.nonzero((ids[1:-1, 1:-1] != ids[1:-1, :-2]) & (ids[1:-1, 1:-1] > 0) & (ids[1:-1, :-2] > 0))
    y, x = int(ys[len(ys) // 2]) + 1, int(xs[len(xs) // 2]) + 1
    viewer.scene.camera.center, viewer.scene.camera.zoom = (y * 0.5, (x - 0.5) * 0.5), 40.0  # 20 px of the screen each
    shot = picture()
    row, column = shot.shape[0] // 2, shot.shape[1] // 2
    colors = {1: (230, 120, 160), 2: (70, 40, 150)}
    assert tuple(shot[row, column + 5]) == colors[int(ids[y, x])]
    assert tuple(shot[row, column - 5]) == colors[int(ids[y, x - 1])]


def test_without_its_slide_a_result_opens_with_the_overview(
    viewer: Viewer, result: SegmentResult, tmp_path: Path
) -> None:
    shutil.copytree(result.path, tmp_path / "apart" / "moved" / result.path.name)
    image, mask = viewer.open(str(tmp_path / "apart" / "moved"), plugin=PLUGIN)
    assert image.name.endswith("(overview)")
    assert image.extent.world == pytest.approx(mask.extent.world, abs=2)


@pytest.mark.parametrize("name", ["picture.tif", "notes.txt", "folder", "absent.svs"])
def test_what_is_not_ours_is_left_to_others(tmp_path: Path, name: str) -> None:
    tifffile.imwrite(tmp_path / "picture.tif", np.zeros((5, 20, 20), np.float32))
    (tmp_path / "notes.txt").write_text("notes")
    (tmp_path / "folder").mkdir()
    assert get_reader(str(tmp_path / name)) is None
    assert get_reader([str(tmp_path / name)] * 2) is None


@pytest.mark.slow
def test_a_gigapixel_slide_opens_at_once_and_reads_what_is_shown(
    viewer: Viewer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, picture: Shot
) -> None:
    """40,000 x 40,000 px in levels of 1, 4, 16 and 64."""
    px = np.random.default_rng(0).integers(0, 255, (625, 625, 3), np.uint8)
    _huge(tmp_path / "huge.tif", px)
    reads: list[int] = []
    read = Slide.read_level

    def counted(slide: Slide, level: object, region: object) -> NDArray[np.uint8]:
        reads.append(level.index)  # type: ignore[attr-defined]
        return read(slide, level, region)  # type: ignore[arg-type]

    monkeypatch.setattr(Slide, "read_level", counted)
    started = time.monotonic()
    (layer,) = viewer.open(str(tmp_path / "huge.tif"), plugin=PLUGIN)
    picture()
    assert time.monotonic() - started < 30  # a guard against reading it whole; the figure is in docs/napari.md
    assert len(reads) < 30
    height, width = viewer.screenshot(canvas_only=True, flash=False).shape[:2]
    viewer.scene.camera.zoom = 1 / 0.5
    picture()
    assert layer.data_level == 0
    for step in range(5):
        reads.clear()
        viewer.scene.camera.center = (5000.0 + 300 * step, 5000.0)
        picture()
        most = (height // 1024 + 2) * (width // 1024 + 2)  # chunks that a canvas can meet
        assert reads.count(0) <= most


def _huge(path: Path, px: NDArray[np.uint8]) -> None:
    with tifffile.TiffWriter(path, bigtiff=True) as tiff:
        for index, side in enumerate((40_000, 10_000, 2_500, 625)):
            tile = np.resize(px, (512, 512, 3))
            count = (-(-side // 512)) ** 2
            tiff.write(
                (tile for _ in range(count)),
                shape=(side, side, 3),
                dtype=np.uint8,
                photometric="rgb",
                tile=(512, 512),
                compression="jpeg",
                subfiletype=1 if index else 0,
                resolution=(20_000 / 4**index, 20_000 / 4**index),
                resolutionunit="CENTIMETER",
                metadata=None,
            )
