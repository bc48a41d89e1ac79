"""A tissue mask that the user gives: an image, or outlines in GeoJSON."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from wsi_espnet.errors import TissueError
from wsi_espnet.geometry import ReadPlan
from wsi_espnet.slides.rings import Ring, cover
from wsi_espnet.slides.source import PixelSource
from wsi_espnet.slides.tissue_mask import CELL_UM, MAX_CELLS, TissueMask, coarsen, grid_of

MAX_MASK_PX = 1_000_000_000
"""Largest mask image that is read, in px: it is held in memory once."""
ASPECT = 0.01
"""How far, as a share, the sides of a mask image may be from those of the slide; one px is always allowed."""


def load_tissue(path: str | Path, source: PixelSource, plan: ReadPlan) -> TissueMask:
    """Tissue as the user drew it: nothing is added to it but the cells that an outline cuts.

    Parameters
    ----------
    path
        ``.png``, ``.tif``, ``.tiff``: an image of the whole slide inside its bounds at any size, in which
        every px but 0 (black, or fully transparent) is tissue. ``.geojson``, ``.json``: Polygons and
        MultiPolygons with holes, alone, as Features or in a FeatureCollection, in level-0 px counted from
        the corner of the slide's bounds, (x, y), which is how QuPath shows and exports a slide; for a slide
        without bounds that corner is (0, 0).
    source
        The slide.
    plan
        The image that the mask is for.

    Raises
    ------
    TissueError
        The file is missing, damaged, of another kind or of another shape than the slide, or no tissue is in
        it.
    """
    path = Path(path)
    if not path.is_file():
        raise TissueError(f"the tissue file {path} does not exist")
    kind = path.suffix.lower()
    if kind in (".geojson", ".json"):
        mask = _from_outlines(path, source, plan)
    elif kind in (".png", ".tif", ".tiff"):
        mask = _from_image(path, source, plan)
    else:
        raise TissueError(
            f"a tissue file must be a .png, .tif, .tiff, .geojson or .json, got {path.name}; save a mask as "
            "PNG, which keeps it exactly"
        )
    if not mask.any():
        raise TissueError(f"no tissue is in {path}: nothing in it but 0, or no outline inside the slide")
    return TissueMask(mask, plan.shape, path.name)


def _from_image(path: Path, source: PixelSource, plan: ReadPlan) -> NDArray[np.bool_]:
    fine = _read_png(path) if path.suffix.lower() == ".png" else _read_tiff(path, grid_of(plan))
    (h, w), (H, W) = fine.shape, plan.shape
    if abs(w - h * W / H) > max(1, ASPECT * w) and abs(h - w * H / W) > 1:
        raise TissueError(
            f"{path.name} has {w} x {h} px (width x height) and is {w / h:.4g} times as wide as high, but "
            f"{source.path.name} is {W / H:.4g} times as wide as high; draw the mask over the whole slide"
        )
    shrink = max(1.0, math.sqrt(h * w / MAX_CELLS))
    return coarsen(fine, (min(math.ceil(h / shrink), H), min(math.ceil(w / shrink), W)))


def _read_png(path: Path) -> NDArray[np.bool_]:
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            with Image.open(path, formats=["PNG"]) as image:
                return _nonzero(np.asarray(image), path)
        except (Image.DecompressionBombWarning, Image.DecompressionBombError) as exc:
            raise TissueError(
                f"{path} has more than {Image.MAX_IMAGE_PIXELS} px; save it as TIFF, or coarser: "
                f"{CELL_UM:g} um per px are fine enough"
            ) from exc
        except (UnidentifiedImageError, OSError, SyntaxError) as exc:
            raise TissueError(f"{path} cannot be read as a PNG: {exc}; save it again") from exc


def _read_tiff(path: Path, least: tuple[int, int]) -> NDArray[np.bool_]:
    """Of a pyramid, the coarsest level that is still at least as fine as `least`."""
    try:
        with tifffile.TiffFile(path) as tif:
            levels = [
                lv for lv in tif.series[0].levels if lv.sizes["height"] >= least[0] and lv.sizes["width"] >= least[1]
            ]
            level = levels[-1] if levels else tif.series[0]
            if level.sizes["height"] * level.sizes["width"] > MAX_MASK_PX:
                raise TissueError(
                    f"{path} has more than {MAX_MASK_PX} px; save it coarser: {CELL_UM:g} um per px are fine enough"
                )
            return _nonzero(level.asarray(), path)
    except (tifffile.TiffFileError, OSError, IndexError, KeyError, RuntimeError) as exc:
        raise TissueError(f"{path} cannot be read as a TIFF image: {exc}; save it again") from exc


def _nonzero(array: NDArray[Any], path: Path) -> NDArray[np.bool_]:
    """Px of any colour but black that are not transparent: bool (h, w)."""
    if array.ndim == 2:
        array = array[..., np.newaxis]
    if array.ndim != 3 or array.shape[2] > 4:
        raise TissueError(f"{path} must be one image, grey or RGB, got an array of {array.shape}")
    has_alpha = array.shape[2] in (2, 4)
    mask: NDArray[np.bool_] = np.any(array[..., :-1] if has_alpha else array, axis=2)
    if has_alpha:
        mask &= array[..., -1] != 0
    return mask


def _from_outlines(path: Path, source: PixelSource, plan: ReadPlan) -> NDArray[np.bool_]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        polygons = [[ring_of(ring) for ring in polygon] for polygon in polygons_of(document)]
    except (OSError, ValueError, TypeError, KeyError, AttributeError, IndexError) as exc:
        raise TissueError(f"{path} is not GeoJSON of Polygons or MultiPolygons: {exc}; export it again") from exc
    grid = grid_of(plan)
    bounds_l0 = np.array([source.bounds_l0.y, source.bounds_l0.x])
    cells_per_l0 = np.divide(grid, np.multiply(plan.shape, plan.l0_per_px))
    in_cells = [[(ring + bounds_l0 - plan.origin_l0) * cells_per_l0 for ring in rings] for rings in polygons]
    return cover(in_cells, grid)


def polygons_of(node: Any) -> Iterator[list[Any]]:
    """Coordinates of all polygons under a GeoJSON node but empty ones; a bare list is QuPath's list of features.

    Raises
    ------
    ValueError, KeyError, TypeError
        It is no GeoJSON, or holds something without an area.
    """
    if isinstance(node, list):
        for child in node:
            yield from polygons_of(child)
        return
    match node["type"]:
        case "FeatureCollection":
            yield from polygons_of(node["features"])
        case "Feature":
            yield from polygons_of(node["geometry"])
        case "GeometryCollection":
            yield from polygons_of(node["geometries"])
        case "MultiPolygon":
            yield from filter(None, node["coordinates"])
        case "Polygon":
            yield from filter(None, [node["coordinates"]])
        case other:
            raise ValueError(f"it holds a {other}, which has no area")


def ring_of(coordinates: Any) -> Ring:
    """Corners (y, x) of a GeoJSON ring of (x, y).

    Raises
    ------
    ValueError
        It has fewer than three points, or one of them is not finite.
    """
    ring = np.array([[point[1], point[0]] for point in coordinates], dtype=np.float64)
    if len(ring) < 3 or not np.isfinite(ring).all():
        raise ValueError(f"a ring needs at least three points with finite coordinates, got {len(ring)} points")
    return ring
