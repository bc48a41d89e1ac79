"""From a slide file to a result, and what results of one slide have in common."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import zarr
from numpy.typing import NDArray
from ome_zarr_models.v05.image import Image as NgffImage
from ome_zarr_models.v05.image_label import ImageLabel
from PIL import Image
from slides.make import write_slide
from small import CLASSES, MPP, blobs, differing_files, files_below, reach_px, small_slide, tiny_model

from wsi_espnet.classes import UNLABELLED
from wsi_espnet.errors import ResumeError, SlideReadError
from wsi_espnet.geometry import ReadPlan, Region
from wsi_espnet.grid import Window
from wsi_espnet.inference import tasks
from wsi_espnet.inference.columns import wanted_columns
from wsi_espnet.segment import Progress, SegmentResult, segment
from wsi_espnet.slides.colon import colon_slide
from wsi_espnet.slides.slide import Slide
from wsi_espnet.slides.source import open_source
from wsi_espnet.slides.tile import tile
from wsi_espnet.slides.tissue import find_tissue
from wsi_espnet.slides.tissue_mask import TissueMask

Run = Callable[..., SegmentResult]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A slide of 900 x 1100 px and a network of random weights."""
    made = tmp_path_factory.mktemp("inputs")
    small_slide(made / "slide.svs", blobs(900, 1100))
    tiny_model(made / "tiny.safetensors")
    return made


@pytest.fixture(scope="module")
def run(folder: Path) -> Run:
    """`segment` of the slide with the network, eager."""

    def call(out: Path, *, slide: Path = folder / "slide.svs", **options: Any) -> SegmentResult:
        return segment(slide, out, **{"model": folder / "tiny.safetensors", **options})

    return call


@pytest.fixture(scope="module")
def result(run: Run, tmp_path_factory: pytest.TempPathFactory) -> SegmentResult:
    """With probabilities."""
    return run(tmp_path_factory.mktemp("result") / "out", probabilities=True)


def labels_of(result: SegmentResult, level: int = 0) -> NDArray[np.uint8]:
    return np.asarray(zarr.open_array(result.path / "labels" / "classes" / str(level), mode="r")[...])


def cells_of(result: SegmentResult) -> NDArray[np.uint8]:
    """0 on glass, 1 on tissue, 2 on its rim, for every px, from the cells that were kept: the one of its centre."""
    cells = np.asarray(zarr.open_array(result.path / "labels" / "tissue" / "0", mode="r")[...])
    rows, columns = (
        np.floor((np.arange(extent) + 0.5) * count / extent).astype(int)
        for extent, count in zip(result.plan.shape, cells.shape, strict=True)
    )
    return cells[np.ix_(rows, columns)]


def tissue_of(result: SegmentResult) -> NDArray[np.bool_]:
    """Whether every px is segmented, being tissue or its rim."""
    return cells_of(result) > 0


# What a result is.


def test_every_image_in_a_result_is_valid_ngff_with_as_many_levels(result: SegmentResult) -> None:
    root = zarr.open_group(result.path, mode="r")
    models = [
        NgffImage.from_zarr(root),
        NgffImage.from_zarr(root["probabilities"]),
        ImageLabel.from_zarr(root["labels/classes"]),
        ImageLabel.from_zarr(root["labels/tissue"]),
    ]
    counts = [len(model.attributes.ome.multiscales[0].datasets) for model in models]
    assert counts == [3, 3, 3, 3]
    assert root["labels"].attrs["ome"]["labels"] == ["classes", "tissue"]


