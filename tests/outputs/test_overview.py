"""The overview says what it should: by the colours of its px."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from wsi_espnet.classes import UNLABELLED, ClassTable, TissueClass
from wsi_espnet.errors import GeometryError
from wsi_espnet.outputs.areas import Areas, measure_areas
from wsi_espnet.outputs.overview import draw_overview
from wsi_espnet.outputs.paint import ALARM, GREY, INK, draw_scale_bar, length_text, round_length_um
from wsi_espnet.slides.tissue_mask import TissueMask

BLUE, RED, PINK = (0, 0, 255), (255, 0, 0), (226, 150, 190)
CLASSES = ClassTable(
    name="three",
    classes=(
        TissueClass(id=0, name="glass and stroma", color=(0, 255, 0)),
        TissueClass(id=1, name="benign", color=BLUE),
        TissueClass(id=2, name="malignant", color=RED),
    ),
    glass=0,
)


def count(picture: Image.Image, color: tuple[int, int, int]) -> int:
    return int((np.asarray(picture) == color).all(axis=2).sum())


def draw(
    labels: NDArray[np.uint8],
    tissue: NDArray[np.bool_] | None = None,
    areas: Areas | None = None,
    title: str = "a.svs",
) -> Image.Image:
    slide = np.full((*labels.shape, 3), PINK, dtype=np.uint8)
    if tissue is None:
        tissue = np.ones(labels.shape, dtype=bool)
    return draw_overview(slide, labels, tissue, CLASSES, title=title, um_per_px=8.0, areas=areas)


def labelled(value: int, shape: tuple[int, int] = (300, 400)) -> NDArray[np.uint8]:
    return np.full(shape, value, dtype=np.uint8)


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 3000), st.integers(1, 3000))
def test_any_shape_of_slide_gives_a_picture_of_2000_px_width(h: int, w: int) -> None:
    picture = draw(labelled(1, (h, w)))
    assert picture.mode == "RGB"
    assert picture.width == 2000
    assert 300 < picture.height < 2500


@pytest.mark.parametrize("shape", [(300, 400), (3000, 380), (380, 3000), (40, 50)])
def test_both_panels_show_the_slide_at_the_same_size(shape: tuple[int, int]) -> None:
    labels = labelled(0, shape)
    assert count(draw(labels), PINK) > 1.9 * count(draw(labels, np.zeros(shape, dtype=bool)), PINK)


def test_a_class_is_shown_in_its_colour_over_grey() -> None:
    grey = 0.299 * PINK[0] + 0.587 * PINK[1] + 0.114 * PINK[2]
    blue = tuple(round(0.45 * grey + 0.55 * c) for c in BLUE)
    assert count(draw(labelled(1)), blue) > 300_000
    assert count(draw(labelled(2)), blue) == 0


def test_edges_of_classes_are_drawn_in_full_colour() -> None:
    labels = labelled(0)
    labels[100:200, 100:200] = 2
    assert count(draw(labels), RED) > 4 * 150
    assert count(draw(labelled(0)), RED) < 4 * 30 * 3  # the legend's swatch alone


def test_the_class_of_glass_is_left_clear() -> None:
    assert count(draw(labelled(0)), (0, 255, 0)) == 0
    assert count(draw(labelled(0)), PINK) > 2 * 500_000


def test_what_was_skipped_is_hatched_in_grey() -> None:
    tissue = np.zeros((300, 400), dtype=bool)
    tissue[:, :200] = True
    whole, half = (count(draw(labelled(1), t), GREY) for t in (np.zeros_like(tissue), tissue))
    assert half > 200_000
    assert whole == pytest.approx(2 * half, rel=0.02)


def test_failed_area_is_loud_and_a_single_failed_px_is_seen() -> None:
    assert count(draw(labelled(1)), ALARM) == 0
    assert count(draw(labelled(UNLABELLED)), ALARM) > 200_000
    labels = labelled(1, (3000, 4000))
    labels[1500:1501, 2000:2040] = UNLABELLED
    legend_only = count(draw_legend_of_failure(), ALARM)
    assert count(draw(labels), ALARM) > legend_only


def draw_legend_of_failure() -> Image.Image:
    """A picture whose areas tell of failed px that lie outside of the view."""
    lost = measure_areas(
        labelled(UNLABELLED, (4, 4)), TissueMask(np.ones((1, 1), dtype=bool), (4, 4), "none"), CLASSES, 1.0
    )
    return draw(labelled(1), areas=lost)


def test_failure_outside_of_the_glass_mask_is_not_shown_as_tissue() -> None:
    assert count(draw(labelled(UNLABELLED), np.zeros((300, 400), dtype=bool)), ALARM) == 0


def test_names_without_ascii_and_endless_titles_are_drawn() -> None:
    assert draw(labelled(1), title="Präparat 日本.svs").size == draw(labelled(1), title="x" * 400).size


def test_arrays_of_different_sizes_are_refused() -> None:
    with pytest.raises(GeometryError, match=r"\(4, 5\) px, got \(5, 4\)"):
        draw_overview(
            np.zeros((4, 5, 3), np.uint8), np.zeros((5, 4), np.uint8), np.ones((4, 5), bool), CLASSES,
            title="", um_per_px=1.0, areas=None,
        )  # fmt: skip


@given(st.floats(1e-3, 1e6))
def test_a_round_length_is_the_longest_of_1_2_5_that_fits(longest: float) -> None:
    um = round_length_um(longest)
    assert longest / 2.5001 <= um <= longest * 1.0000001
    assert f"{um:e}"[0] in "125"


def test_the_scale_bar_is_as_long_as_it_says() -> None:
    panel = Image.new("RGB", (900, 600), "white")
    draw_scale_bar(panel, um_per_px=3.0)
    bar = (np.asarray(panel) == INK).all(axis=2).sum(axis=1).max()
    assert bar == pytest.approx(500 / 3.0, abs=1.5)  # of at most 270 px, 810 um
    assert [length_text(um) for um in (50.0, 200.0, 2000.0)] == ["50 um", "0.2 mm", "2 mm"]
