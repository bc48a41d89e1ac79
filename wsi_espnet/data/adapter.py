"""What a data set is to this package: labelled samples in splits, one class table, one scale or none.

A data set is added by a class with the members of `Dataset`, in one file beside this one, and a line in
`wsi_espnet.data.catalog`. Whoever trains or evaluates knows nothing else about it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from wsi_espnet.classes import UNLABELLED, ClassTable
from wsi_espnet.errors import DataError

Lookup = NDArray[np.uint8]
"""(256,) uint8: the class id, or 255 for ignored, of each value that a mask file may hold."""


PICTURES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"})
"""Suffixes of pictures, in lower case."""


class Labelled(NamedTuple):
    """An image with its ground truth: RGB (h, w, 3) uint8, and class ids (h, w) uint8 with 255 where ignored."""

    rgb: NDArray[np.uint8]
    labels: NDArray[np.uint8]


class Sample(Protocol):
    """One image with its ground truth, not read yet; small and picklable, so that loader processes can be told."""

    @property
    def name(self) -> str:
        """Unique within its split; what findings and pictures call it."""
        ...

    def read(self) -> Labelled:
        """Read both.

        Raises
        ------
        DataError
            A file is missing or damaged, sizes differ, or the mask holds a value outside the class table.
        """
        ...


class Dataset(Protocol):
    """Samples of one data set.

    A class that implements it is constructed with the root folder (and what else it needs, keyword-only), and looks
    at the disk then; it raises `DataError` where the folder is not of its layout.
    """

    @property
    def name(self) -> str:
        """As in the catalog, such as ``camvid``."""
        ...

    @property
    def classes(self) -> ClassTable:
        """What the ids in `Labelled.labels` mean; 255 is ignored in training and in scores."""
        ...

    @property
    def mpp(self) -> float | None:
        """Um per px of every sample; None for photographs."""
        ...

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits that are there, such as ``train`` and ``val``."""
        ...

    def samples(self, split: str) -> Sequence[Sample]:
        """All samples of a split, in a fixed order.

        Raises
        ------
        DataError
            There is no such split; the message lists those that there are.
        """
        ...


@dataclass(frozen=True, slots=True, eq=False)
class FileSample:
    """A picture and a mask of ids (grey or palette) of the same size.

    Parameters
    ----------
    name
        Unique within its split.
    image, mask
        Any format that Pillow reads.
    lookup
        What the values of the mask mean; None takes them as class ids below `count`, or 255.
    count
        Number of classes.
    """

    name: str
    image: Path
    mask: Path
    count: int
    lookup: Lookup | None = None

    def read(self) -> Labelled:
        """Decode both files and translate the mask.

        Raises
        ------
        DataError
            A file is missing or damaged, sizes differ, or the mask holds a value outside the class table.
        """
        rgb = np.asarray(_open(self.image).convert("RGB"))
        ids = read_ids(self.mask)
        if ids.shape != rgb.shape[:2]:
            raise DataError(
                f"{self.mask} has {ids.shape[1]} x {ids.shape[0]} px and its image {self.image.name} "
                f"{rgb.shape[1]} x {rgb.shape[0]}; both must be of one size"
            )
        labels = ids if self.lookup is None else self.lookup[ids]
        wrong = sorted({int(v) for v in np.unique(labels)} - {*range(self.count), UNLABELLED})
        if wrong:
            raise DataError(
                f"{self.mask} holds the ids {', '.join(map(str, wrong))}, but there are {self.count} classes "
                f"(0..{self.count - 1}, and {UNLABELLED} for ignored)"
            )
        return Labelled(rgb, labels)


def read_ids(path: Path) -> NDArray[np.uint8]:
    """The values of a mask file, (h, w) uint8: grey values, palette indices, or R where R = G = B.

    Raises
    ------
    DataError
        It is missing or damaged, coloured, or holds values above 255.
    """
    image = _open(path)
    values = np.asarray(image)
    if values.ndim == 3 and (values == values[..., :1]).all():
        values = values[..., 0]
    if values.ndim != 2:
        raise DataError(f"{path} is a {image.mode} picture; a mask holds one id per px, as grey value or palette index")
    if values.dtype != np.uint8 and (values.min() < 0 or values.max() > UNLABELLED):
        raise DataError(f"{path} holds ids from {values.min()} to {values.max()}; wanted are 0..{UNLABELLED}")
    return values.astype(np.uint8)


def _open(path: Path) -> Image.Image:
    try:
        image = Image.open(path)
        image.load()
    except FileNotFoundError as exc:
        raise DataError(f"{path} is missing") from exc
    except (OSError, SyntaxError) as exc:  # Pillow raises SyntaxError for broken PNGs
        raise DataError(f"{path} cannot be read as a picture: {exc}") from exc
    return image


def pair_by_stem(images: Path, masks: Path) -> list[tuple[Path, Path]]:
    """Pictures of a folder with the masks of the same stem in another, sorted by name.

    Raises
    ------
    DataError
        A folder is missing or empty, or a picture or mask stands alone, or a stem occurs twice.
    """
    found = [_by_stem(folder) for folder in (images, masks)]
    alone = sorted(found[0].keys() ^ found[1].keys())
    if alone:
        raise DataError(
            f"{len(alone)} files in {images} and {masks} have no partner of the same name, such as {alone[0]}; "
            "each picture needs a mask"
        )
    return [(found[0][stem], found[1][stem]) for stem in sorted(found[0])]


def _by_stem(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        raise DataError(f"the folder {folder} is missing")
    files: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in PICTURES:
            continue
        if path.stem in files:
            raise DataError(f"{folder} holds {files[path.stem].name} and {path.name}; names must differ before the dot")
        files[path.stem] = path
    if not files:
        raise DataError(f"{folder} holds no pictures ({', '.join(sorted(PICTURES))})")
    return files