def test_the_mask_says_what_its_ids_mean_and_where_it_lies(result: SegmentResult) -> None:
    ome = zarr.open_group(result.path / "labels" / "classes", mode="r").attrs["ome"]
    label = ome["image-label"]
    assert {p["label-value"]: p["class"] for p in label["properties"]} == {
        **dict(enumerate(CLASSES.names)),
        UNLABELLED: "unlabelled",
    }
    colours = {c["label-value"]: c["rgba"] for c in label["colors"]}
    assert [tuple(colours[c.id][:3]) for c in CLASSES.classes] == [c.color for c in CLASSES.classes]
    finest, next_finest, _ = (d["coordinateTransformations"] for d in ome["multiscales"][0]["datasets"])
    assert finest[0]["scale"] == [MPP, MPP]
    assert next_finest[0]["scale"] == [2 * MPP, 2 * MPP]
    assert labels_of(result).shape == (900, 1100)
    assert labels_of(result, 1).shape == (450, 550)


def test_areas_are_those_of_an_independent_count(result: SegmentResult) -> None:
    labels, cells = labels_of(result), cells_of(result)
    assert (labels[cells == 0] == CLASSES.glass).all()
    in_rim = np.bincount(labels[cells == 2], minlength=len(CLASSES))
    assert in_rim.min() > 0  # all classes are there
    in_rim[CLASSES.glass] = 0
    counts = np.bincount(labels[cells == 1], minlength=len(CLASSES)) + in_rim
    assert counts.min() > 1000
    assert [c.px for c in result.areas.classes] == counts.tolist()
    document = json.loads(result.areas_json.read_text(encoding="utf-8"))
    assert document["tissue_px"] == counts.sum()
    assert [c["px"] for c in document["classes"]] == counts.tolist()
    mm2 = counts * MPP**2 / 1e6
    assert [c["mm2"] for c in document["classes"]] == pytest.approx(mm2.tolist())
    assert [c["share_of_tissue"] for c in document["classes"]] == pytest.approx((counts / counts.sum()).tolist())
    with result.areas_csv.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["px"]) for row in rows[: len(CLASSES)]] == counts.tolist()
    assert [row["name"] for row in rows[: len(CLASSES)]] == list(CLASSES.names)


def test_the_overview_is_a_picture_of_slide_and_classes(result: SegmentResult) -> None:
    with Image.open(result.overview) as image:
        px = np.asarray(image.convert("RGB")).astype(int)
    assert px.shape[1] == 2000
    saturated = px.max(axis=2) - px.min(axis=2) > 40
    assert saturated[:, :1000].mean() > 0.05
    assert saturated[:, 1000:].mean() > 0.05


def test_probabilities_add_up_and_their_largest_is_the_label(result: SegmentResult) -> None:
    labels, tissue = labels_of(result), tissue_of(result)
    kept = np.asarray(zarr.open_array(result.path / "probabilities" / "0", mode="r")[...])
    assert kept.shape == (len(CLASSES), *labels.shape)
    computed = kept.sum(axis=0, dtype=int)[tissue]
    assert abs(computed - 255).max() <= 2  # three classes, each rounded
    assert not kept[:, ~tissue].any()
    at_label = np.take_along_axis(kept, labels[None].astype(int), axis=0)[0]
    assert (at_label >= kept.max(axis=0).astype(int) - 1)[tissue].all()  # ties and rounding
    halves = np.asarray(zarr.open_array(result.path / "probabilities" / "1", mode="r")[...])
    mean = kept[:, :900, :1100].reshape(3, 450, 2, 550, 2).mean(axis=(2, 4))
    assert abs(halves - mean).max() <= 0.51


def test_coarser_levels_of_the_mask_hold_a_majority_of_the_finer_ids(result: SegmentResult) -> None:
    four = labels_of(result).reshape(450, 2, 550, 2).swapaxes(1, 2).reshape(450, 550, 4)
    votes = (four[..., None, :] == np.arange(len(CLASSES))[:, None]).sum(axis=-1)
    chosen = np.take_along_axis(votes, labels_of(result, 1)[..., None].astype(int), axis=-1)[..., 0]
    assert (chosen == votes.max(axis=-1)).all()


def test_progress_ends_with_all_windows_and_px(run: Run, tmp_path: Path) -> None:
    told: list[Progress] = []
    made = run(tmp_path / "out", progress=told.append)
    assert [p.done for p in told] == list(range(made.windows + 1))
    assert told[-1].done_px == told[-1].total_px == made.work_px
    assert made.computed == made.windows


