"""GlaS: grades, patients, what is refused."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from wsi_espnet.data.catalog import open_dataset
from wsi_espnet.data.glas import GLAS_MPP
from wsi_espnet.errors import DataError, UsageError
from wsi_espnet.geometry import Region
from wsi_espnet.slides.source import open_source


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


def test_the_grade_of_an_image_is_the_class_of_all_its_glands(folder: Path) -> None:
    glas = open_dataset("glas", folder, held_out=["2"])
    (benign,), (malignant,) = (glas.samples(split) for split in ("train", "val"))
    assert (benign.name, malignant.name) == ("a", "b")
    assert np.unique(benign.read().labels).tolist() == [0, 1]
    assert np.unique(malignant.read().labels).tolist() == [0, 2]
    assert (benign.read().labels > 0).sum() == 16 + 50
    assert benign.read().rgb.shape == (20, 30, 3)


def test_missing_files_and_masks_of_another_size_are_refused(folder: Path) -> None:
    Image.fromarray(np.zeros((20, 31), np.uint8)).save(folder / "masks/a.png")
    glas = open_dataset("glas", folder, held_out=["2"])
    with pytest.raises(DataError, match="mask"):
        glas.samples("train")[0].read()
    (folder / "masks/a.png").unlink()
    with pytest.raises(DataError, match=r"a\.png: the list names a, but this file is missing"):
        glas.samples("train")


def test_the_shared_images_keep_patients_apart(shared: Path) -> None:
    root = shared / "data/glas"
    rows = list(csv.DictReader((root / "index.csv").read_text(encoding="utf-8").splitlines()))
    patient = {row["name"].strip(): row["patient"].strip() for row in rows}
    glas = open_dataset("glas", root, held_out=("3", "6", "15"))
    assert glas.mpp == 0.62005
    names = {split: [sample.name for sample in glas.samples(split)] for split in glas.splits}
    assert len(names["train"]) + len(names["val"]) == len(rows) == 116
    assert {patient[name] for name in names["val"]} == {"3", "6", "15"}
    assert not {patient[name] for name in names["train"]} & {"3", "6", "15"}


def test_slides_without_glands_join_training_alone_as_background(folder: Path, slides: Path) -> None:
    skin = slides / "CMU-1-Small-Region.svs"
    plain = open_dataset("glas", folder, held_out=["2"])
    glas = open_dataset("glas", folder, held_out=["2"], negatives=[str(skin)])
    assert [s.name for s in glas.samples("val")] == [s.name for s in plain.samples("val")]
    added = glas.samples("train")[len(plain.samples("train")) :]
    with open_source(skin) as source:
        plan = source.plan(GLAS_MPP)
        rows, columns = plan.shape
        rgb = source.read(plan, Region(0, 0, min(rows, 522), min(columns, 775)))
    assert len(added) == (rows // 522) * (columns // 775) == 8
    first = added[0].read()
    np.testing.assert_array_equal(first.rgb, rgb)
    assert first.labels.shape == rgb.shape[:2]
    assert not first.labels.any()


def test_at_a_coarser_scale_samples_have_fewer_px_of_the_same_tissue(folder: Path, slides: Path) -> None:
    skin = slides / "CMU-1-Small-Region.svs"
    glas = open_dataset("glas", folder, held_out=["2"], mpp=2 * GLAS_MPP, negatives=[str(skin)])
    assert glas.mpp == 2 * GLAS_MPP
    benign, *negatives = glas.samples("train")
    (malignant,) = glas.samples("val")
    assert (benign.name, malignant.name) == ("a", "b")
    truth = malignant.read()
    assert truth.rgb.shape == (10, 15, 3)
    whole = open_dataset("glas", folder, held_out=["2"]).samples("val")[0].read().labels
    np.testing.assert_array_equal(truth.labels, whole[1::2, 1::2])
    with open_source(skin) as source:
        expected = source.read(source.plan(2 * GLAS_MPP), Region(0, 0, 261, 388))
    assert len(negatives) == 8
    np.testing.assert_array_equal(negatives[0].read().rgb, expected)


def test_a_negative_that_is_no_slide_is_found(folder: Path) -> None:
    glas = open_dataset("glas", folder, held_out=["2"], negatives=["absent.svs"])
    (finding,) = glas.listing("train").findings
    assert "absent.svs" in str(finding)
    assert not glas.listing("val").findings


def test_without_grades_every_gland_is_of_one_class(folder: Path) -> None:
    glas = open_dataset("glas", folder, grade=False, held_out=["2"])
    assert glas.classes.names == ("glass and stroma", "gland")
    for split in glas.splits:
        (sample,) = glas.samples(split)
        assert np.unique(sample.read().labels).tolist() == [0, 1]


def test_an_index_may_come_from_excel_but_in_utf_8(folder: Path) -> None:
    index = "name,patient,grade\na,M\u00fcller,benign\nb,2,malignant\n"
    (folder / "index.csv").write_text(index, encoding="utf-8-sig")
    glas = open_dataset("glas", folder, held_out=["M\u00fcller"])
    assert [sample.name for sample in glas.samples("val")] == ["a"]
    (folder / "index.csv").write_text(index, encoding="latin-1")
    with pytest.raises(DataError, match=r"index\.csv cannot be read .*save it as UTF-8 text"):
        open_dataset("glas", folder)


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
        ({"held_out": "3"}, "held_out must be a list"),
        ({"negatives": "a.svs"}, "negatives must be a list"),
        ({"mpp": 0.5}, "mpp must be a number from 0.62005 to 10.0, got 0.5"),
        ({"mpp": "1"}, "mpp must be a number"),
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
