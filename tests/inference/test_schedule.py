"""The graph of a slide: what is computed, how often, and that nothing depends on the order."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
import pytest
from dask.order import order
from fakes import ArraySource
from numpy.typing import NDArray

from wsi_espnet.geometry import Region
from wsi_espnet.grid import Grid, Window
from wsi_espnet.inference import job
from wsi_espnet.inference.job import Index, Job
from wsi_espnet.inference.predictor import Columns, Prediction
from wsi_espnet.inference.schedule import Graph, build_graph, run_threads
from wsi_espnet.inference.tasks import RETRIES, Failure
from wsi_espnet.slides.tissue_mask import TissueMask

CORE, HALO, BLEND = 64, 16, 8


class BrightnessPredictor:
    """Three classes by the brightness of each px alone, so that a whole image is its own oracle."""

    classes = 3

    def __init__(self) -> None:
        self.batches: list[tuple[int, ...]] = []

    def predict(self, windows: NDArray[np.uint8], columns: Sequence[Columns] | None = None) -> Prediction:
        self.batches.append(windows.shape)
        return Prediction(*classes_of(windows[..., 0]))


def classes_of(brightness: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    scores = np.stack([255 - brightness, brightness, np.full_like(brightness, 100)], axis=-3)
    return scores.argmax(-3).astype(np.uint8), scores


class MemorySink:
    """Keeps what is written, and how often."""

    def __init__(self, shape: tuple[int, int]) -> None:
        self.labels = np.full(shape, 99, np.uint8)
        self.written: list[Region] = []
        self.reduced: list[tuple[int, int, int]] = []
        self.noted: list[Index] = []
        self.below: dict[Index, NDArray[np.uint8]] = {}
        self.lock = threading.Lock()

    def write(
        self, core: Region, labels: NDArray[np.uint8], probabilities: NDArray[np.uint8] | None
    ) -> NDArray[np.uint8]:
        with self.lock:
            self.labels[core.slices] = labels
            self.written.append(core)
        return labels[::2, ::2]

    def reduce(
        self, level: int, row: int, column: int, below: Mapping[Index, NDArray[np.uint8]]
    ) -> NDArray[np.uint8] | None:
        with self.lock:
            self.reduced.append((level, row, column))
            self.below |= below
        return None

    def note_failure(self, index: Index, core: Region, cause: str) -> None:
        with self.lock:
            self.noted.append(index)


class Run:
    """A job over an image, and what became of it."""

    def __init__(
        self,
        image: NDArray[np.uint8],
        *,
        mask: NDArray[np.bool_] | None = None,
        broken: tuple[Region, ...] = (),
        threads: int = 3,
        batch: int = 1,
        blend: int = BLEND,
        todo: list[Index] | None = None,
    ) -> None:
        self.source = ArraySource(image, 0.5, broken_l0=broken)
        self.predictor = BrightnessPredictor()
        plan = self.source.plan(None)
        self.grid = Grid(plan.shape, CORE, HALO, blend)
        self.tissue = TissueMask(np.ones((1, 1), bool) if mask is None else mask, plan.shape, "none")
        self.windows: dict[Index, Window] = {w.index: w for w in self.grid.windows(self.tissue.box)}
        self.sink = MemorySink(plan.shape)
        self.job = Job(
            token=f"test-{id(self)}",
            open_source=partial(_same, self.source),
            open_predictor=partial(_same, self.predictor),
            plan=plan,
            tissue=self.tissue,
            sink=self.sink,
            blend_px=blend,
            glass=0,
            classes=3,
            keep_probabilities=False,
            slots=2,
        )
        self.graph = self.build(list(self.windows) if todo is None else todo, batch)
        self.progress: list[tuple[Index, int]] = []
        self.outcomes = run_threads(
            self.job, self.graph, threads=threads, on_core=lambda index, done: self.progress.append((index, done))
        )
        self.failures = [found for found in self.outcomes if isinstance(found, Failure)]

    def build(self, todo: list[Index], batch: int) -> Graph:
        rows, columns = self.grid.counts
        shapes = [(rows, columns), (-(-rows // 2), -(-columns // 2))]
        return build_graph(self.job, self.windows, todo, batch=batch, level_shapes=shapes)


def _same(thing: object) -> object:
    return thing


@pytest.fixture
def image() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (200, 330, 3), dtype=np.uint8)


def test_windows_give_what_the_whole_image_gives(image: NDArray[np.uint8]) -> None:
    run = Run(image)
    np.testing.assert_array_equal(run.sink.labels, classes_of(image[..., 0])[0])
    assert not run.failures


@pytest.mark.parametrize("batch", [1, 3])
def test_every_window_is_read_and_computed_once(image: NDArray[np.uint8], batch: int) -> None:
    run = Run(image, batch=batch)
    assert len(run.source.reads) == len(run.windows)
    assert sum(shape[0] for shape in run.predictor.batches) == len(run.windows)
    assert max(shape[0] for shape in run.predictor.batches) == batch
    assert sorted((r.y, r.x) for r in run.sink.written) == sorted((w.core.y, w.core.x) for w in run.windows.values())


@pytest.mark.parametrize("batch", [1, 3])
def test_freed_memory_is_given_back_after_every_fourth_call(
    image: NDArray[np.uint8], batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[None] = []
    monkeypatch.setattr(job, "give_back_freed", lambda: given.append(None))
    run = Run(image, batch=batch)
    assert len(given) == len(run.predictor.batches) // 4 > 0


@pytest.mark.parametrize(("threads", "batch"), [(1, 1), (4, 1), (2, 4)])
def test_nothing_depends_on_threads_or_batches(image: NDArray[np.uint8], threads: int, batch: int) -> None:
    np.testing.assert_array_equal(Run(image, threads=threads, batch=batch).sink.labels, Run(image).sink.labels)


def test_only_windows_that_touch_tissue_are_read_and_the_rest_is_glass(image: NDArray[np.uint8]) -> None:
    mask = np.zeros((20, 33), bool)
    mask[2:5, 20:31] = True
    run = Run(image, mask=mask)
    inside = run.tissue.sample(Region(0, 0, *image.shape[:2]))
    assert sorted(run.windows) == [(0, 3), (0, 4)]
    assert len(run.source.reads) == 2
    expected = np.where(inside, classes_of(image[..., 0])[0], 0)
    seen = run.sink.labels != 99
    assert seen[inside].all()
    np.testing.assert_array_equal(run.sink.labels[seen], expected[seen])


def test_a_broken_window_is_tried_again_noted_and_reported(image: NDArray[np.uint8]) -> None:
    broken = Region(96, 160, 1, 1)  # inside the core of window (1, 2) and no other window's read
    run = Run(image, broken=(broken,))
    assert [f.index for f in run.failures] == [(1, 2)]
    assert set(run.sink.noted) == {(1, 2)}
    assert len(run.source.reads) == len(run.windows) + RETRIES
    # Its neighbours are finished without its word.
    assert len(run.sink.written) == len(run.windows) - 1
    rest = run.sink.labels != 99
    np.testing.assert_array_equal(run.sink.labels[rest], classes_of(image[..., 0])[0][rest])


def test_cores_that_are_left_are_finished_with_their_neighbours_word(image: NDArray[np.uint8]) -> None:
    whole = Run(image)
    part = Run(image, todo=[(1, 1)])
    assert len(part.sink.written) == 1
    core = part.grid.core((1, 1))
    np.testing.assert_array_equal(part.sink.labels[core.slices], whole.sink.labels[core.slices])
    assert len(part.source.reads) == 9
    assert len(Run(image, todo=[(1, 1)], blend=0).source.reads) == 1


def test_progress_counts_cores(image: NDArray[np.uint8]) -> None:
    run = Run(image)
    assert [done for _, done in run.progress] == list(range(1, len(run.windows) + 1))
    assert {index for index, _ in run.progress} == set(run.windows)


def test_a_level_waits_for_what_it_is_made_of(image: NDArray[np.uint8]) -> None:
    run = Run(image)
    rows, columns = run.grid.counts
    assert len(run.sink.reduced) == -(-rows // 2) * -(-columns // 2)
    ranks = order(run.graph.tasks)
    for key in run.graph.top:
        assert all(ranks[child] < ranks[key] for child in run.graph.tasks[key][-1])


def test_a_level_is_told_what_is_below_it_and_a_run_how_many_px_each_class_has(image: NDArray[np.uint8]) -> None:
    mask = np.zeros((20, 33), bool)
    mask[2:15, 3:31] = True
    run = Run(image, mask=mask, broken=(Region(96, 160, 1, 1),))
    labels = classes_of(image[..., 0])[0]
    inside = run.tissue.sample(Region(0, 0, *image.shape[:2]))
    assert set(run.sink.below) == set(run.windows) - {(1, 2)}
    for (index, window), counts in zip(run.windows.items(), run.outcomes, strict=True):
        core = window.core.slices
        if index == (1, 2):
            assert isinstance(counts, Failure)
            continue
        np.testing.assert_array_equal(run.sink.below[index], np.where(inside, labels, 0)[core][::2, ::2])
        np.testing.assert_array_equal(counts, np.bincount(labels[core][inside[core]], minlength=3))


def test_few_windows_wait_for_a_neighbour_whatever_the_height_of_the_slide() -> None:
    waiting = [_most_waiting(rows=rows, columns=8) for rows in (8, 32)]
    assert waiting[1] <= waiting[0] + 2
    assert waiting[1] <= 3 * 8


def _most_waiting(*, rows: int, columns: int) -> int:
    """Most windows that are computed and not yet written, in the order in which Dask runs the graph."""
    image = np.zeros((1, 1, 3), np.uint8)
    run = Run(image)
    run.grid = Grid((rows * CORE, columns * CORE), CORE, HALO, BLEND)
    run.windows = {w.index: w for w in run.grid.windows(lambda core: core)}
    ranks = order(run.build(list(run.windows), 1).tasks)
    alive: set[tuple[int, ...]] = set()
    most = 0
    for key in sorted((k for k in ranks if isinstance(k, tuple)), key=lambda k: ranks[k]):
        kind = key[0]
        if kind == "window":
            alive.add(key[2:])
        elif kind == "core":
            alive.discard(key[2:])
        most = max(most, len(alive))
    return most


def test_jobs_on_one_scheduler_do_not_meet(image: NDArray[np.uint8]) -> None:
    first, second = Run(image), Run(image)
    assert not set(first.graph.tasks) & set(second.graph.tasks)
