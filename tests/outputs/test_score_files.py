"""Scores on disk say what the scores say."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from wsi_espnet.outputs.score_files import CELL, MARGIN, confusion_png, write_scores
from wsi_espnet.scores import Scores, confusion

TRUTH = np.array([0, 0, 0, 1, 1, 255])
SAID = np.array([0, 0, 1, 1, 255, 0])
SCORES = Scores(("a", "b", "c"), confusion(TRUTH, SAID, 3), categories={"a": "x", "b": "x", "c": "y"})


def test_the_files_hold_the_figures(tmp_path: Path) -> None:
    as_json, as_csv, picture = write_scores(tmp_path / "new", SCORES, title="t", about={"model": "m"})
    facts = json.loads(as_json.read_text())
    assert facts["model"] == "m"
    assert facts["mIoU"] == pytest.approx((2 / 3 + 1 / 3) / 2)
    assert facts["confusion"]["px"] == SCORES.counts.tolist()
    rows = {(r["kind"], r["name"]): r for r in csv.DictReader(io.StringIO(as_csv.read_text()))}
    assert list(rows) == [
        *(("class", n) for n in "abc"), ("category", "x"), ("category", "y"),
        ("mean", "classes"), ("mean", "categories"), ("all", "pixels"),
    ]  # fmt: skip
    assert float(rows["class", "b"]["iou"]) == pytest.approx(1 / 3, abs=1e-6)
    assert (rows["class", "b"]["truth_px"], rows["class", "b"]["predicted_px"]) == ("2", "2")
    assert rows["class", "c"]["iou"] == ""
    assert float(rows["all", "pixels"]["accuracy"]) == pytest.approx(3 / 5)
    with Image.open(picture) as image:
        assert image.format == "PNG"


def test_a_fuller_cell_is_darker_and_void_is_shown_where_there_is_any() -> None:
    image = np.asarray(Image.open(io.BytesIO(confusion_png(SCORES, title="t"))).convert("L"))
    # The last 4 rows and columns of cells, void among them; brightness of a corner within each.
    corner = [[image[-MARGIN - CELL * (4 - y) + 4, -MARGIN - CELL * (4 - x) + 4] for x in range(4)] for y in range(4)]
    assert corner[0][0] < corner[0][1] < corner[0][2] == 255  # two of three, one of three, none
    assert corner[1][1] == corner[1][3]
    assert corner[3][0] < corner[0][0]  # all of void
