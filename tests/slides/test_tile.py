from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import zarr
from make import noise, shrunk, write_slide
from ome_zarr_models.v05.image import Image
from ome_zarr_models.v05.image_label import ImageLabel
from ome_zarr_models.v05.labels import Labels

from wsi_espnet import ngff
from wsi_espnet.errors import OutputError, ResumeError, ScaleError, SlideError, SlideReadError, UsageError
from wsi_espnet.geometry import ReadPlan, Region
from wsi_espnet.slides.slide import Slide
from wsi_espnet.slides.tile import tile
from wsi_espnet.slides.tile_level import CHUNK_PX, halved
from wsi_espnet.slides.zarr_source import ZarrSource

SHAPE = (2500, 4300)


@dataclass(frozen=True)
class Cells:
    """A tissue mask of evenly spread cells."""

    plan: ReadPlan
    cells: np.ndarray

    def touches(self, region: Region) -> bool:
        rows, columns = (
            slice(start * cells_ // extent, -(-(start + size) * cells_ // extent))
            for start, size, cells_, extent in zip(
                (region.y, region.x), region.shape, self.cells.shape, self.plan.shape, strict=True
            )
        )
        return bool(self.cells[rows, columns].any())


class CountingSlide(Slide):
    """A slide that keeps a list of the regions that were read."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.reads: list[Region] = []

    def read(self, plan: ReadPlan, region: Region) -> np.ndarray:
        self.reads.append(region)
        return super().read(plan, region)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    px = shrunk(noise(50, 86, seed=5), SHAPE)
    return write_slide(tmp_path_factory.mktemp("tile") / "slide.tif", [px])


@pytest.fixture(scope="module")
def fresh(path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    with Slide(path) as slide:
        return tile(slide, tmp_path_factory.mktemp("fresh") / "out.zarr", mpp=None)


def files(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_the_levels_hold_the_slide_and_its_2_x_2_means(path: Path, fresh: Path) -> None:
    group = zarr.open_group(fresh, mode="r")
    with Slide(path) as slide:
        expected = np.moveaxis(slide.read(slide.plan(None), Region(0, 0, *SHAPE)), -1, 0)
    shapes = [(2500, 4300), (1250, 2150), (625, 1075), (313, 538), (157, 269)]
    assert sorted(group.array_keys()) == ["0", "1", "2", "3", "4"]
    for k, shape in enumerate(shapes):
        level = group[str(k)][...]
        assert level.shape == (3, *shape)
        if k:
            blocks = np.pad(expected, ((0, 0), (0, expected.shape[1] % 2), (0, expected.shape[2] % 2)), "edge")
            means = blocks.reshape(3, shape[0], 2, shape[1], 2).astype(float).mean(axis=(2, 4))
            expected = np.floor(means + 0.5).astype(np.uint8)
        np.testing.assert_array_equal(level, expected)


def test_the_result_is_a_valid_ngff_image_in_shards(fresh: Path) -> None:
    group = zarr.open_group(fresh, mode="r")
    multiscale = Image.from_zarr(group).attributes.ome.multiscales[0]
    scales = [dataset.coordinateTransformations[0].scale for dataset in multiscale.datasets]
    places = [dataset.coordinateTransformations[1].translation for dataset in multiscale.datasets]
    assert scales == pytest.approx(np.array([[1, 0.5 * 2**k, 0.5 * 2**k] for k in range(5)]))
    assert places == pytest.approx(np.array([[0] + [(2**k - 1) / 2 * 0.5] * 2 for k in range(5)]))
    assert (group["0"].chunks, group["0"].shards) == ((3, 512, 512), (3, 2048, 2048))
    assert group["0"].metadata.dimension_names == ("c", "y", "x")
    assert len([name for name in files(fresh / "0") if name.startswith("c/")]) == 6


def test_the_number_of_workers_does_not_change_a_byte(path: Path, fresh: Path, tmp_path: Path) -> None:
    seen = []
    with Slide(path) as slide:
        out = tile(slide, tmp_path / "out.zarr", mpp=None, workers=4, progress=lambda *done: seen.append(done))
    assert files(out) == files(fresh)
    assert seen == [(n, 11) for n in range(1, 12)]


def test_the_zarr_reads_like_the_slide_it_was_written_from(path: Path, tmp_path: Path) -> None:
    with Slide(path) as slide:
        plan = slide.plan(0.8)
        expected = slide.read(plan, plan.region)
        source = ZarrSource(tile(slide, tmp_path / "out.zarr", mpp=0.8))
    assert source.mpp == pytest.approx((0.8, 0.8))
    again = source.plan(0.8)
    assert (again.shape, again.level.index) == (plan.shape, 0)
    np.testing.assert_array_equal(source.read(again, again.region), expected)
    assert np.array(ngff.placement(again)) == pytest.approx(np.array(ngff.placement(plan)))


def test_a_slide_with_bounds_keeps_its_place(slides: Path, tmp_path: Path) -> None:
    with Slide(slides / "mirax_partial" / "Mirax2-Fluorescence-2.mrxs") as slide:
        plan = slide.plan(3.0)
        source = ZarrSource(tile(slide, tmp_path / "out.zarr", mpp=3.0))
    for mpp in (3.0, 6.0, 7.5):
        got, expected = ngff.placement(source.plan(mpp)), ngff.placement(plan, mpp / 3.0)
        assert np.array(got) == pytest.approx(np.array(expected))


KILLED = """
import os, signal, sys
from pathlib import Path
from wsi_espnet.slides.slide import Slide
from wsi_espnet.slides.tile import tile

def progress(done, total):
    if done == int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)

