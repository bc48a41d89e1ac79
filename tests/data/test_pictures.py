"""Pictures and masks: what is read, and what is said of files that cannot be."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from wsi_espnet.data.pictures import FileSample, lookup_of, read_ids, read_rgb
from wsi_espnet.errors import DataError

IDS = np.arange(12, dtype=np.uint8).reshape(3, 4)


@pytest.mark.parametrize("mode", ["L", "P", "RGB"])
def test_ids_are_read_from_grey_palette_and_equal_channels(tmp_path: Path, mode: str) -> None:
    image = Image.fromarray(IDS)
    if mode == "P":
        image.putpalette([7] * 768)
    (image.convert("RGB") if mode == "RGB" else image).save(tmp_path / "m.png")
    np.testing.assert_array_equal(read_ids(tmp_path / "m.png"), IDS)


@pytest.mark.parametrize(
    ("px", "name", "said"),
    [
        (np.full((3, 4), 300, np.uint16), "m.png", r"holds ids from 300 to 300; wanted are 0\.\.255"),
        (np.array([[[1, 2, 3]]], np.uint8), "m.png", "is a RGB picture; a mask holds one id per px"),
        (IDS, "m.jpg", "is a JPEG, which blurs ids"),
    ],
)
def test_masks_of_other_kinds_are_refused(tmp_path: Path, px: NDArray[np.generic], name: str, said: str) -> None:
    Image.fromarray(px).save(tmp_path / name)
    with pytest.raises(DataError, match=said):
        read_ids(tmp_path / name)


def test_16_bit_masks_of_small_ids_are_read(tmp_path: Path) -> None:
    Image.fromarray(IDS.astype(np.uint16)).save(tmp_path / "m.png")
    np.testing.assert_array_equal(read_ids(tmp_path / "m.png"), IDS)


def test_16_bit_pictures_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.full((3, 4), 999, np.uint16)).save(tmp_path / "a.png")
    with pytest.raises(DataError, match="more than 8 bits per px"):
        read_rgb(tmp_path / "a.png")


@pytest.mark.filterwarnings("ignore::UserWarning:PIL.TiffImagePlugin")  # it warns before it raises
@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif", "a.bmp", "a.webp"])
def test_a_file_cut_anywhere_is_refused_by_name(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(path)
    whole = path.read_bytes()
    for keep in (0, 1, 4, 12, 40, 120, len(whole) // 2):
        path.write_bytes(whole[:keep])
        with pytest.raises(DataError, match=f"{name} cannot be read as a picture"):
            read_rgb(path)


def test_all_faults_of_a_sample_are_told_at_once(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((5, 6, 3), np.uint8)).save(tmp_path / "a.png")
    Image.fromarray(IDS).save(tmp_path / "m.png")
    sample = FileSample("a", tmp_path / "a.png", tmp_path / "m.png", lookup_of(4, ignored=[9]))
    with pytest.raises(DataError) as told:
        sample.read()
    assert told.value.faults == (
        f"{tmp_path / 'm.png'} holds the ids 4..8, 10..11, which no class has; known are 0..3, 9",
        f"{tmp_path / 'm.png'} has 4 x 3 px and its image a.png 6 x 5; both must be of one size",
    )
    assert str(told.value) == "; ".join(told.value.faults)


def test_a_sample_travels_to_another_process(tmp_path: Path) -> None:
    Image.fromarray(np.stack([IDS] * 3, axis=-1)).save(tmp_path / "a.png")
    Image.fromarray(IDS).save(tmp_path / "m.png")
    sample = FileSample("a", tmp_path / "a.png", tmp_path / "m.png", lookup_of({i: i % 3 for i in range(12)}))
    rgb, labels = pickle.loads(pickle.dumps(sample)).read()
    np.testing.assert_array_equal(rgb[..., 1], IDS)
    np.testing.assert_array_equal(labels, IDS % 3)
