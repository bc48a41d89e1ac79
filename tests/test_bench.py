"""The benchmarks: what they count, how they tell it, and a round on a slide of a few tiles."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from wsi_espnet.bench import frames, light, many, networks, reading, robustness, seams, training
from wsi_espnet.bench.batch import shares
from wsi_espnet.bench.process import measure
from wsi_espnet.bench.report import Check, Report
from wsi_espnet.bench.scores import GLASS, changed_px, confusion
from wsi_espnet.bench.settings import MODEL, Settings
from wsi_espnet.bench.slides import HELD_OUT, compose, held_out_images
from wsi_espnet.bench.trace import Trace
from wsi_espnet.data.glas import GLAS_MPP
from wsi_espnet.errors import UsageError
from wsi_espnet.models.catalog import find_model, read_card
from wsi_espnet.models.network_config import UnitsConfig
from wsi_espnet.models.networks import build
from wsi_espnet.scores import iou
from wsi_espnet.slides.source import open_source

SIDE_PX = 1024

LABELS = arrays(np.uint8, (9, 7), elements=st.integers(0, 3))
TRUTH = arrays(np.uint8, (9, 7), elements=st.sampled_from([0, 1, 2, GLASS]))


@given(a=LABELS, b=LABELS, truth=TRUTH, shift=st.integers(0, 5))
def test_only_tissue_counts_as_changed(a: np.ndarray, b: np.ndarray, truth: np.ndarray, shift: int) -> None:
    moved = np.pad(b, ((shift, 0), (shift, 0)), constant_values=9)
    expected = sum(a[p] != b[p] and truth[p] != GLASS for p in np.ndindex(a.shape))
    assert changed_px(a, moved, truth, shift_px=shift) == expected


@given(labels=LABELS, truth=TRUTH)
def test_iou_is_that_of_sets_of_px(labels: np.ndarray, truth: np.ndarray) -> None:
    counts = confusion(labels, truth, 3)
    assert counts[:3].sum() == np.count_nonzero(truth != GLASS)
    for label, found in enumerate(iou(counts)):
        said = {p for p in np.ndindex(labels.shape) if labels[p] == label and truth[p] != GLASS}
        true = {p for p in np.ndindex(labels.shape) if truth[p] == label}
        assert found == pytest.approx(len(said & true) / len(said | true)) if said | true else np.isnan(found)


def test_strips_do_not_change_what_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    a, b, truth = (rng.integers(0, 3, (50, 20), dtype=np.uint8) for _ in range(3))
    whole = changed_px(a, b, truth, shift_px=0), confusion(a, truth, 3)
    monkeypatch.setattr("wsi_espnet.bench.scores._STRIP_PX", 7)
    assert changed_px(a, b, truth, shift_px=0) == whole[0]
    np.testing.assert_array_equal(confusion(a, truth, 3), whole[1])


def test_a_report_says_what_was_missed_and_where_it_was_measured(tmp_path: Path) -> None:
    checks = (Check("speed", ">= 5", "6.0", True), Check("memory", "<= 3 GiB", "4.00 GiB", False))
    report = Report("x", "a title", ("way", "Mpx/s"), (("ours", "1.00"), ("theirs", "0.10")), checks, {"runs": [1]})
    lines = report.text().splitlines()
    assert lines[0] == "x: a title"
    assert lines[4] == "ours     1.00"
    assert [line.rpartition(" ")[2] for line in lines[-3:-1]] == ["met", "MISSED"]
    found = json.loads(report.write(tmp_path / "new").read_text())
    assert found["runs"] == [1]
    assert found["machine"]["cores"] >= 1
    assert [check["met"] for check in found["checks"]] == [True, False]


def test_a_trace_adds_up_calls_and_lets_errors_through() -> None:
    class Owner:
        def good(self) -> int:
            return 3

        def bad(self) -> None:
            raise ValueError("no")

    trace = Trace()
    trace.watch(Owner, "good", "good")
    trace.watch(Owner, "bad", "bad")
    assert [Owner().good(), Owner().good()] == [3, 3]
    with pytest.raises(ValueError, match="no"):
        Owner().bad()
    assert [spell.name for spell in trace.spells] == ["good", "good", "bad"]
    assert trace.between("good")[0] <= trace.between("good")[1]
    assert trace.seconds().keys() == {"good", "bad"}


def test_what_no_task_takes_is_overhead_only_while_all_threads_compute_windows() -> None:
    def task(thread: int, kind: str, start: float, stop: float) -> dict[str, object]:
        transfer = {"action": "transfer", "start": start - 0.5, "stop": start}
        spans = [transfer, {"action": "compute", "start": start, "stop": stop}]
        return {"worker": "w", "thread": thread, "key": (kind, "slide"), "startstops": spans}

    found = shares(
        [
            task(1, "prepare", 0, 2),
            task(1, "windows", 2, 10),
            task(1, "windows", 11, 20),  # waited 1 s
            task(1, "conclude", 21, 25),  # waited 1 s, when the other thread had no window left
            task(2, "windows", 4, 18),  # began late, and was done early
        ]
    )
    assert found["seconds"] == 25
    assert found["between_tasks"] == pytest.approx(1 / 50)
    assert found["ends"] == pytest.approx((4 + 1 + 7) / 50)


def test_a_process_that_fails_says_why(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no slide at"):
        measure("segment", {"slide": str(tmp_path / "absent.svs"), "out": str(tmp_path / "out")})


def test_slides_hold_only_patients_that_training_never_saw() -> None:
    assert read_card(find_model(MODEL)).split.endswith(
        f"scored on the 20 images of {', '.join(sorted(HELD_OUT, key=int))}"
    )


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no index\.csv"):
        compose(tmp_path, tmp_path / "slides", height=SIDE_PX, width=SIDE_PX)


def test_a_slide_is_composed_once(shared: Path, tmp_path: Path) -> None:
    first = compose(shared, tmp_path, height=SIDE_PX, width=SIDE_PX, shift_tiles=1)
    made = first.path.stat().st_mtime_ns
    assert compose(shared, tmp_path, height=SIDE_PX, width=SIDE_PX, shift_tiles=1) == first
    assert first.path.stat().st_mtime_ns == made
    assert first.info["width"] == SIDE_PX + 256
    assert set(first.info["images"]) <= set(held_out_images(shared / "data" / "glas"))


@pytest.mark.slow
def test_the_peak_of_a_process_is_not_that_of_its_parent(shared: Path, tmp_path: Path) -> None:
    slide = compose(shared, tmp_path, height=SIDE_PX, width=SIDE_PX)
    held = np.ones(3 << 30, np.uint8)
    planned = measure("plan", {"slide": str(slide.path), "model": MODEL})
    assert 100 << 20 < planned.peak_bytes < held.nbytes // 2


@pytest.mark.slow
def test_the_plain_loop_says_what_the_package_says(shared: Path, tmp_path: Path) -> None:
    slide = compose(shared, tmp_path, height=SIDE_PX, width=SIDE_PX)
    given = {"slide": str(slide.path), "model": MODEL}
    plain = measure("plain", {**given, "out": str(tmp_path / "plain.npy"), "halo": 64})
    options = {"window": 640, "halo": 64, "stitch": "crop", "precision": "fp32", "tissue": "none"}
    ours = measure("segment", {**given, **options, "out": str(tmp_path / "ours"), "traced": True})
    assert ours.peak_bytes > 200 << 20
    assert {"read", "network", "write"} <= ours.result["trace"]["seconds_over_threads"].keys()
    a, b = np.load(plain.result["mask"]), seams.open_labels(ours.result["mask"])[...]
    # Beyond the slide's sides, one shows the network black and the other a mirror; inside, both show the same px.
    assert np.mean((a == b)[256:-256, 256:-256]) > 0.98


def test_the_first_of_the_seams_is_what_the_bundled_model_asks_for() -> None:
    card = read_card(find_model("glas-colon"))
    assert (seams.VARIANTS[0].core_px, seams.VARIANTS[0].halo_px) == (card.core_px, card.halo_px)
    assert seams.VARIANTS[0].stitch == "blend"


def test_a_round_of_reading(shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "QUICK_SIDE_PX", SIDE_PX)
    report = reading.run(Settings(data=shared, out=tmp_path, quick=True))
    assert report.facts["equal"]
    assert all(rate > 0 for rate in report.facts["mpx_per_second"].values())


@pytest.mark.slow
def test_a_round_of_seams(shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seams, "QUICK_SIDE_PX", SIDE_PX)
    monkeypatch.setattr(seams, "VARIANTS", (seams.Variant("small", 512, 64, "blend"),))
    report = seams.run(Settings(data=shared, out=tmp_path, quick=True))
    (facts,) = report.facts["variants"]
    assert facts["work_relative_to_no_halo"] > 1
    assert 0 < facts["changed_share_of_tissue"] < 0.2
    assert facts["runs"][0]["peak_bytes"] > 200 << 20
    assert len(report.rows) == 1 + len(seams.ALONE)


@pytest.mark.slow
def test_a_round_of_training(shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for split, count in (("train", 4), ("val", 1)):
        for path in sorted((shared / "data/camvid" / split).iterdir())[:count]:
            for folder in (split, f"{split}annot"):
                target = tmp_path / "data/camvid" / folder / f"{path.stem}.png"
                target.parent.mkdir(parents=True, exist_ok=True)
                with Image.open(next((shared / "data/camvid" / folder).glob(f"{path.stem}.*"))) as image:
                    image.crop((0, 0, 96, 64)).save(target)
    small = {"run.batch": 2, "augment.crop_px": [32, 32]}
    monkeypatch.setattr(training, "RUNS", {"small": ("camvid", small)})
    monkeypatch.setattr(training, "STEPS", 5)
    report = training.run(Settings(data=tmp_path, out=tmp_path, quick=True))
    for facts in report.facts["runs"].values():
        assert (facts["steps"], facts["batch"]) == (5, 2)
        assert 0 < facts["network_seconds"] <= facts["seconds"]
        assert facts["images_per_s"] == pytest.approx(10 / facts["seconds"])
    assert [row[0] for row in report.rows] == ["small, no loader process", "small, a loader process"]


def test_a_round_of_many_slides(shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(many, "QUICK_SLIDES", 3)
    report = many.run(Settings(data=shared, out=tmp_path, quick=True))
    assert report.facts["states"] == {"done": 3}
    assert report.facts["resident_mib"]
    assert all(check.met for check in report.checks if check.what != "growth after a fifth of them")


def test_frames_are_timed_through_torch_and_onnx(shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "SIZES_PX", ((64, 128),))
    report = frames.run(Settings(data=shared, out=tmp_path, quick=True))
    ways = {way["way"].partition(" ")[0]: way for way in report.facts["ways"]}
    assert set(ways) == {"torch", "onnxruntime"}
    assert all(way["fps"] >= 1 / way["slowest_s"] > 0 for way in ways.values())
    assert "128x64" in report.text()


def test_networks_are_measured_side_by_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few = (networks.NETWORKS[0], UnitsConfig(unit="mobilenet", classes=networks.CLASSES))
    monkeypatch.setattr(networks, "NETWORKS", few)
    monkeypatch.setattr(networks, "SIZE_PX", (128, 256))
    report = networks.run(Settings(data=tmp_path, out=tmp_path, quick=True))
    found = report.facts["networks"]
    assert [one["parameters"] for one in found] == [sum(p.numel() for p in build(n).parameters()) for n in few]
    # ESPNet's first convolution alone: 16 filters of 3 x 3 x 3 over a quarter of 64 x 128 px.
    assert all(one["multiply_adds"] > 16 * 27 * 64 * 128 / 4 and one["seconds"] <= one["slowest_s"] for one in found)
    assert report.rows[0][4] == "1.00"
    assert "wanted" not in report.text()


def test_a_round_of_light(shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    warm = next(name for name in light.LIGHTS if name.startswith("warm"))
    monkeypatch.setattr(light, "LIGHTS", {name: light.LIGHTS[name] for name in ("as it was", warm)})
    report = light.run(Settings(data=shared, out=tmp_path, quick=True))
    scores = {(s["light"], s["model"]): s["miou"] for s in report.facts["scores"]}
    authors = "the authors' CamVid weights"
    assert all(0.65 < scores["as it was", model] < 0.75 for model in (light.MODEL, authors))
    assert scores[warm, authors] < 0.3 < 0.6 < scores[warm, light.MODEL]
    assert [check.met for check in report.checks] == [True]


def test_all_of_a_strange_slide_is_looked_at(shared: Path, tmp_path: Path) -> None:
    class Seen:
        card = read_card(find_model(MODEL))
        px = 0

        def labels(self, rgb: np.ndarray, *, mpp: float) -> np.ndarray:
            self.px += rgb.shape[0] * rgb.shape[1]
            return np.full(rgb.shape[:2], 2, np.uint8)

    seen, settings = Seen(), Settings(data=shared, out=tmp_path, quick=True)
    path = "slides/CMU-1-Small-Region.svs"
    assert robustness._malignant(seen, settings, path) == 1  # type: ignore[arg-type]
    with open_source(shared / "data" / path) as source:
        assert seen.px == source.plan(GLAS_MPP).region.area
