"""A slide as a read-only Zarr v3 group: chunked arrays for Dask, napari and others, without a copy.

Keys of the store, as Zarr v3 names them; every key below is made up when it is asked for:

    zarr.json                       the group, with NGFF 0.5 metadata
    0/zarr.json                     level 0: uint8 (3, height, width) of the slide's bounds
    0/c/0/<row>/<column>            one chunk of it: (3, 1024, 1024) bytes, one read of the slide
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.abc.store import ByteRequest, OffsetByteRequest, RangeByteRequest, Store, SuffixByteRequest
from zarr.core.buffer import Buffer, BufferPrototype

from wsi_espnet import ngff
from wsi_espnet.errors import SlideReadError
from wsi_espnet.geometry import Level, Region
from wsi_espnet.slides.resample import valid_part
from wsi_espnet.slides.slide import Slide
from wsi_espnet.slides.zarr_source import ZarrSource

CHUNK_PX = 1024
"""Side of a chunk: 3 MiB, one read of about 20 ms, and whole tiles of the usual sides."""


OnUnreadable = Callable[[SlideReadError], None]


def zarr_view(slide: Slide | ZarrSource, *, on_unreadable: OnUnreadable | None = None) -> zarr.Group:
    """A slide, or an OME-Zarr image, as a Zarr group of one array per level: uint8 (3, height, width), not copied.

    The arrays hold the part of each level inside the slide's bounds; the NGFF metadata say where it lies.
    To read a chunk is to read the slide. A chunk that cannot be read raises `SlideReadError`, unless
    `on_unreadable` is there to be told of it: the chunk is then magenta, as what could not be labelled is
    (`ngff.UNLABELLED_COLOR`). To write raises ValueError.

    Examples
    --------
    Lazily, with Dask::

        level = dask.array.from_zarr(zarr_view(Slide("slide.svs"))["0"])
        corner = level[:, :512, :512].compute()
    """
    return zarr.open_group(SlideStore(slide, on_unreadable), mode="r", zarr_format=3)


class SlideStore(Store):
    """A Zarr store whose values are read from a slide when they are asked for; writing raises ValueError."""

    supports_writes = False
    supports_deletes = False
    supports_listing = True

    def __init__(self, slide: Slide | ZarrSource, on_unreadable: OnUnreadable | None = None) -> None:
        super().__init__(read_only=True)
        self._slide = slide
        self._on_unreadable = on_unreadable
        self._parts = [valid_part(level, slide.bounds_l0) for level in slide.levels]
        self._documents = {"zarr.json": _group_document(slide, self._parts)}
        for index, part in enumerate(self._parts):
            self._documents[f"{index}/zarr.json"] = _array_document(part)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SlideStore) and other._slide is self._slide

    def __repr__(self) -> str:
        return f"SlideStore({self._slide!r})"

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        """Bytes of one document or chunk; None for keys that the store does not have."""
        if key in self._documents:
            data = self._documents[key]
        else:
            chunk = self._chunk_of(key)
            if chunk is None:
                return None
            data = await asyncio.to_thread(self._read_chunk, *chunk)
        return prototype.buffer.from_bytes(data[_slice(byte_range)])

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        """Bytes of several keys, in their order."""
        return list(await asyncio.gather(*(self.get(key, prototype, part) for key, part in key_ranges)))

    async def exists(self, key: str) -> bool:
        """Whether the store has a key; nothing is read."""
        return key in self._documents or self._chunk_of(key) is not None

    async def set(self, key: str, value: Buffer) -> None:
        """Raise ValueError: a slide is not written to."""
        self._check_writable()

    async def delete(self, key: str) -> None:
        """Raise ValueError: a slide is not written to."""
        self._check_writable()

    async def list(self) -> AsyncIterator[str]:
        """All keys."""
        for key in self._keys():
            yield key

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        """All keys that begin with `prefix`."""
        for key in self._keys():
            if key.startswith(prefix):
                yield key

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """Names of the keys and folders directly in the folder `prefix`."""
        folder = f"{prefix.rstrip('/')}/" if prefix else ""
        names = {key[len(folder) :].split("/", 1)[0]: None for key in self._keys() if key.startswith(folder)}
        for name in names:
            yield name

    def _keys(self) -> Iterator[str]:
        yield from self._documents
        for index, part in enumerate(self._parts):
            rows, columns = _chunk_counts(part)
            yield from (f"{index}/c/0/{row}/{column}" for row in range(rows) for column in range(columns))

    def _chunk_of(self, key: str) -> tuple[int, int, int] | None:
        """(level, row, column) of a chunk's key; None for any other."""
        names = key.split("/")
        if len(names) != 5 or names[1:3] != ["c", "0"] or not all(n.isdecimal() for n in (names[0], *names[3:])):
            return None
        index, row, column = int(names[0]), int(names[3]), int(names[4])
        if index >= len(self._parts):
            return None
        rows, columns = _chunk_counts(self._parts[index])
        return (index, row, column) if row < rows and column < columns else None

    def _read_chunk(self, index: int, row: int, column: int) -> bytes:
        part = self._parts[index]
        y, x = row * CHUNK_PX, column * CHUNK_PX
        h, w = min(CHUNK_PX, part.h - y), min(CHUNK_PX, part.w - x)
        try:
            px = self._slide.read_level(self._slide.levels[index], Region(part.y + y, part.x + x, h, w))
        except SlideReadError as exc:
            if self._on_unreadable is None:
                raise
            self._on_unreadable(exc)
            px = np.full((h, w, 3), ngff.UNLABELLED_COLOR, np.uint8)
        return _padded(px).tobytes()