def test_a_finished_result_is_not_computed_again(run: Run, result: SegmentResult) -> None:
    before = files_below(result.path.parent)
    again = run(result.path.parent, probabilities=True)
    assert (again.computed, again.windows, again.areas) == (0, result.windows, result.areas)
    assert files_below(result.path.parent) == before


# What must not change it.


@pytest.mark.parametrize("options", [{"workers": 1}, {"workers": 4}], ids=["one worker", "four workers"])
def test_the_number_of_workers_changes_no_byte(
    run: Run, result: SegmentResult, tmp_path: Path, options: dict[str, Any]
) -> None:
    run(tmp_path / "out", probabilities=True, **options)
    assert differing_files(tmp_path / "out", result.path.parent) == []


@pytest.mark.parametrize("stitch", ["blend", "crop"])
@pytest.mark.parametrize("colour", [(245, 245, 245), (200, 90, 150)], ids=["grey", "pink"])
def test_a_slide_of_one_colour_has_one_class(
    run: Run, tmp_path: Path, stitch: str, colour: tuple[int, int, int]
) -> None:
    """Whatever the weights: the encoder is the same everywhere, and the halo holds all that it sees."""
    halo = reach_px(p=0, q=0, decoder=False)
    model = tiny_model(tmp_path / "c.safetensors", architecture="espnet-c", q=0, core_px=2 * halo, halo_px=halo)
    slide = small_slide(tmp_path / "flat.svs", np.full((700, 900, 3), colour, np.uint8))
    made = run(tmp_path / "out", slide=slide, model=model, stitch=stitch, tissue="none", probabilities=True)
    assert made.windows == 6
    assert len(np.unique(labels_of(made))) == 1
    kept = np.asarray(zarr.open_array(made.path / "probabilities" / "0", mode="r")[...])
    assert np.ptp(kept.reshape(len(CLASSES), -1), axis=1).max() <= 1


@pytest.mark.slow
@pytest.mark.parametrize("colour", [(245, 245, 245), (220, 150, 190)], ids=["glass", "pink"])
def test_the_bundled_network_gives_one_class_for_one_colour(tmp_path: Path, colour: tuple[int, int, int]) -> None:
    slide = small_slide(tmp_path / "flat.svs", np.full((700, 2900, 3), colour, np.uint8), mpp=0.62005)
    made = segment(slide, tmp_path / "out", tissue="none")
    assert made.windows == 2
    assert np.unique(labels_of(made)).tolist() == [0]


def test_a_slide_of_one_colour_repeats_itself_every_eight_px(run: Run, tmp_path: Path) -> None:
    """The decoder's transposed convolutions treat the px of an 8 x 8 block differently, and all blocks alike."""
    halo = reach_px(p=0, q=0, decoder=True)
    model = tiny_model(tmp_path / "tiny.safetensors", q=0, core_px=2 * halo, halo_px=halo)
    slide = small_slide(tmp_path / "flat.svs", np.full((800, 960, 3), (200, 90, 150), np.uint8))
    made = run(tmp_path / "out", slide=slide, model=model, tissue="none", probabilities=True)
    assert made.windows == 4
    kept = np.asarray(zarr.open_array(made.path / "probabilities" / "0", mode="r")[...])
    blocks = kept.reshape(3, 100, 8, 120, 8).swapaxes(2, 3).reshape(3, -1, 8, 8)
    assert np.ptp(blocks, axis=1).max() <= 1


