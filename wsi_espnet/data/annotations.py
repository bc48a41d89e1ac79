"""What people drew on slides: outlines in QuPath's GeoJSON or ASAP's XML, or a mask; as class ids of any region."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import tifffile
import zarr
from numpy.typing import NDArray

from wsi_espnet.classes import UNLABELLED
from wsi_espnet.data.folder import ClassFile
from wsi_espnet.data.pictures import UNKNOWN, Lookup
from wsi_espnet.errors import DataError
from wsi_espnet.geometry import ReadPlan, Region
from wsi_espnet.slides.rings import Ring, cover, fill
from wsi_espnet.slides.source import PixelSource
from wsi_espnet.slides.tissue_file import ASPECT, MAX_MASK_PX, polygons_of, ring_of

LABELS = Path("labels") / "classes"
"""Where an OME-Zarr that `wsi-espnet segment` wrote holds its mask."""

Named = tuple[str, list[Ring]]
"""Name of an outline's class, and its rings: corners (y, x) in level-0 px, the outline first and then holes."""


class Annotation(Protocol):
    """Class ids over a slide."""

    def labels(self, plan: ReadPlan, region: Region) -> NDArray[np.uint8]:
        """Class id of the centre of each px of a region (plan px): (h, w) uint8, 255 where ignored."""
        ...

    def cells(self, plan: ReadPlan, shape: tuple[int, int]) -> NDArray[np.uint8]:
        """Which class to look for where: (rows, cols) uint8 of a coarse grid over the plan's image."""
        ...


def open_annotation(path: Path, source: PixelSource, file: ClassFile) -> Annotation:
    """The annotation of a slide.

    Parameters
    ----------
    path
        ``.geojson``, ``.json``: polygons with QuPath's classification, in level-0 px from the corner of the slide's
        bounds, which is how QuPath shows and exports a slide. ``.xml``: polygons and rectangles of ASAP (Camelyon),
        in level-0 px of the whole slide. ``.tif``, ``.tiff``, or the folder of an OME-Zarr label image or of a
        result of `wsi-espnet segment`: a mask over the slide's bounds, at any size.
    source
        The slide.
    file
        What names and values mean.

    Raises
    ------
    DataError
        The file is missing, damaged, of another kind or shape, or names a class that `file` does not have.
    """
    if not path.exists():
        raise DataError(f"the annotation {path} is missing")
    kind = path.suffix.lower()
    if kind in (".geojson", ".json"):
        corner = np.array([source.bounds_l0.y, source.bounds_l0.x], np.float64)
        return Outlines.of(path, [(name, [ring + corner for ring in rings]) for name, rings in _geojson(path)], file)
    if kind == ".xml":
        return Outlines.of(path, _asap(path), file)
    if kind in (".tif", ".tiff") or path.is_dir():
        levels = _zarr_levels(path) if path.is_dir() else _tiff_levels(path)
        return Mask.of(path, levels, source, file.lookup)
    raise DataError(f"an annotation is a .geojson, .json, .xml, .tif, .tiff or an OME-Zarr, got {path.name}")


@dataclass(frozen=True, slots=True)
class Outlines:
    """Polygons with classes; where two overlap, the smaller lies on top, as a hole that was drawn as a region does.

    Parameters
    ----------
    polygons
        (class id, rings), the largest first.
    boxes_l0
        (n, 4) their top, left, bottom, right.
    outside
        Class id of px that no polygon holds, or 255.
    """

    polygons: tuple[tuple[int, list[Ring]], ...]
    boxes_l0: NDArray[np.float64]
    outside: int

    @classmethod
    def of(cls, path: Path, named: list[Named], file: ClassFile) -> Outlines:
        """From the outlines of a file."""
        ids = file.annotations
        unknown = sorted({name for name, _ in named} - ids.keys())
        if unknown:
            raise DataError(
                f"{path} holds outlines of {', '.join(map(repr, unknown))}, which classes.toml has not; known are "
                f"{', '.join(ids)}; add a name to a class's annotations, or to ignored_annotations"
            )
        if not named:
            raise DataError(f"{path} holds no outlines")
        named = sorted(named, key=lambda outline: -_area(outline[1][0]))
        outside = file.id_of(file.outside)
        return cls(
            polygons=tuple((ids[name], rings) for name, rings in named),
            boxes_l0=np.array([[*rings[0].min(axis=0), *rings[0].max(axis=0)] for _, rings in named]),
            outside=UNLABELLED if outside is None else outside,
        )

    def labels(self, plan: ReadPlan, region: Region) -> NDArray[np.uint8]:
        """As in `Annotation`."""
        out = np.full(region.shape, self.outside, np.uint8)
        corner = np.array([region.y, region.x], np.float64)
        for index in self._meeting(plan, region):
            id_, rings = self.polygons[index]
            in_px = [(ring - plan.origin_l0) / plan.l0_per_px - corner for ring in rings]
            out[fill([in_px], region.shape)] = id_
        return out

    def cells(self, plan: ReadPlan, shape: tuple[int, int]) -> NDArray[np.uint8]:
        """As in `Annotation`; of what a cell touches it is the smallest, so that none is lost."""
        out = np.full(shape, self.outside, np.uint8)
        l0_per_cell = np.divide(plan.shape, shape) * plan.l0_per_px
        for id_, rings in self.polygons:
            out[cover([[(ring - plan.origin_l0) / l0_per_cell for ring in rings]], shape)] = id_
        return out

    def _meeting(self, plan: ReadPlan, region: Region) -> list[int]:
        """Polygons whose box meets a region, in their order."""
        low = np.array(plan.origin_l0) + np.multiply((region.y, region.x), plan.l0_per_px)
        high = low + np.multiply(region.shape, plan.l0_per_px)
        apart = (self.boxes_l0[:, :2] >= high).any(axis=1) | (self.boxes_l0[:, 2:] <= low).any(axis=1)
        return [int(index) for index in np.flatnonzero(~apart)]


