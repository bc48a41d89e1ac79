"""JPEG tiles of a TIFF slide, decoded straight into place: the px that OpenSlide gives, in a fraction of the time.

OpenSlide draws every tile on a canvas of premultiplied BGRA, which takes several times as long as decoding it. A level
whose tiles are plain JPEG needs no canvas. OpenSlide stays the judge: a level is read this way only if its heaviest
tile comes out equal to the last bit, and what cannot be read this way is left to OpenSlide, which says why.
"""

from __future__ import annotations

import logging
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import simplejpeg
import tifffile
from numpy.typing import NDArray

from wsi_espnet.errors import SlideReadError
from wsi_espnet.geometry import Level, Region

log = logging.getLogger(__name__)

Judge = Callable[[Level, Region], NDArray[np.uint8]]

FORMATS = frozenset({"aperio", "generic-tiff"})
"""OpenSlide's names of the formats whose levels are TIFF images of their own, placed at 0, 0."""

LARGEST_TILE_PX = 512
"""Longest side of a tile: larger ones are left to OpenSlide, which keeps them for the next read of a part."""

_START = b"\xff\xd8"
_END = b"\xff\xd9"
_NOT_CONVERTED = b"\xff\xee\x00\x0eAdobe\x00\x64" + bytes(5)
"""Adobe's marker (Adobe TN 5116, section 18): transform 0, RGB is stored. Without it decoders take it for YCbCr."""

_COLOURS: dict[int, str] = {tifffile.PHOTOMETRIC.RGB: "RGB", tifffile.PHOTOMETRIC.YCBCR: "YCBCR"}