@pytest.mark.parametrize("stitch", ["blend", "crop"])
def test_windows_agree_with_the_whole_where_the_halo_holds_all_that_the_network_sees(
    run: Run, tmp_path: Path, stitch: str
) -> None:
    halo = reach_px(p=0, q=0, decoder=True)
    core = 2 * halo
    model = tiny_model(tmp_path / "tiny.safetensors", q=0, core_px=core, halo_px=halo)
    slide = small_slide(tmp_path / "slide.svs", blobs(core + 300, core + 100))
    whole, windows = (
        run(
            tmp_path / str(side),
            slide=slide,
            model=model,
            tissue="none",
            window=side + 2 * halo,
            stitch=stitch,
            precision="fp32",
            probabilities=True,
        )
        for side in (2 * core, core)
    )
    assert (whole.windows, windows.windows) == (1, 4)
    kept, other = (
        np.asarray(zarr.open_array(made.path / "probabilities" / "0", mode="r")[...]).astype(int)
        for made in (whole, windows)
    )
    assert abs(kept - other).max() <= 1  # convolutions over another extent may add up in another order
    low, high = np.sort(kept, axis=0)[-2:]
    differing = labels_of(whole) != labels_of(windows)
    assert differing.mean() < (1e-4 if stitch == "crop" else 0.02)  # blended, probabilities are whole 255ths
    assert (high - low)[differing].max(initial=0) <= 2  # near-ties of two classes alone tip over


def test_a_smaller_halo_changes_px_at_the_borders_of_cores_alone(run: Run, tmp_path: Path) -> None:
    """Context beyond 32 px matters little for this network, and only near the borders of cores."""
    wide = labels_of(run(tmp_path / "wide", tissue="none", stitch="crop", window=256 + 2 * 96, halo=96))
    narrow = labels_of(run(tmp_path / "narrow", tissue="none", stitch="crop", window=256 + 2 * 32, halo=32))
    y, x = np.indices(wide.shape)
    to_border = np.minimum.reduce([y % 256, 255 - y % 256, x % 256, 255 - x % 256])
    differing = wide != narrow
    assert differing[to_border < 32].mean() > 2 * differing[to_border >= 96].mean()


@pytest.mark.slow
@pytest.mark.parametrize("tissue_only", [False, True], ids=["whole", "tissue only"])
def test_a_tiled_slide_has_the_mask_of_the_slide(slides: Path, run: Run, tmp_path: Path, tissue_only: bool) -> None:
    path = slides / "CMU-1-Small-Region.svs"
    options = {"mpp": 0.62005, "window": 1024 + 64, "halo": 32}
    from_slide = run(tmp_path / "slide", slide=path, **options)
    copy = tmp_path / "CMU-1-Small-Region.ome.zarr"
    with open_source(path) as source:
        mask = find_tissue(source, source.plan(0.62005))
        tile(source, copy, mpp=0.62005, tissue=mask, whole=not tissue_only, workers=2)
    from_copy = run(tmp_path / "copy", slide=copy, **options)
    assert from_copy.plan.shape == from_slide.plan.shape
    np.testing.assert_array_equal(cells_of(from_copy), cells_of(from_slide))
    np.testing.assert_array_equal(labels_of(from_copy), labels_of(from_slide))
    assert from_copy.areas == from_slide.areas


def test_a_tissue_file_is_where_the_slide_is_segmented(run: Run, result: SegmentResult, tmp_path: Path) -> None:
    drawn = np.zeros((90, 110), np.uint8)
    drawn[20:70, 30:60] = 255
    Image.fromarray(drawn).save(tmp_path / "drawn.png")
    made = run(tmp_path / "out", tissue=tmp_path / "drawn.png")
    inside = np.kron(drawn, np.ones((10, 10))) > 0
    np.testing.assert_array_equal(tissue_of(made), inside)
    assert (labels_of(made)[~inside] == CLASSES.glass).all()
    assert made.areas.tissue_px == inside.sum()
    assert made.windows < result.windows


def test_without_a_class_for_glass_px_outside_the_tissue_are_unlabelled(run: Run, tmp_path: Path) -> None:
    streets = CLASSES.model_copy(update={"glass": None})
    model = tiny_model(tmp_path / "street.safetensors", classes=streets, mpp=None)
    Image.fromarray(np.kron([[0, 255], [0, 0]], np.ones((45, 55))).astype(np.uint8)).save(tmp_path / "drawn.png")
    made = run(tmp_path / "out", model=model, mpp=MPP, tissue=tmp_path / "drawn.png")
    labels, tissue = labels_of(made), tissue_of(made)
    np.testing.assert_array_equal(labels != UNLABELLED, tissue)
    assert made.areas.unlabelled.px == 0
    assert sum(c.px for c in made.areas.classes) == made.areas.tissue_px == tissue.sum()