def _padded(px: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Px (h, w, 3) as a whole chunk (3, CHUNK_PX, CHUNK_PX), white beyond them."""
    chunk = np.full((3, CHUNK_PX, CHUNK_PX), 255, np.uint8)
    chunk[:, : px.shape[0], : px.shape[1]] = np.moveaxis(px, -1, 0)
    return chunk


def _chunk_counts(part: Region) -> tuple[int, int]:
    return -(-part.h // CHUNK_PX), -(-part.w // CHUNK_PX)


def _slice(byte_range: ByteRequest | None) -> slice:
    match byte_range:
        case RangeByteRequest(start, end):
            return slice(start, end)
        case OffsetByteRequest(offset):
            return slice(offset, None)
        case SuffixByteRequest(suffix):
            return slice(-suffix, None)
    return slice(None)


def _group_document(slide: Slide | ZarrSource, parts: list[Region]) -> bytes:
    mpp = slide.mpp or (1.0, 1.0)
    origin_um = slide.plan(None).origin_um
    multiscale = ngff.multiscales(
        name=slide.path.stem,
        axes="cyx",
        levels=[_place(level, part, mpp, origin_um) for level, part in zip(slide.levels, parts, strict=True)],
        method=slide.vendor,
        in_um=slide.mpp is not None,
    )
    return _json({"zarr_format": 3, "node_type": "group", "attributes": ngff.image_attributes(multiscale)})


def _place(level: Level, part: Region, mpp: tuple[float, float], origin_um: tuple[float, float]) -> ngff.Placement:
    ds = level.downsample
    y, x = (start * ds + (ds - 1) / 2 for start in (part.y, part.x))
    return (mpp[0] * ds, mpp[1] * ds), (origin_um[0] + y * mpp[0], origin_um[1] + x * mpp[1])


def _array_document(part: Region) -> bytes:
    return _json(
        {
            "zarr_format": 3,
            "node_type": "array",
            "shape": [3, part.h, part.w],
            "data_type": "uint8",
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [3, CHUNK_PX, CHUNK_PX]}},
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
            "fill_value": 255,
            "codecs": [{"name": "bytes"}],
            "dimension_names": ["c", "y", "x"],
            "attributes": {},
        }
    )


def _json(document: dict[str, Any]) -> bytes:
    return json.dumps(document).encode()