tile(Slide(sys.argv[1]), Path(sys.argv[2]), mpp=None, workers=2, progress=progress)
"""


def run(path: Path, out: Path, kill_after: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", KILLED, str(path), str(out), str(kill_after)]
    root = Path(__file__).resolve().parents[2]
    return subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(root)})


def test_a_killed_run_goes_on_and_ends_with_the_same_bytes(path: Path, fresh: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.zarr"
    for kill_after in (2, 8):
        assert run(path, out, kill_after).wait() == -signal.SIGKILL
        with pytest.raises(SlideError, match="is not finished"):
            ZarrSource(out)
    with CountingSlide(path) as slide:
        tile(slide, out, mpp=None)
        assert slide.reads == []  # the second run came as far as level 1
    assert files(out) == files(fresh)


def test_a_run_killed_while_it_writes_leaves_no_half_of_a_file(path: Path, fresh: Path, tmp_path: Path) -> None:
    whole, out = files(fresh), tmp_path / "out.zarr"
    process = run(path, out, -1)
    deadline = time.monotonic() + 30
    while not any(out.rglob("*.partial")) and process.poll() is None and time.monotonic() < deadline:
        pass
    process.kill()
    process.wait()
    chunks = {name: data for name, data in files(out).items() if "/c/" in name and ".partial" not in name}
    assert all(whole[name] == data for name, data in chunks.items())
    with Slide(path) as slide:
        tile(slide, out, mpp=None)
    assert files(out) == whole


def test_a_finished_result_is_kept_without_reading(path: Path, fresh: Path) -> None:
    before = files(fresh)
    with CountingSlide(path) as slide:
        assert tile(slide, fresh, mpp=None) == fresh
        assert slide.reads == []
    assert files(fresh) == before


def test_a_second_run_is_refused_while_the_first_is_writing(path: Path, fresh: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.zarr"
    asked = []

    def ask(done: int, total: int) -> None:
        for overwrite in (False, True):
            with pytest.raises(
                ResumeError, match=r"another process is writing to .*out\.zarr; wait until it has ended"
            ):
                tile(second, out, mpp=None, overwrite=overwrite)
        asked.append(done)

    with Slide(path) as first, Slide(path) as second:
        tile(first, out, mpp=None, progress=ask)
    assert len(asked) == 11
    assert files(out) == files(fresh)
    assert list(tmp_path.iterdir()) == [out]


def test_other_settings_at_the_same_place_are_refused(path: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.zarr"
    with Slide(path) as slide:
        tile(slide, out, mpp=4.0)
        before = files(out)
        with pytest.raises(ResumeError, match=r"differs in mpp, shape; .*--overwrite"):
            tile(slide, out, mpp=5.0)
        assert files(out) == before
        tile(slide, out, mpp=5.0, overwrite=True)
        assert ZarrSource(out).levels[0].shape == slide.plan(5.0).shape


def test_the_output_may_not_touch_the_input(fresh: Path) -> None:
    before = files(fresh)
    for out in (fresh, fresh / "labels", fresh.parent):
        with pytest.raises(ResumeError, match="choose another folder"):
            tile(ZarrSource(fresh), out, mpp=None, overwrite=True)
    assert files(fresh) == before


def test_only_chunks_with_tissue_are_read_and_stored(path: Path, tmp_path: Path) -> None:
    with CountingSlide(path) as slide:
        plan = slide.plan(None)
        mask = np.zeros((25, 43), bool)  # a cell is 100 px
        mask[3, 4] = mask[24, 42] = True
        tissue = Cells(plan, mask)
        source = ZarrSource(tile(slide, tmp_path / "out.zarr", mpp=None, tissue=tissue))
        assert slide.reads == [Region(0, 0, 512, 512), Region(2048, 4096, 452, 204)]
        expected = np.full((*SHAPE, 3), 255, np.uint8)
        for region in list(slide.reads):
            expected[region.slices] = slide.read(plan, region)
    got = source.read(source.plan(None), source.plan(None).region)
    np.testing.assert_array_equal(got, expected)
    assert {name for name in files(tmp_path / "out.zarr" / "0") if name.startswith("c/")} == {
        "c/0/0/0",
        "c/0/1/2",
    }
    np.testing.assert_array_equal(source.stored_tissue(), mask)


def test_the_tissue_is_a_valid_label_image_of_as_many_levels(path: Path, tmp_path: Path) -> None:
    mask = np.arange(25 * 43).reshape(25, 43) % 3 == 0
    with Slide(path) as slide:
        plan = slide.plan(None)
        out = tile(slide, tmp_path / "out.zarr", mpp=None, tissue=Cells(plan, mask))
    group = zarr.open_group(out, mode="r")
    image = Image.from_zarr(group)
    assert Labels.from_zarr(group["labels"]).attributes.ome.labels == ["tissue"]
    label = ImageLabel.from_zarr(group["labels/tissue"])
    levels = label.attributes.ome.multiscales[0].datasets
    assert len(levels) == len(image.attributes.ome.multiscales[0].datasets) == 5
    assert levels[0].coordinateTransformations[0].scale == pytest.approx([50, 50])
    assert levels[0].coordinateTransformations[1].translation == pytest.approx([24.75, 24.75])
    for k in range(5):
        np.testing.assert_array_equal(group[f"labels/tissue/{k}"][...], mask[:: 2**k, :: 2**k])


def test_the_rim_is_kept_apart_and_ids_of_others_are_all_tissue(path: Path, tmp_path: Path) -> None:
    cells = np.arange(6, dtype=np.uint8).reshape(2, 3) % 3
    with Slide(path) as slide:
        out = tile(slide, tmp_path / "out.zarr", mpp=8.0, tissue=Cells(slide.plan(8.0), cells))
    np.testing.assert_array_equal(ZarrSource(out).stored_tissue(), cells)
    label = zarr.open_group(out / "labels" / "tissue", mode="r+")
    ome = dict(label.attrs["ome"])
    label.attrs["ome"] = {key: value for key, value in ome.items() if key != "image-label"}
    np.testing.assert_array_equal(ZarrSource(out).stored_tissue(), cells > 0)


def test_another_tissue_is_another_result(path: Path, tmp_path: Path) -> None:
    with Slide(path) as slide:
        plan = slide.plan(8.0)
        mask = np.ones((2, 3), bool)
        out = tile(slide, tmp_path / "out.zarr", mpp=8.0, tissue=Cells(plan, mask))
        with pytest.raises(ResumeError, match="differs in tissue"):
            tile(slide, out, mpp=8.0)
        with pytest.raises(ResumeError, match="differs in tissue"):
            tile(slide, out, mpp=8.0, tissue=Cells(plan, ~mask))


def test_a_damaged_slide_stops_the_run_which_may_go_on_later(path: Path, tmp_path: Path) -> None:
    class Damaged(CountingSlide):
        damaged = True

        def read(self, plan: ReadPlan, region: Region) -> np.ndarray:
            if self.damaged and region.x >= 4096:
                raise SlideReadError("bad tile")
            return super().read(plan, region)

    out = tmp_path / "out.zarr"
    with Damaged(path) as slide:
        with pytest.raises(SlideReadError, match="bad tile"):
            tile(slide, out, mpp=None)
        first = len(slide.reads)
        assert first >= 2
        slide.damaged = False
        tile(slide, out, mpp=None)
        assert len(slide.reads) == 6
    assert ZarrSource(out).stored_tissue() is None


def test_a_disk_that_takes_no_more_is_an_output_error(path: Path, tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with Slide(path) as slide:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
        try:
            with pytest.raises(OutputError, match="cannot be written: File too large; free some space"):
                tile(slide, tmp_path / "out.zarr", mpp=None)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert not list(tmp_path.rglob("*.partial"))
        tile(slide, tmp_path / "out.zarr", mpp=None)


def test_an_output_below_a_file_is_an_output_error(path: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with Slide(path) as slide, pytest.raises(OutputError, match="cannot be written"):
        tile(slide, tmp_path / "file" / "out.zarr", mpp=None)


def test_arguments_that_cannot_work_are_refused_before_anything_is_written(path: Path, tmp_path: Path) -> None:
    with Slide(path) as slide:
        with pytest.raises(ScaleError, match="--allow-upsampling"):
            tile(slide, tmp_path / "out.zarr", mpp=0.25)
        with pytest.raises(UsageError, match="workers must be at least 1, got 0"):
            tile(slide, tmp_path / "out.zarr", mpp=None, workers=0)
    assert not any(tmp_path.iterdir())


def test_cells_partition_a_region_row_by_row() -> None:
    parts = list(Region(10, 20, 2 * CHUNK_PX + 1, CHUNK_PX).squares(CHUNK_PX))
    assert parts == [
        Region(10, 20, CHUNK_PX, CHUNK_PX),
        Region(10 + CHUNK_PX, 20, CHUNK_PX, CHUNK_PX),
        Region(10 + 2 * CHUNK_PX, 20, 1, CHUNK_PX),
    ]


@pytest.mark.parametrize("value", [0, 1, 254, 255])
def test_a_constant_image_stays_constant_when_halved(value: int) -> None:
    assert np.all(halved(np.full((3, 5, 7), value, np.uint8)) == value)