def test_mpp_and_slide_mpp_are_the_scale_of_the_result(run: Run, tmp_path: Path) -> None:
    coarse = run(tmp_path / "coarse", mpp=1.25, tissue="none")
    assert labels_of(coarse).shape == (360, 440)
    assert coarse.areas.tissue_mm2 == pytest.approx(0.9 * 1.1 * MPP**2)
    stated = run(tmp_path / "stated", slide_mpp=0.25, tissue="none")
    assert labels_of(stated).shape == (450, 550)
    assert stated.areas.tissue_mm2 == pytest.approx(0.9 * 1.1 * 0.25**2)


@pytest.mark.parametrize(("mpp", "warned"), [(0.9 * MPP, False), (1.3 * MPP, False), (1.5 * MPP, True)])
def test_a_scale_far_from_the_models_own_is_warned_about(
    run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture, mpp: float, warned: bool
) -> None:
    run(tmp_path / "out", slide_mpp=0.25, mpp=mpp)
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert (
        warnings
        == ["warning: tiny was trained at 0.5 um per px and runs at 0.75 here; what it says may mean little"][
            : int(warned)
        ]
    )


@pytest.mark.parametrize("name", ["areas.csv", "areas.json", "overview.png"])
def test_a_report_of_something_else_is_not_replaced_unasked(run: Run, tmp_path: Path, name: str) -> None:
    own = tmp_path / name
    own.write_text("mine", encoding="utf-8")
    with pytest.raises(ResumeError, match=f"holds {name} but not the mask that belongs to it"):
        run(tmp_path)
    assert own.read_text(encoding="utf-8") == "mine"
    assert [path.name for path in tmp_path.iterdir()] == [name]
    run(tmp_path, overwrite=True)
    assert own.read_bytes() != b"mine"


# Windows that cannot be read.


@pytest.fixture
def damaged(monkeypatch: pytest.MonkeyPatch) -> Callable[[Region | None], None]:
    """Let level-0 px of a slide be unreadable at the scale of the plan (the coarse look for tissue still works)."""
    whole = Slide.read

    def damage(part: Region | None) -> None:
        def read(self: Slide, plan: ReadPlan, region: Region) -> NDArray[np.uint8]:
            assert part is not None
            apart = (
                region.y >= part.y + part.h
                or part.y >= region.y + region.h
                or region.x >= part.x + part.w
                or part.x >= region.x + region.w
            )
            if plan.mpp[0] < 2 * MPP and not apart:
                raise SlideReadError(f"{self.path} is damaged")
            return whole(self, plan, region)

        monkeypatch.setattr(Slide, "read", whole if part is None else read)

    return damage


@pytest.mark.parametrize(
    "options",
    [{}, {"stitch": "crop"}, {"batch": 4}, {"probabilities": True, "workers": 1}],
    ids=["blend", "crop", "batch", "probabilities"],
)
def test_a_mended_slide_ends_with_the_bytes_of_one_that_was_never_damaged(
    run: Run, tmp_path: Path, damaged: Callable[[Region | None], None], options: dict[str, Any]
) -> None:
    run(tmp_path / "quiet", **options)
    damaged(Region(330, 330, 40, 40))
    broken = run(tmp_path / "out", **options)
    assert [f.index for f in broken.failures] == [(1, 1)]
    assert "damaged" in broken.failures[0].cause
    damaged(None)
    mended = run(tmp_path / "out", **options)
    assert mended.failures == ()
    assert 0 < mended.computed < mended.windows
    assert differing_files(tmp_path / "out", tmp_path / "quiet") == []


