"""The job of `wsi-espnet mask`: the mask of a result in, the same mask in a format that other programs read out."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from wsi_espnet import machine
from wsi_espnet.atomic import refuse_existing
from wsi_espnet.errors import BudgetError, DependencyError, SlideError, UsageError
from wsi_espnet.geometry import Region
from wsi_espnet.outputs.ome_tiff import write_ome_tiff
from wsi_espnet.outputs.opened import OpenedResult, open_result
from wsi_espnet.outputs.result import MASK_TIFF
from wsi_espnet.outputs.stored import read_labels

DICOM, TIFF = ".dcm", (".ome.tif", ".ome.tiff")
"""How the names of files end, in either format."""

DICOM_BYTES_PER_PX, DICOM_BYTES_PER_PX_AND_SEGMENT = 2.0, 0.45
"""Memory that a DICOM segmentation takes: 2.8, 5.4 and 9.9 bytes per px with 2, 8 and 19 segments were measured, of
420 Mpx with every class in every tile."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class MaskResult:
    """The file that was written: its format, (h, w) of the mask in px, and (y, x) um per px."""

    path: Path
    format: str
    shape: tuple[int, int]
    mpp: tuple[float, float]


def mask(
    result: str | Path,
    out: str | Path | None = None,
    *,
    level: int = 0,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> MaskResult:
    """Write a mask as a pyramidal OME-TIFF, or as a DICOM segmentation of a slide that is DICOM.

    Parameters
    ----------
    result
        What `wsi_espnet.segment` left behind: its folder, or the ``.ome.zarr`` in it.
    out
        The file, whose name says the format: ``.ome.tiff`` or ``.dcm``; None takes ``mask.ome.tiff`` beside the mask.
    level
        Finest level of the mask's pyramid that is written; each has half as many px per side as the one before.
    overwrite
        Replace a file that is there.
    progress
        Told about (done, total) parts of the mask; as DICOM it is one part.

    Raises
    ------
    DependencyError, OutputError, ResumeError, SlideError, UsageError, BudgetError
        See `wsi_espnet.errors`.
    """
    opened = open_result(result)
    path = opened.path.parent / MASK_TIFF if out is None else Path(out)
    if not path.name.lower().endswith((*TIFF, DICOM)):
        raise UsageError(f"a mask is written to a file that ends in .ome.tiff or .dcm, got {path}")
    if not 0 <= level < len(opened.labels):
        raise UsageError(f"--level must be one of the mask's, 0 to {len(opened.labels) - 1}, got {level}")
    if not overwrite:
        refuse_existing([path])
    if not opened.done:
        log.warning("warning: %s is not finished; what is missing of it is glass or unlabelled", opened.path)
    shape = (int(opened.labels[level].shape[0]), int(opened.labels[level].shape[1]))
    mpp = (opened.plan.mpp[0] * 2**level, opened.plan.mpp[1] * 2**level)
    if path.name.lower().endswith(TIFF):
        name = str(opened.source.get("name", opened.path.name))
        facts = f"{name}, segmented by {opened.model}; {_place(opened, level)}"
        write_ome_tiff(
            path, opened.labels[level:], opened.classes, mpp=mpp, name=f"{name} mask", facts=facts, progress=progress
        )
        return MaskResult(path, "OME-TIFF", shape, mpp)
    if progress is not None:
        progress(0, 1)
    _write_dicom(path, opened, level)
    if progress is not None:
        progress(1, 1)
    return MaskResult(path, "DICOM", shape, mpp)


def _write_dicom(path: Path, opened: OpenedResult, level: int) -> None:
    missing = [name for name in ("highdicom", "pydicom") if find_spec(name) is None]
    if missing:
        raise DependencyError(f"DICOM masks need {' and '.join(missing)}: pip install 'wsi-espnet[dicom]'")
    # Imported here: nothing else needs them.
    from wsi_espnet.outputs.dicom_seg import read_finest, write_dicom_seg

    source = opened.open_slide()
    if source is None:
        raise SlideError(
            f"the slide of {opened.path} is neither where it was segmented ({opened.slide}) nor beside the result, and "
            "a DICOM segmentation says which DICOM image it is of; put it there, or write the mask as .ome.tiff"
        )
    source.close()
    finest = read_finest(source.path)
    array = opened.labels[level]
    height, width = (int(extent) for extent in array.shape)
    bytes_per_px = DICOM_BYTES_PER_PX + DICOM_BYTES_PER_PX_AND_SEGMENT * len(opened.classes)
    needed, free = height * width * bytes_per_px, machine.free_bytes()
    if needed > free:
        raise BudgetError(
            f"a DICOM segmentation of {width} x {height} px is put together in {needed / 2**30:.1f} GiB of memory, and "
            f"{free / 2**30:.1f} GiB are free; write a coarser one with --level {level + 1}, or .ome.tiff"
        )
    write_dicom_seg(
        path,
        read_labels(array, Region(0, 0, height, width)),
        opened.classes,
        slide=finest,
        origin_l0=opened.origin_uncropped,
        l0_per_px=(opened.l0_per_px[0] * 2**level, opened.l0_per_px[1] * 2**level),
        model=opened.model,
    )


def _place(opened: OpenedResult, level: int) -> str:
    """Where the mask lies on level 0 of the slide."""
    (y, x), (per_y, per_x) = opened.origin_uncropped, opened.l0_per_px
    per_px = f"{per_x * 2**level:.6g} x {per_y * 2**level:.6g}"
    return f"its px (0, 0) starts at level-0 px ({x:g}, {y:g}) of the slide, each covers {per_px} of them"
