"""A coarse map of where tissue lies, and how px of the full image look it up without spreading it out."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wsi_espnet.classes import UNLABELLED
from wsi_espnet.errors import TissueError
from wsi_espnet.geometry import ReadPlan, Region

CELL_UM = 8.0
"""Side of a cell: about a nucleus, so that a piece of tissue is many cells and one nucleus is none."""
MAX_CELLS = 64_000_000
"""Most cells of a mask: 64 MB held by every worker; at 8 um per cell that is a slide of 64 x 64 mm."""

GLASS, TISSUE, RIM = 0, 1, 2
"""What a cell is: glass, tissue, or what lies around tissue that was found, segmented for safety."""

_SLACK = 1e-6  # cells; keeps an edge that meets another but for rounding from reaching over it


@dataclass(frozen=True, slots=True, eq=False)
class TissueMask:
    """Which parts of a slide are segmented: a grid of cells that covers the plan's image evenly.

    Cell (i, j) covers the rows ``i * H / rows .. (i + 1) * H / rows`` of the image and the columns likewise;
    its size in px is the float ``shape / cells.shape`` and is never rounded, so that nothing drifts over a
    large slide.

    Parameters
    ----------
    cells
        uint8 (rows, cols) of `GLASS`, `TISSUE` and `RIM`, or bool, True for tissue; a cell is at least one px.
    shape
        (height, width) of the plan's image in px.
    origin
        Where the mask comes from: ``"auto"``, ``"none"``, or the name of a file.

    Raises
    ------
    TissueError
        The cells are not two-dimensional, or of another kind, or more than the image has px.
    """

    cells: NDArray[np.uint8] | NDArray[np.bool_]
    shape: tuple[int, int]
    origin: str

    def __post_init__(self) -> None:
        if self.cells.ndim != 2 or self.cells.dtype not in (np.bool_, np.uint8):
            raise TissueError(
                f"a tissue mask must be a bool or uint8 array (rows, cols), got {self.cells.dtype} {self.cells.shape}"
            )
        rows, cols = self.cells.shape
        if not (0 < rows <= self.shape[0] and 0 < cols <= self.shape[1]):
            raise TissueError(
                f"a tissue mask needs at least one cell and at most one per px of the {self.shape[0]} x "
                f"{self.shape[1]} image, got {rows} x {cols}; coarsen it"
            )

    def __repr__(self) -> str:
        rows, cols = self.cells.shape
        return f"TissueMask({rows} x {cols} cells over {self.shape[0]} x {self.shape[1]} px, {self.origin!r})"

    def sample(self, region: Region) -> NDArray[np.bool_]:
        """Whether each px of a region is segmented, being tissue or rim: bool (h, w), by the cell of the px's centre.

        Px outside of the image are not.
        """
        segmented: NDArray[np.bool_] = self._sample(region) != GLASS
        return segmented

    def counted(self, region: Region, labels: NDArray[np.uint8], *, glass: int) -> NDArray[np.bool_]:
        """Whether each px of a region counts in areas: bool (h, w).

        All tissue does. Of the rim, most of which is glass, only what was called something else: tissue after all.

        Parameters
        ----------
        region
            In px of the image.
        labels
            uint8 (h, w), ids of the region.
        glass
            Id of the class that glass belongs to; `UNLABELLED` where there is none, and the rim then counts wherever it
            is labelled.
        """
        cells = self._sample(region)
        counted: NDArray[np.bool_] = (cells == RIM) & (labels != glass) & (labels != UNLABELLED)
        counted |= cells == TISSUE
        return counted

    def _sample(self, region: Region) -> NDArray[np.uint8]:
        """The cell that holds the centre of each px: uint8 (h, w)."""
        rows = _cell_of_px(region.y, region.h, self.cells.shape[0], self.shape[0])
        cols = _cell_of_px(region.x, region.w, self.cells.shape[1], self.shape[1])
        inside_y = (rows >= 0) & (rows < self.cells.shape[0])
        inside_x = (cols >= 0) & (cols < self.cells.shape[1])
        out = np.full(region.shape, GLASS, dtype=np.uint8)
        if inside_y.any() and inside_x.any():
            rows, cols = rows[inside_y], cols[inside_x]
            # Across first, once per row of cells: what is left is whole rows to copy.
            across = np.full((rows[-1] - rows[0] + 1, region.w), GLASS, dtype=np.uint8)
            across[:, inside_x] = self.cells[rows[0] : rows[-1] + 1, cols]
            out[inside_y] = across[rows - rows[0]]
        return out

    def touches(self, region: Region) -> bool:
        """Whether any cell with tissue or rim overlaps the region, if only by a part of a px."""
        return bool(self.cells[self._cells_over(region)].any())

    def box(self, region: Region) -> Region | None:
        """Smallest region of whole px inside `region` that holds all its tissue and rim; None where there is none."""
        rows, cols = self._cells_over(region)
        part = self.cells[rows, cols]
        if not part.any():
            return None
        y0, y1 = _span(np.any(part, axis=1), rows.start, self.cells.shape[0], self.shape[0])
        x0, x1 = _span(np.any(part, axis=0), cols.start, self.cells.shape[1], self.shape[1])
        y0, y1 = max(y0, region.y), min(y1, region.y + region.h)
        x0, x1 = max(x0, region.x), min(x1, region.x + region.w)
        return Region(y0, x0, y1 - y0, x1 - x0)

    @property
    def has_rim(self) -> bool:
        """Whether it ends in glass, about 100 um from tissue: what is found does, what is drawn may cut through it."""
        return self.origin == "auto"

    @property
    def area_px(self) -> int:
        """Px of the image that are segmented: exact, counted without spreading the mask out."""
        per_row = _px_per_cell(self.cells.shape[0], self.shape[0])
        per_col = _px_per_cell(self.cells.shape[1], self.shape[1])
        total = 0
        for top in range(0, self.cells.shape[0], 256):  # a bool matrix is widened to int64 for the product
            part = slice(top, top + 256)
            total += int(per_row[part] @ ((self.cells[part] != GLASS) @ per_col))
        return total

    @property
    def fraction(self) -> float:
        """Share of the image's px that are segmented, 0..1."""
        return self.area_px / (self.shape[0] * self.shape[1])

    @property
    def nbytes(self) -> int:
        """Bytes of memory that the cells take."""
        return int(self.cells.nbytes)

    def _cells_over(self, region: Region) -> tuple[slice, slice]:
        return (
            _cells_between(region.y, region.y + region.h, self.cells.shape[0], self.shape[0]),
            _cells_between(region.x, region.x + region.w, self.cells.shape[1], self.shape[1]),
        )