@dataclass(frozen=True, slots=True)
class TiffLevel:
    """One level of a TIFF file, of which a part is read like that of an array; the file is open only meanwhile."""

    path: Path
    index: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    def __getitem__(self, part: tuple[slice, slice]) -> NDArray[Any]:
        with tifffile.imread(self.path, aszarr=True, level=self.index) as store:
            array: Any = zarr.open_array(store, mode="r")
            return np.asarray(array[part])


@dataclass(frozen=True, slots=True, eq=False)
class Mask:
    """An image of ids that covers a slide's bounds evenly; the px that holds a point says its class.

    Parameters
    ----------
    path
        Of the file, for messages.
    levels
        Arrays (h, w) that are read piece by piece, finest first.
    bounds_l0
        What they cover.
    lookup
        What the values mean.
    """

    path: Path
    levels: tuple[Any, ...]
    bounds_l0: Region
    lookup: Lookup

    @classmethod
    def of(cls, path: Path, levels: tuple[Any, ...], source: PixelSource, lookup: Lookup) -> Mask:
        """From the levels of a file, which must be of the slide's shape."""
        if levels[0].ndim != 2 or levels[0].dtype.kind not in "uib":
            raise DataError(f"{path} must hold one id per px, got {levels[0].dtype} of shape {levels[0].shape}")
        (h, w), (H, W) = levels[0].shape, source.bounds_l0.shape
        if abs(w - h * W / H) > max(1, ASPECT * w) and abs(h - w * H / W) > 1:
            raise DataError(
                f"{path} has {w} x {h} px (width x height) and is {w / h:.4g} times as wide as high, but "
                f"{source.path.name} is {W / H:.4g} times; a mask covers the whole slide inside its bounds"
            )
        return cls(path, levels, source.bounds_l0, lookup)

    def labels(self, plan: ReadPlan, region: Region) -> NDArray[np.uint8]:
        """As in `Annotation`.

        Raises
        ------
        DataError
            The mask is damaged there, or holds a value that no class has.
        """
        rows = self._px(0, region.y + np.arange(region.h) + 0.5, plan, self.levels[0])
        cols = self._px(1, region.x + np.arange(region.w) + 0.5, plan, self.levels[0])
        ids = self._ids(self._read(self.levels[0], rows, cols))
        wrong = np.unique(ids[1][ids[0] == UNKNOWN])
        if len(wrong):
            raise DataError(f"{self.path} holds the ids {', '.join(map(str, wrong))}, which no class has")
        return ids[0].astype(np.uint8)

    def cells(self, plan: ReadPlan, shape: tuple[int, int]) -> NDArray[np.uint8]:
        """As in `Annotation`, by the centres of cells, in the coarsest level that is fine enough."""
        fine = [level for level in self.levels if level.shape[0] >= shape[0] and level.shape[1] >= shape[1]]
        level = fine[-1] if fine else self.levels[0]
        if level.shape[0] * level.shape[1] > MAX_MASK_PX:
            raise DataError(f"{self.path} has more than {MAX_MASK_PX} px and no coarser level; save it as a pyramid")
        rows, cols = ((np.arange(n, dtype=np.float64) + 0.5) * (plan.shape[axis] / n) for axis, n in enumerate(shape))
        px = self._read(level, self._px(0, rows, plan, level), self._px(1, cols, plan, level))
        ids, _ = self._ids(px)
        return np.where(ids == UNKNOWN, UNLABELLED, ids).astype(np.uint8)

    def _px(self, axis: int, at: NDArray[np.floating[Any]], plan: ReadPlan, level: Any) -> NDArray[np.int64]:
        """Px of a level along one axis at positions in plan px."""
        start, extent = (self.bounds_l0.y, self.bounds_l0.h) if axis == 0 else (self.bounds_l0.x, self.bounds_l0.w)
        l0 = plan.origin_l0[axis] + at * plan.l0_per_px[axis] - start
        last = int(level.shape[axis]) - 1
        px: NDArray[np.int64] = np.floor(l0 * ((last + 1) / extent)).astype(np.int64)
        return np.clip(px, 0, last)

    def _read(self, level: Any, rows: NDArray[np.int64], cols: NDArray[np.int64]) -> NDArray[Any]:
        try:
            part = np.asarray(level[rows[0] : rows[-1] + 1, cols[0] : cols[-1] + 1])
        except (OSError, ValueError, RuntimeError) as exc:
            raise DataError(f"{self.path} cannot be read, it is damaged: {type(exc).__name__}: {exc}") from exc
        return part[np.ix_(rows - rows[0], cols - cols[0])]

    def _ids(self, px: NDArray[Any]) -> tuple[NDArray[np.int16], NDArray[Any]]:
        inside = (px >= 0) & (px < len(self.lookup))
        return np.where(inside, self.lookup[np.where(inside, px, 0).astype(np.int64)], UNKNOWN), px


