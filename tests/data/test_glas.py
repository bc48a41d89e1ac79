"""GlaS: grades, patients, what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from wsi_espnet.data.catalog import open_dataset
from wsi_espnet.data.glas import GlasImage, read_glas, split_by_patient
from wsi_espnet.errors import DataError, UsageError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    (tmp_path / "index.csv").write_text("name,patient,grade\na,1,benign\nb,2,malignant\n")
    for name in "ab":
        Image.fromarray(np.full((20, 30, 3), 200, np.uint8)).save(tmp_path / "images" / f"{name}.jpg")
        mask = np.zeros((20, 30), np.uint8)
        mask[5:9, 7:11], mask[15:, 20:] = 1, 7
        Image.fromarray(mask).save(tmp_path / "masks" / f"{name}.png")
    return tmp_path


def image(name: str, patient: str) -> GlasImage:
    empty = np.zeros((8, 8, 3), np.uint8)
    return GlasImage(name=name, patient=patient, grade="benign", rgb=empty, labels=empty[..., 0])


def test_the_grade_of_an_image_is_the_class_of_all_its_glands(folder: Path) -> None:
    benign, malignant = read_glas(folder)
    assert np.unique(benign.labels).tolist() == [0, 1]
    assert np.unique(malignant.labels).tolist() == [0, 2]
    assert (benign.labels > 0).sum() == 16 + 50
    assert benign.rgb.shape == (20, 30, 3)


def test_no_patient_is_on_both_sides() -> None:
    images = [image(f"{p}{i}", p) for p in "1234" for i in range(3)]
    training, validation = split_by_patient(images, ("2", "4"))
    assert {i.patient for i in training} == {"1", "3"}
    assert {i.patient for i in validation} == {"2", "4"}
    assert len(training) + len(validation) == len(images)


@pytest.mark.parametrize(("held_out", "message"), [(("9",), "no images of"), (("1", "2"), "neither")])
def test_splits_that_cannot_work_are_refused(held_out: tuple[str, ...], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        split_by_patient([image("a", "1"), image("b", "2")], held_out)


def test_folders_of_another_kind_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no index\.csv"):
        read_glas(tmp_path)


def test_missing_files_and_unknown_grades_are_refused(folder: Path) -> None:
    (folder / "index.csv").write_text("name,patient,grade\nc,1,benign\n")
    with pytest.raises(UsageError, match="cannot read the image or the mask of c"):
        read_glas(folder)
    (folder / "index.csv").write_text("name,patient,grade\na,1,unclear\n")
    with pytest.raises(UsageError, match="grade 'unclear'"):
        read_glas(folder)


def test_masks_of_another_size_are_refused(folder: Path) -> None:
    Image.fromarray(np.zeros((20, 31), np.uint8)).save(folder / "masks/a.png")
    with pytest.raises(UsageError, match="differ in size"):
        read_glas(folder)


def test_the_shared_images_are_all_read(shared: Path) -> None:
    images = read_glas(shared / "data/glas")
    assert len(images) == 116
    assert len({i.patient for i in images}) == 12


def test_the_adapter_gives_what_read_glas_gives(shared: Path) -> None:
    held_out = ("3", "6", "15")
    sides = split_by_patient(read_glas(shared / "data/glas"), held_out)
    glas = open_dataset("glas", shared / "data/glas", held_out=held_out)
    assert glas.mpp == 0.62005
    for split, images in zip(("train", "val"), sides, strict=True):
        samples = glas.samples(split)
        assert [sample.name for sample in samples] == [i.name for i in images]
        for sample, wanted in list(zip(samples, images, strict=True))[::12]:
            rgb, labels = sample.read()
            np.testing.assert_array_equal(rgb, wanted.rgb)
            np.testing.assert_array_equal(labels, wanted.labels)


def test_without_grades_every_gland_is_of_one_class(folder: Path) -> None:
    glas = open_dataset("glas", folder, grade=False, held_out=["2"])
    assert glas.classes.names == ("glass and stroma", "gland")
    for split in glas.splits:
        (sample,) = glas.samples(split)
        assert np.unique(sample.read().labels).tolist() == [0, 1]


def test_rows_that_cannot_be_used_are_found(folder: Path) -> None:
    (folder / "index.csv").write_text("name,patient,grade\na,1,benign\nb,2,unclear\nc,1,benign\n")
    glas = open_dataset("glas", folder, held_out=["2"])
    assert [str(f) for split in glas.splits for f in glas.listing(split).findings] == [
        f"error    {folder / 'images/c.jpg'}: the list names c, but this file is missing",
        f"error    {folder / 'masks/c.png'}: the list names c, but this file is missing",
        f"error    {folder / 'index.csv'}: b has grade 'unclear'; known are benign, malignant",
    ]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"held_out": ["9"]}, "no images of the held-out patients"),
        ({"held_out": []}, "no images of the held-out patients"),
        ({"grade": "no"}, "grade must be true or false"),
        ({"held_out": "3"}, "held_out a list"),
        ({"patients": "3"}, r"no option 'patients'; it has grade \(true \| false\), held_out"),
    ],
)
def test_options_that_cannot_work_are_refused(folder: Path, options: dict[str, object], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        open_dataset("glas", folder, **options)


def test_an_index_of_another_kind_is_refused(folder: Path) -> None:
    (folder / "index.csv").write_text("a;b\n1;2\n")
    with pytest.raises(DataError, match="must have the columns name, patient, grade"):
        open_dataset("glas", folder)
    (folder / "index.csv").unlink()
    with pytest.raises(DataError, match=r"no index\.csv"):
        open_dataset("glas", folder)
