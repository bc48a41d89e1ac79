"""Training: what share of the time between two steps is the network's, the rest waiting for images."""

from __future__ import annotations

import logging
from typing import Any

from wsi_espnet.bench.process import Measured, measure
from wsi_espnet.bench.report import Check, Report
from wsi_espnet.bench.settings import Settings

STEPS, WARM_UP_STEPS = 20, 2
WANTED = 0.9

RUNS: dict[str, tuple[str, dict[str, Any]]] = {
    "CamVid, decoded images kept": ("camvid", {}),
    "CamVid, each image read from its file": ("camvid", {"data.cache": False}),
    "GlaS, stain and pose changed": ("glas", {}),
}
"""Pipeline, which is also the folder's name below the data, and changes to it."""

log = logging.getLogger(__name__)


def run(settings: Settings) -> Report:
    """Time some steps of each pipeline, with images read by the process itself and by one beside it."""
    found: dict[str, Measured] = {}
    for title, (pipeline, changes) in RUNS.items():
        for workers in (0, 1):
            log.info("training: %s, %d loader processes", title, workers)
            arguments = {
                "pipeline": f"pipelines/{pipeline}.toml",
                "data": str(settings.data / "data" / pipeline),
                "steps": STEPS,
                "warm_up_steps": WARM_UP_STEPS,
                "changes": {**changes, "run.workers": workers, "run.validate_every": 1000},
            }
            found[f"{title}, {'a' if workers else 'no'} loader process"] = measure("train", arguments)
    return _report(found)


def _report(found: dict[str, Measured]) -> Report:
    shares = {title: one.result["network_seconds"] / one.result["seconds"] for title, one in found.items()}
    rows = [
        (title, f"{one.result['seconds'] / STEPS:.2f} s", f"{shares[title]:.1%}", f"{one.result['images_per_s']:.1f}")
        for title, one in found.items()
    ]
    checks = [
        Check(f"network's share, {title}", f"> {WANTED:.0%}", f"{share:.1%}", share > WANTED)
        for title, share in shares.items()
    ]
    return Report(
        name="training",
        title="share of a training step that is forward, backward and the optimiser's",
        columns=("", "a step", "network", "crops/s"),
        rows=rows,
        checks=checks,
        facts={"runs": {title: one.facts | {"network_share": shares[title]} for title, one in found.items()}},
        notes=(f"{STEPS} steps of the pipeline's own batch, after {WARM_UP_STEPS} that are not counted.",),
    )