def cell_um(plan: ReadPlan) -> float:
    """Size of a cell in um: `CELL_UM`, coarser where the image would have more than `MAX_CELLS` of them."""
    return max(CELL_UM, math.sqrt(plan.region.area * plan.um2_per_px / MAX_CELLS))


def grid_of(plan: ReadPlan) -> tuple[int, int]:
    """(rows, cols) of cells of `cell_um`, or of the plan's px where these are coarser."""
    size = cell_um(plan)
    h, w = (px * min(1.0, mpp / size) for px, mpp in zip(plan.shape, plan.mpp, strict=True))
    return math.ceil(h - _SLACK), math.ceil(w - _SLACK)


def coarsen(
    fine: NDArray[np.bool_],
    shape: tuple[int, int],
    *,
    rows: tuple[float, float] | None = None,
    cols: tuple[float, float] | None = None,
) -> NDArray[np.bool_]:
    """Bool mask of `shape`, a cell of which is True where any cell of `fine` overlaps it.

    Parameters
    ----------
    fine
        bool (rows, cols); may be coarser than `shape` too, a cell then looks at the few that it overlaps.
    shape
        (rows, cols) of the result.
    rows, cols
        (start, stop) of the part of `fine` that the result covers, in cells of `fine`: floats, which may
        reach a little beyond it. None is all of it.
    """
    half = _coarsen_rows(fine, shape[0], *(rows or (0.0, fine.shape[0])))
    return _coarsen_rows(half.T, shape[1], *(cols or (0.0, fine.shape[1]))).T.copy()


def _coarsen_rows(fine: NDArray[np.bool_], rows: int, start: float, stop: float) -> NDArray[np.bool_]:
    edges = start + np.arange(rows + 1) * ((stop - start) / rows)
    last = np.clip(np.ceil(edges[1:] - _SLACK).astype(np.int64) - 1, 0, len(fine) - 1)
    first = np.clip(np.floor(edges[:-1] + _SLACK).astype(np.int64), 0, last)
    out: NDArray[np.bool_] = np.take(fine, first, axis=0)
    for step in range(1, int((last - first).max()) + 1):
        out |= fine[np.minimum(first + step, last)]
    return out


def _cell_of_px(start: int, n: int, cells: int, px: int) -> NDArray[np.int64]:
    # The centre of px p lies at p + 1/2; in whole numbers, so that no float decides on which side of an edge
    # it is.
    centre2 = 2 * np.arange(start, start + n, dtype=np.int64) + 1
    return centre2 * cells // (2 * px)


def _px_per_cell(cells: int, px: int) -> NDArray[np.int64]:
    # Centres are odd halves: those left of edge i number ceil(i * px / cells - 1/2).
    edges = np.arange(cells + 1, dtype=np.int64)
    return np.diff(-(-(2 * edges * px - cells) // (2 * cells)))


def _cells_between(start: int, stop: int, cells: int, px: int) -> slice:
    start, stop = max(0, start), min(px, stop)
    if start >= stop:
        return slice(0, 0)
    return slice(start * cells // px, -(-stop * cells // px))


def _span(any_tissue: NDArray[np.bool_], first_cell: int, cells: int, px: int) -> tuple[int, int]:
    hit = np.flatnonzero(any_tissue)
    first, last = first_cell + int(hit[0]), first_cell + int(hit[-1])
    return first * px // cells, -(-(last + 1) * px // cells)
