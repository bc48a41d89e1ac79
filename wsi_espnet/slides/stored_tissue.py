"""A tissue mask as a label image beside the pixels that it was made for."""

from __future__ import annotations

import hashlib

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import ZstdCodec

from wsi_espnet import ngff
from wsi_espnet.classes import ClassTable, TissueClass
from wsi_espnet.geometry import ReadPlan
from wsi_espnet.slides.zarr_source import TISSUE_LABEL

TISSUE_CLASSES = ClassTable(
    name="tissue",
    classes=(
        TissueClass(id=0, name="glass", color=(255, 255, 255)),
        TissueClass(id=1, name="tissue", color=(0, 160, 80)),
    ),
    glass=0,
)
"""What the ids of the label image ``tissue`` mean."""

_CHUNK_CELLS = 2048
_ZSTD = ZstdCodec(level=1, checksum=True)


def write_tissue(
    labels: zarr.Group, plan: ReadPlan, mask: NDArray[np.bool_], *, levels: int, in_um: bool = True
) -> None:
    """Write a mask (rows, columns) into the group ``labels``, each level every other cell of the one before.

    Parameters
    ----------
    labels
        The group; its list of label images is the caller's business.
    plan
        The image that the cells cover evenly.
    mask
        True where there is tissue.
    levels
        How many the image has: NGFF wants as many here.
    in_um
        False where the scale is not known.
    """
    cell = plan.shape[0] / mask.shape[0], plan.shape[1] / mask.shape[1]
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
        part = mask[:: 2**k, :: 2**k].astype(np.uint8)
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


def tissue_digest(mask: NDArray[np.bool_]) -> str:
    """SHA-256 of a mask's shape and cells, as hexadecimal digits."""
    return hashlib.sha256(f"{mask.shape}".encode() + np.packbits(mask).tobytes()).hexdigest()