@dataclass(frozen=True, slots=True, eq=False)
class JpegTiles:
    """The tiles of one level; safe to read by many threads at once.

    Parameters
    ----------
    path
        The TIFF file.
    shape
        (height, width) of the level in px.
    tile
        (height, width) of a tile; those at the far edges are as large, filled with anything.
    offsets, counts
        int64 (tiles,): where each tile starts in the file and how many bytes it has, row by row.
    tables
        JPEG tables that the tiles share, or None.
    colours
        What the three channels are in the file, ``RGB`` or ``YCBCR``.
    """

    path: Path
    shape: tuple[int, int]
    tile: tuple[int, int]
    offsets: NDArray[np.int64]
    counts: NDArray[np.int64]
    tables: bytes | None
    colours: str

    def read(self, region: Region) -> NDArray[np.uint8]:
        """Level px of a region inside the level: uint8 (h, w, 3), RGB.

        Raises
        ------
        SlideReadError
            The file is away, or a tile is cut short or no sound JPEG.
        """
        out = np.empty((*region.shape, 3), np.uint8)
        try:
            file = self.path.open("rb")  # a handle of its own: threads do not share a position
        except OSError as exc:
            raise SlideReadError(f"{self.path} cannot be opened: {exc}") from exc
        with file:
            for index, y, x in self._over(region):
                px = self._decoded(self._stored(file, index), index)
                top, left = max(y, region.y), max(x, region.x)
                bottom = min(y + self.tile[0], region.y + region.h)
                right = min(x + self.tile[1], region.x + region.w)
                into = out[top - region.y : bottom - region.y, left - region.x : right - region.x]
                into[:] = px[top - y : bottom - y, left - x : right - x]
        return out

    @property
    def heaviest(self) -> Region:
        """Where the tile with most bytes lies: the one with most to tell."""
        y, x = divmod(int(self.counts.argmax()), self._across)
        y, x = y * self.tile[0], x * self.tile[1]
        return Region(y, x, min(self.tile[0], self.shape[0] - y), min(self.tile[1], self.shape[1] - x))

    @property
    def _across(self) -> int:
        return -(-self.shape[1] // self.tile[1])

    def _over(self, region: Region) -> Iterator[tuple[int, int, int]]:
        """Index and corner (y, x) of each tile that a region meets."""
        height, width = self.tile
        for row in range(region.y // height, -(-(region.y + region.h) // height)):
            for column in range(region.x // width, -(-(region.x + region.w) // width)):
                yield row * self._across + column, row * height, column * width

    def _stored(self, file: BinaryIO, index: int) -> bytes:
        try:
            file.seek(self.offsets[index])
            return file.read(self.counts[index])
        except OSError as exc:
            raise SlideReadError(f"{self.path}: tile {index} cannot be read: {exc}") from exc

    def _decoded(self, data: bytes, index: int) -> NDArray[np.uint8]:
        if len(data) != self.counts[index] or not data.startswith(_START):
            raise SlideReadError(f"{self.path}: tile {index} is cut short, or no JPEG")
        head = _START + (_NOT_CONVERTED if self.colours == "RGB" else b"")
        if self.tables is not None:
            head += self.tables.removeprefix(_START).removesuffix(_END)
        try:
            # Strict: what libjpeg only warns of, such as an end that is missing, is damage, as it is to OpenSlide.
            px: NDArray[np.uint8] = simplejpeg.decode_jpeg(head + data.removeprefix(_START), "RGB", strict=True)
        except ValueError as exc:
            raise SlideReadError(f"{self.path}: tile {index} is no sound JPEG: {exc}") from exc
        if px.shape != (*self.tile, 3):
            raise SlideReadError(f"{self.path}: tile {index} is of {px.shape[0]} x {px.shape[1]} px")
        return px


def find_jpeg_tiles(path: Path, levels: Sequence[Level], judge: Judge) -> dict[int, JpegTiles]:
    """Levels of a TIFF slide that can be read tile by tile, by their index.

    Parameters
    ----------
    path, levels
        The file, and what OpenSlide says of it.
    judge
        Reads a region of a level through OpenSlide: uint8 (h, w, 3), or raises SlideReadError.
    """
    try:
        with tifffile.TiffFile(path) as file:
            tiled = [page for page in file.pages if isinstance(page, tifffile.TiffPage) and page.is_tiled]
            # Where the downsample is no whole number OpenSlide interpolates: no tile can stand for all.
            whole = [level for level in levels if level.downsample.is_integer()]
            candidates = [(level, _of_level(path, level, tiled)) for level in whole]
    except (tifffile.TiffFileError, OSError, ValueError, LookupError, struct.error) as exc:
        # OpenSlide has opened the file: tags that tifffile stumbles over are no error.
        log.info("%s is read through OpenSlide alone: %s", path, exc)
        return {}
    return {level.index: tiles for level, tiles in candidates if tiles is not None and _agree(tiles, level, judge)}


def _of_level(path: Path, level: Level, tiled: list[tifffile.TiffPage]) -> JpegTiles | None:
    pages = [page for page in tiled if (page.imagelength, page.imagewidth) == level.shape]
    return _tiles(path, pages[0]) if len(pages) == 1 else None


def _tiles(path: Path, page: tifffile.TiffPage) -> JpegTiles | None:
    """The page's tiles, where they are JPEG of three 8-bit channels and none is missing."""
    colours = _COLOURS.get(page.photometric)
    is_plain = (page.compression, page.bitspersample, page.samplesperpixel, page.planarconfig) == (
        tifffile.COMPRESSION.JPEG,
        8,
        3,
        tifffile.PLANARCONFIG.CONTIG,
    )
    if colours is None or not is_plain or max(page.tilelength, page.tilewidth) > LARGEST_TILE_PX:
        return None
    tiles = JpegTiles(
        path=path,
        shape=(page.imagelength, page.imagewidth),
        tile=(page.tilelength, page.tilewidth),
        offsets=np.asarray(page.dataoffsets, np.int64),
        counts=np.asarray(page.databytecounts, np.int64),
        tables=page.jpegtables,
        colours=colours,
    )
    wanted = -(-tiles.shape[0] // tiles.tile[0]) * tiles._across
    is_whole = len(tiles.offsets) == len(tiles.counts) == wanted and tiles.counts.min() > 0
    return tiles if is_whole else None


def _agree(tiles: JpegTiles, level: Level, judge: Judge) -> bool:
    region = tiles.heaviest
    try:
        return np.array_equal(tiles.read(region), judge(level, region))
    except SlideReadError:
        return False
