"""The job of `wsi-espnet outlines`: the mask of a result in, its regions as annotations for QuPath out."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from wsi_espnet.atomic import refuse_existing, write_bytes_atomic
from wsi_espnet.classes import UNLABELLED
from wsi_espnet.errors import DependencyError, UsageError
from wsi_espnet.outputs.areas import UM2_PER_MM2
from wsi_espnet.outputs.geojson import Frame, geojson
from wsi_espnet.outputs.opened import open_result
from wsi_espnet.outputs.outlines import find_outlines
from wsi_espnet.outputs.result import OUTLINES

SIMPLIFY_UM = 1.0
"""Corners are cut by about that much: of exact outlines of the sample slide half the corners are left, and no class's
area changes by more than 0.03 %."""

LEAST_UM2 = 100.0
"""A region with less area is left out, and a hole filled: about what one nucleus has."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ClassRegions:
    """How many regions of a class were written, and their area in square millimetres."""

    name: str
    regions: int
    mm2: float


@dataclass(frozen=True, slots=True)
class OutlinesResult:
    """The file that was written, and what is in it."""

    path: Path
    classes: tuple[ClassRegions, ...]


def outlines(
    result: str | Path,
    out: str | Path | None = None,
    *,
    simplify_um: float = SIMPLIFY_UM,
    least_um2: float = LEAST_UM2,
    uncropped: bool = False,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> OutlinesResult:
    """Write the regions of a mask as GeoJSON: a polygon each, in level-0 px of the slide, as QuPath shows it.

    Glass and the class that it belongs to are not outlined; what could not be read is, as ``unlabelled``.

    Parameters
    ----------
    result
        What `wsi_espnet.segment` left behind: its folder, or the ``.ome.zarr`` in it.
    out
        The file; None takes ``outlines.geojson`` beside the mask.
    simplify_um
        Corners are cut by about that much; 0 follows every px.
    least_um2
        Regions with less area are left out, and holes filled.
    uncropped
        Coordinates count from the corner of the whole scan area. QuPath shows a slide that states its bounds cropped
        to them, and counts from there, unless it is told not to.
    overwrite
        Replace a file that is there.
    progress
        Told about (done, total) blocks of the mask.

    Raises
    ------
    DependencyError, OutputError, ResumeError, UsageError
        See `wsi_espnet.errors`.
    """
    missing = [name for name in ("rasterio", "shapely") if find_spec(name) is None]
    if missing:
        raise DependencyError(f"outlines need {' and '.join(missing)}: pip install 'wsi-espnet[outlines]'")
    for value, option in ((simplify_um, "--simplify"), (least_um2, "--least-area")):
        if not (math.isfinite(value) and value >= 0):
            raise UsageError(f"{option} must be 0 or more, got {value:g}")
    opened = open_result(result)
    path = opened.path.parent / OUTLINES if out is None else Path(out)
    if not overwrite:
        refuse_existing([path])
    if not opened.done:
        log.warning("warning: %s is not finished; its outlines are those of the part that is there", opened.path)
    um2_per_px = opened.plan.um2_per_px
    ids = [c.id for c in opened.classes.classes if c.id != opened.classes.glass]
    found = find_outlines(
        opened.labels[0],
        ids if opened.classes.glass is None else [*ids, UNLABELLED],
        simplify_px=simplify_um / math.sqrt(um2_per_px),
        least_px=least_um2 / um2_per_px,
        progress=progress,
    )
    name = str(opened.source.get("name", opened.path.name))
    frame = Frame(opened.origin_uncropped if uncropped else opened.origin_cropped, opened.l0_per_px)
    write_bytes_atomic(path, geojson(found, opened.classes, frame, um2_per_px=um2_per_px, name=name))
    rows = []
    for id_ in [*ids, UNLABELLED]:
        areas = [outline.polygon.area for outline in found if outline.id == id_]
        if areas or id_ != UNLABELLED:
            label = "unlabelled" if id_ == UNLABELLED else opened.classes.names[id_]
            rows.append(ClassRegions(label, len(areas), sum(areas) * um2_per_px / UM2_PER_MM2))
    return OutlinesResult(path, tuple(rows))
