"""Segment a slide and say what covers it.

    python examples/segment_a_slide.py [SLIDE [OUT]]

Without a slide, the sample slide "colon" is made in the current folder and used.
"""

from __future__ import annotations

import sys
from pathlib import Path

import wsi_espnet
from wsi_espnet.slides.sample import make_sample


def main(slide: Path, out: Path) -> None:
    """Segment `slide` into `out`."""
    result = wsi_espnet.segment(slide, out)
    print(f"{slide.name}: {result.areas.tissue_mm2:.2f} mm2 of tissue in {result.windows} windows")
    for covered in result.areas.classes:
        print(f"  {covered.name:<20} {covered.mm2:6.2f} mm2  {covered.share_of_tissue:6.1%}")
    for failure in result.failures:
        print(f"  the window at {failure.core} could not be read: {failure.cause}")
    print(f"mask {result.path}, overview {result.overview}")


if __name__ == "__main__":
    given = [Path(argument) for argument in sys.argv[1:]]
    main(given[0] if given else make_sample("colon", Path()), given[1] if len(given) > 1 else Path("out"))
