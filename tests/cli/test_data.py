"""`wsi-espnet data`: what is printed, and the exit status."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from data.make import CLASSES, add
from PIL import Image
from small import Call


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "a [b]"
    for i in range(4):
        add(root, f"s{i}", seed=i)
    (root / "classes.toml").write_text(CLASSES)
    return root


def test_adapters_are_listed_with_their_options(wsi_espnet: Call) -> None:
    told = wsi_espnet("data", "list", "--json")
    adapters = {a["name"]: a for a in json.loads(told.out)}
    assert adapters.keys() >= {"camvid", "cityscapes", "voc", "mapillary", "glas", "breast", "folder"}
    assert adapters["mapillary"]["options"]["version"] == "v1.2 | v2.0"
    assert "grade=true | false" in wsi_espnet("data", "list").out


def test_a_sound_folder_is_told_in_figures(folder: Path, wsi_espnet: Call) -> None:
    told = wsi_espnet("data", "check", "folder", folder)
    assert told.status == 0
    assert [line.split() for line in told.out.splitlines()] == [
        ["three:", "3", "classes", "(three),", "no", "scale"],
        ["split", "samples", "read", "ignored", "width", "x", "height"],
        ["all", "4", "4", "0.0%", "32", "x", "24"],
        ["class", "all"],
        ["0", "ground", "50.00%"],
        ["1", "bush", "25.00%"],
        ["2", "stone", "25.00%"],
        ["0", "errors,", "0", "warnings"],
    ]


def test_findings_are_lines_and_errors_make_the_status_1(folder: Path, wsi_espnet: Call) -> None:
    (folder / "masks/s1.png").unlink()
    (folder / "images/s2.png").write_bytes(b"x")
    told = wsi_espnet("data", "check", "folder", folder)
    assert told.status == 1
    assert told.out.splitlines()[-3] == f"error    {folder}/images/s1.png: there is no mask of this name"
    assert told.out.splitlines()[-2].startswith(f"error    all/s2: {folder}/images/s2.png cannot be read")
    assert told.out.splitlines()[-1] == "2 errors, 0 warnings"
    assert told.err.splitlines()[-1].startswith(f"error: {folder} has 2 errors")
    told = wsi_espnet("data", "check", "folder", folder, "--json")
    assert told.status == 1
    said = json.loads(told.out)
    assert (said["errors"], [f["severity"] for f in said["findings"]]) == (2, ["error", "error"])
    assert said["splits"][0]["px"] == {"ground": 768, "bush": 384, "stone": 384}


def test_a_sheet_is_drawn_and_not_replaced_unasked(folder: Path, tmp_path: Path, wsi_espnet: Call) -> None:
    sheet = tmp_path / "sheets" / "s.png"
    told = wsi_espnet("data", "check", "folder", folder, "--sheet", sheet, "--samples", "2")
    assert told.out.splitlines()[-1] == f"contact sheet  {sheet}"
    with Image.open(sheet) as image:
        assert image.format == "PNG"
    wsi_espnet("data", "check", "folder", folder, "--sheet", sheet).assert_refused(1, "already there", "--overwrite")
    assert wsi_espnet("data", "check", "folder", folder, "--sheet", sheet, "--overwrite").status == 0


def test_options_go_to_the_adapter(shared: Path, wsi_espnet: Call) -> None:
    root = shared / "data/street/pseudo_mapillary_dataset"
    options = ("--set", "version=v2.0", "--set", "target=cat7_strict", "--split", "all")
    told = wsi_espnet("data", "check", "mapillary", root, *options)
    assert told.out.startswith("mapillary-v2.0-cat7_strict: 7 classes (cityscapes7), no scale\n")
    assert told.status == 0


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (("kamvid", "."), 1, "no data set adapter 'kamvid'"),
        (("camvid", "nowhere"), 1, "the folder nowhere of the data set camvid is missing"),
        (("folder", "."), 1, "classes.toml is missing"),
        (("glas", ".", "--set", "patients=3"), 2, "has no option 'patients'"),
        (("glas", ".", "--set", "grade"), 2, "a setting is written key=value, such as run.epochs=20, got 'grade'"),
    ],
)
def test_what_cannot_be_checked_is_one_sentence(
    wsi_espnet: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], status: int, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    wsi_espnet("data", "check", *words).assert_refused(status, said)