def test_windows_that_cannot_be_read_are_unlabelled_and_recorded(
    run: Run, tmp_path: Path, damaged: Callable[[Region | None], None]
) -> None:
    damaged(Region(330, 330, 40, 40))
    broken = run(tmp_path / "out", probabilities=True)
    labels, tissue = labels_of(broken), tissue_of(broken)
    core = np.zeros(labels.shape, bool)
    core[256:512, 256:512] = True
    np.testing.assert_array_equal(labels == UNLABELLED, core & tissue)
    assert (labels_of(broken, 1)[128:256, 128:256] == UNLABELLED).sum() > 0
    assert broken.areas.unlabelled.px == (core & (cells_of(broken) == 1)).sum() < (core & tissue).sum()
    assert broken.computed == broken.windows - 1
    mark = zarr.open_group(broken.path, mode="r").attrs["wsi_espnet"]
    assert mark["state"] != "done"
    assert [f["index"] for f in mark["failures"]] == [[1, 1]]
    assert mark["failures"][0]["core"] == [256, 256, 256, 256]
    NgffImage.from_zarr(zarr.open_group(broken.path, mode="r"))
    before = files_below(tmp_path / "out")
    again = run(tmp_path / "out", probabilities=True)
    assert [f.index for f in again.failures] == [(1, 1)]
    assert files_below(tmp_path / "out") == before


def test_a_slide_with_a_damaged_tile_is_segmented_around_it(run: Run, tmp_path: Path) -> None:
    px = blobs(700, 900)
    slide = write_slide(tmp_path / "slide.tiff", [px, px[::4, ::4]], mpp=MPP)
    whole = slide.read_bytes()
    quiet = run(tmp_path / "quiet", slide=slide, tissue="none")
    assert quiet.failures == ()
    with tifffile.TiffFile(slide) as tif:
        offset, count = tif.pages[0].dataoffsets[0], tif.pages[0].databytecounts[0]
    slide.write_bytes(whole[:offset] + bytes(count) + whole[offset + count :])
    broken = run(tmp_path / "out", slide=slide, tissue="none")
    assert [f.index for f in broken.failures] == [(0, 0), (0, 1), (1, 0), (1, 1)]  # all whose halo meets the tile
    assert "slide.tiff" in broken.failures[0].cause
    slide.write_bytes(whole)
    assert run(tmp_path / "out", slide=slide, tissue="none").failures == ()
    assert differing_files(tmp_path / "out", tmp_path / "quiet") == []


def test_two_runs_on_one_result_refuse_each_other(run: Run, tmp_path: Path) -> None:
    refused: list[str] = []

    def again(_: Progress) -> None:
        with pytest.raises(ResumeError, match="another process is writing to") as told:
            run(tmp_path / "out")
        refused.append(str(told.value))

    run(tmp_path / "out", progress=again)
    assert refused
    assert not list((tmp_path / "out").glob("*.lock"))


def test_glass_that_is_left_out_is_not_missed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against the same windows computed whole; more than that changes when windows move."""
    slide, wanted = tmp_path / "colon.svs", []
    slide.write_bytes(colon_slide(shape=(2560, 3072)))

    def noted(*given: Any) -> NDArray[np.int32]:
        wanted.append(wanted_columns(*given))
        return wanted[-1]

    def everything(window: Window, _: TissueMask) -> NDArray[np.int32]:
        rows, columns = (span.length // 8 for span in window.read)
        return np.tile(np.array([[0, columns]], np.int32), (rows, 1))

    monkeypatch.setattr(tasks, "wanted_columns", noted)
    kept = segment(slide, tmp_path / "kept", window=1280)
    left_out = 1 - sum(int(np.diff(columns).sum()) for columns in wanted) * 64 / kept.work_px
    monkeypatch.setattr(tasks, "wanted_columns", everything)
    whole = segment(slide, tmp_path / "whole", window=1280)
    tissue = tissue_of(whole)
    assert left_out > 0.05
    assert (labels_of(kept) != labels_of(whole))[tissue].mean() < 0.001
