"""Tissue is found; pen, frames, dust and glass are not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import skimage.data
from fakes import ArraySource
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy import ndimage as ndi

from wsi_espnet.errors import SlideReadError, TissueError
from wsi_espnet.geometry import ReadPlan, Region
from wsi_espnet.slides.source import open_source
from wsi_espnet.slides.tissue import everything, find_tissue, lay_over

MPP = 4.0
GLASS = (241, 240, 243)
EOSIN, HAEMATOXYLIN, FAT, DAB = (226, 150, 190), (120, 80, 150), (233, 222, 230), (140, 95, 60)

Rgb = NDArray[np.uint8]
Bools = NDArray[np.bool_]


def glass(shape: tuple[int, int], *, noise: float = 1.5, color: tuple[int, int, int] = GLASS) -> Rgb:
    rng = np.random.default_rng(1)
    return np.clip(np.array(color) + rng.normal(0, noise, (*shape, 3)), 0, 255).astype(np.uint8)


def disk(shape: tuple[int, int], centre: tuple[float, float], radius: float) -> Bools:
    y, x = np.ogrid[: shape[0], : shape[1]]
    return (y - centre[0]) ** 2 + (x - centre[1]) ** 2 < radius**2


def stained(slide: Rgb, where: Bools, *, colors: tuple[tuple[int, int, int], ...] = (EOSIN, HAEMATOXYLIN)) -> Rgb:
    """The slide with tissue of two colours in patches of about 40 um."""
    rng = np.random.default_rng(2)
    patch = ndi.gaussian_filter(rng.normal(size=where.shape), 10 / MPP) > 0
    color = np.where(patch[..., None], *(np.array(c) for c in (colors[0], colors[-1])))
    out = slide.copy()
    out[where] = np.clip(color + rng.normal(0, 6, slide.shape), 0, 255).astype(np.uint8)[where]
    return out


def stroke(slide: Rgb, points: list[tuple[int, int]], color: tuple[int, int, int], width_px: int) -> tuple[Rgb, Bools]:
    """The slide under a stroke of ink through (x, y) points, and where the ink is."""
    where = Image.new("1", slide.shape[1::-1])
    ImageDraw.Draw(where).line(points, fill=1, width=width_px, joint="curve")
    ink = np.asarray(where)
    soft = ndi.gaussian_filter(ink.astype(np.float32), 2)[..., None]
    under = slide * (1 - soft + soft * np.array(color, dtype=np.float32) / 255)
    return under.astype(np.uint8), ink


def found(slide: Rgb, mpp: float = MPP) -> Bools:
    """The tissue of a slide, with its rim, for each of its px."""
    source = ArraySource(slide, mpp)
    plan = source.plan(None)
    return find_tissue(source, plan).sample(plan.region)


def near(where: Bools, um: float) -> Bools:
    return ndi.distance_transform_edt(~where, sampling=MPP) <= um


SHAPE = (700, 900)
BLOB = disk(SHAPE, (330, 300), 180)


def test_all_tissue_is_found_with_a_margin_of_a_tenth_of_a_millimetre() -> None:
    mask = found(stained(glass(SHAPE), BLOB))
    assert mask[near(BLOB, 80)].all()
    assert not mask[~near(BLOB, 100 + 3 * 8)].any()  # margin, and the cells that it cuts


def test_tissue_is_told_from_its_rim() -> None:
    source = ArraySource(stained(glass(SHAPE), BLOB), MPP)
    plan = source.plan(None)
    on_glass = np.zeros(SHAPE, np.uint8)
    tissue = find_tissue(source, plan).counted(plan.region, on_glass, glass=0)
    assert tissue[BLOB].all()
    assert not tissue[~near(BLOB, 3 * 8)].any()  # cells that tissue cuts, by its colour and on the grid


@pytest.mark.parametrize("color", [EOSIN, HAEMATOXYLIN, FAT, DAB])
def test_pale_and_dark_stains_are_found_alone(color: tuple[int, int, int]) -> None:
    assert found(stained(glass(SHAPE), BLOB, colors=(color,)))[BLOB].all()


def test_pale_tissue_beside_dark_tissue_is_found() -> None:
    fat = disk(SHAPE, (330, 700), 150)
    mask = found(stained(stained(glass(SHAPE), BLOB), fat, colors=(FAT,)))
    assert mask[BLOB | fat].all()


def test_thin_walls_of_fat_are_one_piece_of_tissue() -> None:
    cell_px = round(90 / MPP)
    y, x = np.indices(SHAPE)
    walls = (y % cell_px < 1) | (x % cell_px < 1)
    assert found(stained(glass(SHAPE), BLOB & walls, colors=(FAT,)))[near(~BLOB, 30) & BLOB].all()


def test_a_slide_full_of_tissue_is_tissue_all_over() -> None:
    assert found(stained(glass(SHAPE), np.ones(SHAPE, dtype=bool))).all()


@pytest.mark.parametrize("noise", [0.5, 2.0, 8.0])
def test_bare_glass_is_refused_with_the_remedy(noise: float) -> None:
    slide = glass(SHAPE, noise=noise)
    slide[300:306, 200:206] -= 40  # a grain of dust
    with pytest.raises(TissueError, match=r"no tissue was found on array\.svs.*--tissue none.*--tissue FILE"):
        found(slide)


def test_uneven_light_is_not_tissue() -> None:
    slide = stained(glass(SHAPE), BLOB).astype(np.float32)
    slide *= 1 - 0.06 * np.linspace(0, 1, SHAPE[1])[None, :, None]
    assert not found(slide.astype(np.uint8))[~near(BLOB, 130)].any()


def test_white_fill_beside_grey_glass_is_not_tissue_and_does_not_make_glass_tissue() -> None:
    slide = stained(glass(SHAPE, color=(228, 226, 231)), BLOB)
    slide[:, 600:] = 255
    slide[600:] = 255
    assert not found(slide)[~near(BLOB, 130)].any()


def test_small_holes_are_filled_and_large_ones_are_not() -> None:
    lumen, gap = disk(SHAPE, (330, 250), 65), disk(SHAPE, (330, 650), 110)  # 520 um and 880 um in diameter
    tissue = (BLOB & ~lumen) | (disk(SHAPE, (330, 650), 200) & ~gap)
    mask = found(stained(glass(SHAPE), tissue))
    assert mask[lumen].all()
    assert not mask[330, 650]


def test_specks_are_dropped_and_small_pieces_are_not() -> None:
    speck, piece = disk(SHAPE, (600, 800), 4), disk(SHAPE, (120, 780), 12)  # 32 um and 96 um in diameter
    mask = found(stained(glass(SHAPE), BLOB | speck | piece))
    assert not mask[speck].any()
    assert mask[piece].all()


@pytest.mark.parametrize("ink", [(35, 60, 175), (20, 140, 70), (30, 150, 200), (25, 25, 30), (215, 30, 45)], ids=str)
def test_pen_on_glass_is_dropped_and_tissue_beside_it_stays(ink: tuple[int, int, int]) -> None:
    ring = [(round(330 + 300 * np.cos(t)), round(350 + 300 * np.sin(t))) for t in np.linspace(0, 6.3, 60)]
    slide, pen = stroke(stained(glass(SHAPE), BLOB), [*ring, (880, 20)], ink, 50)
    mask = found(slide)
    assert mask[BLOB].all()
    assert not mask[pen & ~near(BLOB, 350)].any()


@pytest.mark.parametrize("ink", [(35, 60, 175), (20, 140, 70), (25, 25, 30)], ids=str)
def test_tissue_under_a_stroke_of_pen_stays(ink: tuple[int, int, int]) -> None:
    slide, _ = stroke(stained(glass(SHAPE), BLOB), [(300, 0), (300, 700)], ink, 60)
    assert found(slide)[BLOB].all()


def test_a_blue_stain_is_not_taken_for_pen() -> None:
    assert found(stained(glass(SHAPE), BLOB, colors=((200, 70, 90), (90, 130, 190))))[BLOB].all()


def test_a_black_frame_is_not_tissue() -> None:
    slide = stained(glass(SHAPE), BLOB)
    frame = np.ones(SHAPE, dtype=bool)
    frame[60:-90, 40:-30] = False
    slide[frame] = 6
    mask = found(slide)
    assert mask[BLOB].all()
    assert not mask[~near(BLOB, 130)].any()


def test_a_black_frame_around_nothing_but_tissue_is_not_tissue() -> None:
    slide = stained(glass(SHAPE), np.ones(SHAPE, dtype=bool))
    inside = np.zeros(SHAPE, dtype=bool)
    inside[150:-150, 150:-150] = True
    slide[~inside] = 4
    mask = found(slide)
    assert mask[inside].all()
    assert not mask[~near(inside, 130)].any()


def test_black_pigment_inside_tissue_is_tissue() -> None:
    slide = stained(glass(SHAPE), BLOB)
    slide[disk(SHAPE, (330, 300), 100)] = (30, 22, 20)
    assert found(slide)[BLOB].all()


def test_fluorescence_is_what_is_brighter_than_its_black_background() -> None:
    rng = np.random.default_rng(3)
    slide = rng.integers(0, 6, (*SHAPE, 3), dtype=np.uint8)
    nuclei = (rng.random(SHAPE) < 0.01) & BLOB
    slide[ndi.binary_dilation(nuclei, iterations=1)] = (10, 20, 200)
    mask = found(slide)
    assert mask[BLOB].mean() > 0.999
    assert not mask[~near(BLOB, 130)].any()


def test_brown_immunohistochemistry_is_tissue() -> None:
    slide = glass((1400, 1400))
    picture = skimage.data.immunohistochemistry()
    slide[400:912, 400:912] = picture
    source = ArraySource(slide, 0.5)
    mask = find_tissue(source, source.plan(None))
    assert mask.sample(Region(400, 400, 512, 512)).all()


def test_cells_cover_an_image_of_any_size_without_drift() -> None:
    shape = (1237, 1531)
    corner = disk(shape, (1080, 1380), 30)
    slide = stained(glass(shape), corner)
    source = ArraySource(slide, (1.37, 1.29))
    for mpp in (None, 1.9, 3.3, 11.7):
        plan = source.plan(mpp)
        mask = find_tissue(source, plan)
        assert all(m <= p for m, p in zip(mask.cells.shape, plan.shape, strict=True))
        y, x = (np.argwhere(mask.sample(plan.region)) + 0.5).mean(axis=0)
        centre = [(np.argwhere(corner) + 0.5).mean(axis=0)[a] / plan.l0_per_px[a] for a in (0, 1)]
        assert (y * plan.mpp[0], x * plan.mpp[1]) == pytest.approx(
            (centre[0] * plan.mpp[0], centre[1] * plan.mpp[1]), abs=8
        )


def test_a_plan_coarser_than_cells_has_one_cell_per_px() -> None:
    source = ArraySource(stained(glass((200, 300)), disk((200, 300), (100, 150), 60)), 30.0)
    plan = source.plan(None)
    assert find_tissue(source, plan).cells.shape == plan.shape == (200, 300)


def test_a_slide_without_scale_is_looked_at_in_blocks_of_eight_px() -> None:
    source = ArraySource(stained(glass(SHAPE), BLOB), MPP)
    source.mpp = None
    plan = ReadPlan(source.levels[0], (1.0, 1.0), SHAPE, (0.0, 0.0), (1.0, 1.0))
    assert find_tissue(source, plan).cells.shape == (88, 113)


def test_reads_are_bounded_and_none_is_made_twice() -> None:
    shape = (400, 12_000)
    source = ArraySource(stained(glass(shape), disk(shape, (200, 6000), 150)), 4.0)
    find_tissue(source, source.plan(None))
    regions = [region for _, region in source.reads]
    assert max(max(r.shape) for r in regions) <= 1024
    assert sum(r.area for r in regions) == 200 * 6000


def test_what_cannot_be_read_counts_as_tissue_and_only_that() -> None:
    broken = Region(600, 800, 20, 20)
    source = ArraySource(stained(glass(SHAPE), BLOB), MPP, broken_l0=(broken,))
    plan = source.plan(None)
    mask = find_tissue(source, plan).sample(plan.region)
    assert mask[broken.slices].all()
    assert mask[BLOB].all()
    blocks = np.zeros(SHAPE, dtype=bool)
    blocks[broken.slices] = True
    assert not mask[~near(BLOB, 130) & ~near(blocks, 64 * 8 * 1.5 + 130)].any()


def test_a_slide_that_cannot_be_read_at_all_says_so() -> None:
    source = ArraySource(glass(SHAPE), MPP, broken_l0=(Region(0, 0, *SHAPE),))
    with pytest.raises(SlideReadError, match="no part of it can be read"):
        find_tissue(source, source.plan(None))


def test_everything_is_tissue_in_the_mask_of_no_mask() -> None:
    plan = ArraySource(glass(SHAPE), MPP).plan(None)
    mask = everything(plan)
    assert (mask.origin, mask.fraction, mask.area_px) == ("none", 1.0, SHAPE[0] * SHAPE[1])


@pytest.mark.parametrize(
    ("name", "least", "most"),
    [
        ("CMU-1-Small-Region.svs", 0.55, 0.75),
        ("test3-DAPI-2-(387).ndpi", 0.90, 1.0),
        ("multi_frame_jpeg_camelyon_challenge_image.dcm", 0.35, 0.50),
    ],
)
def test_real_slides_show_about_as_much_tissue_as_the_eye_sees(
    slides: Path, name: str, least: float, most: float
) -> None:
    with open_source(slides / name) as source:
        assert least < find_tissue(source, source.plan(None)).fraction < most


def test_a_damaged_slide_is_searched_on_the_levels_that_can_be_read(slides: Path) -> None:
    with open_source(slides / "mirax_partial" / "Mirax2-Fluorescence-2.mrxs") as source:
        mask = find_tissue(source, source.plan(0.5))
    assert mask.shape == (4929, 6734)
    assert mask.fraction > 0.98


def test_stored_cells_finer_than_the_image_are_coarsened() -> None:
    cells = np.zeros((40, 60), np.uint8)
    cells[0, 0], cells[39, 59] = 1, 2
    mask = lay_over(cells, ArraySource(glass((20, 20)), MPP).plan(MPP))
    assert mask.cells.shape == (20, 20)
    assert (mask.cells[0, 0], mask.cells[19, 19], mask.cells.sum()) == (1, 2, 3)
