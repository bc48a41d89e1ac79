"""Pictures without ground truth: which are found, and how they are read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from wsi_espnet.data.photographs import find_pictures
from wsi_espnet.data.pictures import read_rgb
from wsi_espnet.errors import DataError

PX = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)


def test_pictures_are_found_below_a_folder_but_not_among_the_results(tmp_path: Path) -> None:
    for name in ("b.png", "a/b.JPG", "a/notes.txt", "out/masks/b.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(PX).save(tmp_path / name, format="PNG")
    found = find_pictures(tmp_path, leave_out=[tmp_path / "out"])
    assert found == [(tmp_path / "a/b.JPG", Path("a/b")), (tmp_path / "b.png", Path("b"))]
    assert find_pictures(tmp_path / "b.png", leave_out=[tmp_path / "out"]) == [(tmp_path / "b.png", Path("b"))]


def test_a_photograph_is_turned_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: show it rotated by 90 degrees clockwise
    Image.fromarray(PX).save(tmp_path / "x.png", exif=exif)
    np.testing.assert_array_equal(read_rgb(tmp_path / "x.png"), np.rot90(PX, -1))


def test_grey_and_palette_become_rgb(tmp_path: Path) -> None:
    for mode in ("L", "P", "RGBA"):
        Image.fromarray(PX).convert(mode).save(tmp_path / "x.png")
        assert read_rgb(tmp_path / "x.png").shape == (4, 6, 3)


def test_what_is_no_picture_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is missing"):
        read_rgb(tmp_path / "x.png")
    (tmp_path / "x.png").write_text("no picture")
    with pytest.raises(DataError, match="cannot be read as a picture"):
        read_rgb(tmp_path / "x.png")
    Image.fromarray(np.zeros((400, 300, 3), np.uint8)).save(tmp_path / "x.png")
    (tmp_path / "x.png").write_bytes((tmp_path / "x.png").read_bytes()[:80])
    with pytest.raises(DataError, match="cannot be read as a picture"):
        read_rgb(tmp_path / "x.png")
    Image.fromarray(np.zeros((4, 4), np.uint16)).save(tmp_path / "x.png")
    with pytest.raises(DataError, match="more than 8 bits"):
        read_rgb(tmp_path / "x.png")


def test_pictures_that_lie_where_results_go_are_not_called_missing(tmp_path: Path) -> None:
    (tmp_path / "voc/day").mkdir(parents=True)
    Image.fromarray(PX).save(tmp_path / "voc/day/a.png")
    for source in (tmp_path / "voc", tmp_path / "voc/day", tmp_path / "voc/day/a.png"):
        with pytest.raises(DataError, match="lies where results go; choose another folder"):
            find_pictures(source, leave_out=[tmp_path / "masks", tmp_path / "voc"])


def test_folders_that_cannot_be_done_are_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is missing"):
        find_pictures(tmp_path / "nothing", leave_out=[])
    (tmp_path / "in").mkdir()
    with pytest.raises(DataError, match="holds no pictures"):
        find_pictures(tmp_path / "in", leave_out=[tmp_path / "out"])
    for name in ("a.png", "a.jpg"):
        Image.fromarray(PX).save(tmp_path / "in" / name)
    with pytest.raises(DataError, match="results of one name"):
        find_pictures(tmp_path / "in", leave_out=[tmp_path / "out"])
