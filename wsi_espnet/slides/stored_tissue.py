"""A tissue mask as a label image beside the pixels that it was made for."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import ZstdCodec

from wsi_espnet import ngff
from wsi_espnet.classes import ClassTable, TissueClass
from wsi_espnet.geometry import ReadPlan
from wsi_espnet.slides.tissue_mask import GLASS, RIM, TISSUE

TISSUE_LABEL = "tissue"
"""Name of the label image."""

TISSUE_CLASSES = ClassTable(
    name="tissue",
    classes=(
        TissueClass(id=GLASS, name="glass", color=(255, 255, 255)),
        TissueClass(id=TISSUE, name="tissue", color=(0, 160, 80)),
        TissueClass(id=RIM, name="rim", color=(160, 220, 190)),
    ),
    glass=GLASS,
)
"""What the ids of the label image mean."""

_CHUNK_CELLS = 2048
_ZSTD = ZstdCodec(level=1, checksum=True)


def write_tissue(
    labels: zarr.Group,
    plan: ReadPlan,
    cells: NDArray[np.uint8] | NDArray[np.bool_],
    *,
    levels: int,
    in_um: bool = True,
) -> None:
    """Write cells (rows, columns) into the group ``labels``, each level every other cell of the one before.

    Parameters
    ----------
    labels
        The group; its list of label images is the caller's business.
    plan
        The image that the cells cover evenly.
    cells
        Of a `TissueMask`.
    levels
        How many the image has: NGFF wants as many here.
    in_um
        False where the scale is not known.
    """
    cell = plan.shape[0] / cells.shape[0], plan.shape[1] / cells.shape[1]
    multiscale = ngff.multiscales(
        name=TISSUE_LABEL,
        axes="yx",
        levels=[ngff.placement(plan, (cell[0] * 2**k, cell[1] * 2**k)) for k in range(levels)],
        method="nearest",
        in_um=in_um,
    )
    label = labels.require_group(TISSUE_LABEL)
    label.update_attributes(ngff.label_attributes(multiscale, TISSUE_CLASSES))
    for k in range(levels):
        part = cells[:: 2**k, :: 2**k].astype(np.uint8)
        array = label.create_array(
            str(k),
            shape=part.shape,
            dtype="uint8",
            chunks=(min(_CHUNK_CELLS, part.shape[0]), min(_CHUNK_CELLS, part.shape[1])),
            compressors=_ZSTD,
            fill_value=0,
            dimension_names=["y", "x"],
            overwrite=True,
        )
        array[...] = part


def cells_of(ids: NDArray[np.uint8], attributes: Mapping[str, Any]) -> NDArray[np.uint8]:
    """Cells of a `TissueMask` from a label image: its ids, and the attributes of its group.

    In label images of others all ids but 0 are tissue.
    """
    properties = attributes.get("ome", {}).get("image-label", {}).get("properties", ())
    rims = [entry.get("label-value") for entry in properties if entry.get("class") == TISSUE_CLASSES.names[RIM]]
    cells = np.where(ids == GLASS, GLASS, TISSUE).astype(np.uint8)
    cells[np.isin(ids, rims)] = RIM
    return cells


def tissue_digest(cells: NDArray[np.uint8] | NDArray[np.bool_]) -> str:
    """SHA-256 of a mask's shape and cells, as hexadecimal digits."""
    return hashlib.sha256(f"{cells.shape}".encode() + cells.tobytes()).hexdigest()
