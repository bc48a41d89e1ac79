"""Find the largest glands in a finished mask: where they lie on the slide and how large they are.

    python examples/largest_glands.py OUT/SLIDE.ome.zarr

The mask is an ordinary OME-Zarr: names and scale come from its metadata, and this package is not needed to read it.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from scipy import ndimage

LEVEL = 2
"""A px of this level is four px of the mask wide: fine enough for a gland. A small mask may end before."""

SHOWN = 5


def main(mask: Path) -> None:
    """Print the largest connected areas of every class but the first."""
    labels = zarr.open_group(mask / "labels" / "classes", mode="r")
    ome: Any = labels.attrs["ome"]
    names = {entry["label-value"]: entry["class"] for entry in ome["image-label"]["properties"]}
    levels = ome["multiscales"][0]["datasets"]
    level = levels[min(LEVEL, len(levels) - 1)]
    scale, translation = level["coordinateTransformations"]
    um_per_px, origin_um = np.array(scale["scale"]), np.array(translation["translation"])

    ids = np.asarray(labels[level["path"]])  # (h, w) uint8
    for id_ in sorted(set(np.unique(ids).tolist()) - {0}):
        components, count = ndimage.label(ids == id_)
        areas_mm2 = np.bincount(components.ravel())[1:] * um_per_px.prod() / 1e6
        print(f"{names[id_]}: {count}")
        for place in np.argsort(-areas_mm2)[:SHOWN]:
            y, x = origin_um + um_per_px * ndimage.center_of_mass(components == place + 1)
            print(f"  {areas_mm2[place]:.3f} mm2 around x {x / 1000:.2f} mm, y {y / 1000:.2f} mm")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
