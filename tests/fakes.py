"""Sources that record: a slide over a numpy array."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from wsi_espnet.errors import SlideReadError
from wsi_espnet.geometry import Level, ReadPlan, Region, plan_read


class ArraySource:
    """A one-level slide over an array; counts what is read from it.

    Parameters
    ----------
    array
        uint8 (h, w, 3), RGB; px outside of it read as white.
    mpp
        um per px, one number or (y, x).
    broken_l0
        Level-0 regions that raise `SlideReadError` when a read touches them.
    """

    def __init__(
        self,
        array: NDArray[np.uint8],
        mpp: float | tuple[float, float],
        *,
        broken_l0: tuple[Region, ...] = (),
    ) -> None:
        self.array = array
        self.path = Path("array.svs")
        self.vendor = "array"
        self.mpp: tuple[float, float] | None = mpp if isinstance(mpp, tuple) else (mpp, mpp)
        self.levels = (Level(0, (array.shape[0], array.shape[1]), 1.0),)
        self.bounds_l0 = Region(0, 0, array.shape[0], array.shape[1])
        self.broken_l0 = broken_l0
        self.reads: list[tuple[ReadPlan, Region]] = []

    @property
    def px_read(self) -> int:
        """Level-0 px decoded so far."""
        return sum(int(r.area * p.l0_per_px[0] * p.l0_per_px[1]) for p, r in self.reads)

    def plan(self, mpp: float | None, *, allow_upsampling: bool = False) -> ReadPlan:
        return plan_read(
            self.levels,
            slide_mpp=self.mpp,
            bounds_l0=self.bounds_l0,
            mpp=mpp,
            allow_upsampling=allow_upsampling,
        )

    def identity(self) -> dict[str, str | int | float]:
        return {"kind": "array", "sha256": hashlib.sha256(self.array.tobytes()).hexdigest()}

    def close(self) -> None:
        """An array needs no closing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def read(self, plan: ReadPlan, region: Region) -> NDArray[np.uint8]:
        self.reads.append((plan, region))
        (fy, fx), (oy, ox) = plan.l0_per_px, plan.origin_l0
        top, bottom = oy + region.y * fy, oy + (region.y + region.h) * fy
        left, right = ox + region.x * fx, ox + (region.x + region.w) * fx
        for r in self.broken_l0:
            if top < r.y + r.h and r.y < bottom and left < r.x + r.w and r.x < right:
                raise SlideReadError(f"{self.path} cannot be read at {region}")
        y0, x0, y1, x1 = math.floor(top), math.floor(left), math.ceil(bottom), math.ceil(right)
        part = np.full((y1 - y0, x1 - x0, 3), 255, np.uint8)
        inside = self.array[max(y0, 0) : max(y1, 0), max(x0, 0) : max(x1, 0)]
        part[max(-y0, 0) :, max(-x0, 0) :][: inside.shape[0], : inside.shape[1]] = inside
        box = (left - x0, top - y0, right - x0, bottom - y0)
        image = Image.fromarray(part).resize((region.w, region.h), Image.Resampling.BOX, box=box)
        return np.asarray(image)
