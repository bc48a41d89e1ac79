"""Summary, failures and contact sheet: what they tell, and that 5,000 slides are no matter."""

from __future__ import annotations

import csv
import io
import time
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from wsi_espnet.cohort.contact_sheet import contact_sheet
from wsi_espnet.cohort.folder import BatchFolder, Shard
from wsi_espnet.cohort.ledger import Ledger, Row, State
from wsi_espnet.cohort.pages import failures_csv, summary_csv, write_pages
from wsi_espnet.errors import UsageError


def facts(**areas: float) -> dict[str, Any]:
    tissue = sum(areas.values())
    classes = [{"name": name, "mm2": mm2, "share": mm2 / tissue} for name, mm2 in areas.items()]
    about = {"model": "tiny", "mpp": [0.25, 1.0], "level": 0, "windows": 4, "failed_windows": 0}
    return {**about, "tissue_mm2": tissue, "unlabelled_mm2": 0.0, "classes": classes}


def row(name: str, place: int, state: State, **more: Any) -> Row:
    empty: dict[str, Any] = {"cause": "", "attempts": 1, "started": 1.0, "seconds": 2.0, "windows": 4}
    empty |= {"windows_done": 4, "mpx": 1.0, "result": "", "facts": {}}
    return Row(name=name, place=place, slide=f"/slides/{name}.svs", key="k", state=state, **{**empty, **more})


ROWS = [
    row("case 1/a", 0, "done", facts=facts(gland=1.0, stroma=3.0)),
    row("b", 1, "failed", cause='no slide, "torn"\nat the end', facts={}),
    row("c<script>", 2, "done", facts=facts(tumour=2.0)),
    row("d", 3, "waiting", seconds=None),
]


class Page(HTMLParser):
    """What a browser would find."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def test_a_summary_has_a_column_for_each_class_of_any_model() -> None:
    a, b, c, d = csv.DictReader(io.StringIO(summary_csv(ROWS)))
    assert (a["gland mm2"], a["stroma mm2"], a["tumour mm2"]) == ("1.000000", "3.000000", "")
    assert (c["gland mm2"], c["tumour mm2"], c["tissue_mm2"]) == ("", "2.000000", "2.000000")
    assert (a["mpp"], b["mpp"], d["seconds"]) == ("0.5", "", "")
    assert b["cause"] == 'no slide, "torn"\nat the end'
    (failed,) = csv.DictReader(io.StringIO(failures_csv(ROWS)))
    assert (failed["name"], failed["attempts"]) == ("b", "1")


def test_a_contact_sheet_shows_every_slide_and_trusts_no_name() -> None:
    page = Page(contact_sheet(ROWS, title="out & in"))
    cards = page.of("article")
    assert [card["data-name"] for card in cards] == ["case 1/a", "b", "c<script>", "d"]
    assert [card["data-state"] for card in cards] == ["done", "failed", "done", "waiting"]
    assert [image["src"] for image in page.of("img")] == ["pictures/case%201/a.jpg", "pictures/c%3Cscript%3E.jpg"]
    assert all(image["loading"] == "lazy" for image in page.of("img"))
    assert page.of("a")[0]["href"] == "slides/case%201/a/overview.png"
    assert len(page.of("script")) == 1
    assert not [v for _, attributes in page.tags for v in attributes.values() if v and "://" in v]
    assert (cards[0]["data-c0"], cards[0]["data-c1"], cards[2]["data-c2"]) == ("0.25000", "0.75000", "1.00000")


def test_five_thousand_slides_make_pages_in_seconds(tmp_path: Path) -> None:
    folder = BatchFolder(tmp_path)
    names = [f"case{i // 10}/slide{i}" for i in range(5000)]
    with Ledger(folder.ledger, create=True) as ledger:
        ledger.sync([(name, f"/s/{name}", "k") for name in names], ())
        done = {"state": "done", "facts": facts(gland=1.0, stroma=3.0), "seconds": 1.0, "mpx": 2.0}
        ledger.update(dict.fromkeys(names, done))
    started = time.monotonic()
    write_pages(folder)
    assert time.monotonic() - started < 10
    page = (tmp_path / "index.html").read_text()
    assert page.count("<article") == 5000
    assert len(page) < 5_000_000


def test_shards_are_told_together_in_the_order_of_the_manifest(tmp_path: Path) -> None:
    for number in (1, 2):
        with Ledger(BatchFolder(tmp_path, Shard(number, 2)).ledger, create=True) as ledger:
            ledger.sync([(f"s{9 - 2 * i - number}", "", "k") for i in range(3)], ())
    assert [row.name for row in BatchFolder(tmp_path).read()] == [f"s{i}" for i in (8, 7, 6, 5, 4, 3)]


def test_a_shard_is_one_of_its_number() -> None:
    with pytest.raises(UsageError, match="got 0/4"):
        Shard(0, 4)
