"""One HTML page with a card for each slide, which needs no server and nothing from the network."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from wsi_espnet.cohort.ledger import STATES, Row

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
 body {{ font: 14px/1.4 system-ui, sans-serif; margin: 0; color: #222; background: #f4f4f6 }}
 header {{ position: sticky; top: 0; z-index: 1; background: #fff; padding: 10px 16px; border-bottom: 1px solid #ccc;
   display: flex; flex-wrap: wrap; gap: 8px 16px; align-items: center }}
 h1 {{ font-size: 16px; margin: 0 }}
 input, select {{ font: inherit; padding: 3px 6px }}
 main {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(300px, 1fr)); gap: 12px; padding: 12px 16px }}
 article {{ background: #fff; border: 1px solid #d5d5da; border-radius: 6px; padding: 10px; overflow-wrap: anywhere;
   content-visibility: auto; contain-intrinsic-size: auto 400px }}
 article img {{ width: 100%; height: 200px; object-fit: contain; background: #fafafa }}
 article h2 {{ font-size: 14px; margin: 6px 0 2px }}
 table {{ border-collapse: collapse; width: 100% }}
 td {{ padding: 1px 0; border-top: 1px solid #eee }} td + td {{ text-align: right; white-space: nowrap }}
 .state {{ float: right; font-size: 12px; padding: 0 7px; border-radius: 9px; background: #ddd; font-weight: normal }}
 .done {{ background: #cfead2 }} .failed {{ background: #f6c9c5 }} .skipped {{ background: #f3e6bf }}
 .running {{ background: #cfe0f6 }}
 .cause {{ color: #8c1d13; margin: 4px 0 }} .small {{ color: #666; font-size: 12px }}
 [hidden] {{ display: none }}
</style></head><body>
<header><h1>{title}</h1><span>{counts}</span>
<label>show <select id="state"><option value="">all</option>{states}</select></label>
<label>name <input id="find" type="search" placeholder="part of a name"></label>
<label>sort by <select id="sort"><option value="place">manifest</option><option value="name">name</option>
<option value="tissue">tissue</option>{sorts}</select></label>
<span id="shown"></span></header>
<main>
{cards}
</main>
<script>
const main = document.querySelector("main"), cards = [...main.children];
const byId = id => document.getElementById(id);
function show() {{
  const state = byId("state").value, find = byId("find").value.toLowerCase();
  let shown = 0;
  for (const card of cards) {{
    const on = (!state || card.dataset.state === state) && card.dataset.name.toLowerCase().includes(find);
    card.hidden = !on;
    shown += on;
  }}
  byId("shown").textContent = shown + " shown";
}}
function sort() {{
  const by = byId("sort").value;
  const value = card => card.dataset[by] === undefined ? -1 : Number(card.dataset[by]);
  cards.sort((a, b) => by === "name" ? a.dataset.name.localeCompare(b.dataset.name)
    : by === "place" ? value(a) - value(b) : value(b) - value(a));
  main.append(...cards);
}}
byId("state").onchange = show; byId("find").oninput = show; byId("sort").onchange = sort; show();
</script></body></html>
"""


def contact_sheet(rows: Sequence[Row], *, title: str) -> str:
    """The page: overviews with areas, failures with causes, to be filtered and sorted; links are relative to it."""
    classes = list(dict.fromkeys(c["name"] for row in rows for c in row.facts.get("classes", ())))
    counts = {state: sum(row.state == state for row in rows) for state in STATES}
    return _PAGE.format(
        title=html.escape(f"{title}: {len(rows)} slides"),
        counts=", ".join(f"{count} {state}" for state, count in counts.items() if count),
        states="".join(f"<option>{state}</option>" for state, count in counts.items() if count),
        sorts="".join(
            f'<option value="c{number}">{html.escape(name)}, share</option>' for number, name in enumerate(classes)
        ),
        cards="\n".join(_card(row, classes) for row in rows),
    )


def _card(row: Row, classes: Sequence[str]) -> str:
    name, facts = html.escape(row.name), row.facts
    data = {"name": row.name, "state": row.state, "place": row.place}
    if facts:
        data["tissue"] = f"{facts['tissue_mm2']:.4f}"
        data |= {f"c{classes.index(c['name'])}": f"{c['share']:.5f}" for c in facts["classes"]}
    attributes = " ".join(f'data-{key}="{html.escape(str(value))}"' for key, value in data.items())
    head = f'<h2>{name} <span class="state {row.state}">{row.state}</span></h2>'
    cause = f'<p class="cause">{html.escape(row.cause)}</p>' if row.cause else ""
    return f"<article {attributes}>{_picture(row) if facts else ''}{head}{cause}{_numbers(facts)}</article>"


def _picture(row: Row) -> str:
    large, small = quote(f"slides/{row.name}/overview.png"), quote(f"pictures/{row.name}.jpg")
    alt = html.escape(f"slide and classes of {row.name}")
    return f'<a href="{large}"><img loading="lazy" decoding="async" src="{small}" alt="{alt}"></a>'


def _numbers(facts: dict[str, Any]) -> str:
    if not facts:
        return ""
    lines = [(c["name"], c["mm2"], c["share"]) for c in facts["classes"]]
    if facts["unlabelled_mm2"]:
        share = facts["unlabelled_mm2"] / facts["tissue_mm2"]
        lines.append(("(unlabelled)", facts["unlabelled_mm2"], share))
    body = "".join(
        f"<tr><td>{html.escape(name)}</td><td>{mm2:.2f} mm² · {share:.1%}</td></tr>" for name, mm2, share in lines
    )
    about = f"{facts['tissue_mm2']:.2f} mm² of tissue · {facts['mpp'][1]:.4g} um per px · {facts['model']}"
    return f'<table>{body}</table><span class="small">{html.escape(about)}</span>'