def _geojson(path: Path) -> list[Named]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        return [(name, [ring_of(ring) for ring in polygon]) for name, polygon in _classified(document)]
    except (OSError, ValueError, TypeError, KeyError, AttributeError, IndexError) as exc:
        raise DataError(f"{path} is not GeoJSON of classified Polygons ({type(exc).__name__}: {exc})") from exc


def _classified(node: Any) -> Iterator[tuple[str, list[Any]]]:
    """Class name and coordinates of all polygons; a bare list is QuPath's list of features."""
    if isinstance(node, dict) and node["type"] == "FeatureCollection":
        node = node["features"]
    for feature in node if isinstance(node, list) else [node]:
        if feature["type"] != "Feature":
            raise ValueError(f"it holds a {feature['type']} without a class; wanted are Features")
        classification = (feature.get("properties") or {}).get("classification") or {}
        name = classification.get("name", "unclassified")
        yield from ((name, polygon) for polygon in polygons_of(feature["geometry"]))


def _asap(path: Path) -> list[Named]:
    try:
        found = ET.parse(path).iter("Annotation")
        return [(str(node.attrib["PartOfGroup"]), [_asap_ring(node)]) for node in found]
    except (ET.ParseError, KeyError, ValueError, OSError) as exc:
        raise DataError(f"{path} is not ASAP's XML of Polygons ({type(exc).__name__}: {exc})") from exc


def _asap_ring(node: ET.Element) -> Ring:
    if node.attrib["Type"] not in ("Polygon", "Rectangle"):
        raise ValueError(f"it holds a {node.attrib['Type']}; draw it as a Polygon")
    corners = sorted(node.iter("Coordinate"), key=lambda corner: int(float(corner.attrib["Order"])))
    return ring_of([(float(corner.attrib["X"]), float(corner.attrib["Y"])) for corner in corners])


def _tiff_levels(path: Path) -> tuple[Any, ...]:
    try:
        with tifffile.TiffFile(path) as tif:
            levels = tif.series[0].levels
            return tuple(TiffLevel(path, i, tuple(level.shape), level.dtype) for i, level in enumerate(levels))
    except (tifffile.TiffFileError, OSError, ValueError, IndexError, KeyError, RuntimeError) as exc:
        raise DataError(f"{path} cannot be read as a TIFF image: {exc}; save it again") from exc


def _zarr_levels(path: Path) -> tuple[Any, ...]:
    folder = path / LABELS if (path / LABELS).is_dir() else path
    try:
        group = zarr.open_group(folder, mode="r", zarr_format=3)
        ome: Any = group.attrs["ome"]
        return tuple(group[dataset["path"]] for dataset in ome["multiscales"][0]["datasets"])
    except (OSError, ValueError, KeyError, TypeError, IndexError) as exc:
        raise DataError(f"{folder} is not an OME-Zarr 0.5 label image ({type(exc).__name__}: {exc})") from exc


def _area(ring: Ring) -> float:
    """Area inside a ring, in its own px."""
    y, x = (ring - ring[0]).T
    return abs(float(np.dot(y, np.roll(x, 1)) - np.dot(x, np.roll(y, 1)))) / 2
