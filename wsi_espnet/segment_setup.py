"""What is decided before a slide is segmented: scale, tissue, windows, execution, memory. Nothing is written here."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from wsi_espnet.budget import Demand, MemoryPlan, plan_memory
from wsi_espnet.classes import UNLABELLED
from wsi_espnet.errors import ScaleError, UsageError
from wsi_espnet.geometry import ReadPlan
from wsi_espnet.grid import Grid, Window, core_of_window
from wsi_espnet.inference.backends import TORCH, choose_backend, choose_execution, network_bytes
from wsi_espnet.inference.predictor import Execution
from wsi_espnet.models.card import ModelCard
from wsi_espnet.models.network_config import ESPNETS
from wsi_espnet.slides.source import PixelSource
from wsi_espnet.slides.stored_tissue import tissue_digest
from wsi_espnet.slides.tissue import TissueMask, everything, find_tissue, lay_over, load_tissue
from wsi_espnet.slides.zarr_source import ZarrSource

FORMAT = 4
"""Counted up when the same inputs give other bytes."""

Stitch = Literal["blend", "crop"]
Index = tuple[int, int]


@dataclass(frozen=True, slots=True, eq=False)
class Setup:
    """Everything that a run follows from, once it is decided.

    Parameters
    ----------
    model, card
        File of the network, and what it is.
    plan
        At which scale and from which level the slide is read.
    tissue
        Where it is segmented.
    grid, windows
        How it is cut; windows with tissue by their index, in the order of the grid.
    execution
        How the network is run.
    memory
        How many windows at once, and what that needs.
    probabilities
        Whether they are kept.
    """

    model: Path
    card: ModelCard
    plan: ReadPlan
    tissue: TissueMask
    grid: Grid
    windows: dict[Index, Window]
    execution: Execution
    memory: MemoryPlan
    probabilities: bool

    @property
    def glass(self) -> int:
        """Id of px outside the tissue: the class that glass belongs to, unlabelled where there is none."""
        return UNLABELLED if self.card.classes.glass is None else self.card.classes.glass

    def fingerprint(self, source: PixelSource) -> dict[str, Any]:
        """Everything that the bytes of a result depend on, JSON-able."""
        return {
            "format": FORMAT,
            "source": source.identity(),
            "mpp": list(self.plan.mpp),
            "shape": list(self.plan.shape),
            "model": hashlib.sha256(self.model.read_bytes()).hexdigest(),
            "core": self.grid.core_px,
            "halo": self.grid.halo_px,
            "blend": self.grid.blend_px,
            "device": self.execution.device.partition(":")[0],
            "precision": self.execution.precision,
            "backend": self.execution.backend,
            "batch": self.execution.batch,
            "tissue": {"origin": self.tissue.origin, "sha256": tissue_digest(self.tissue.cells)},
            "probabilities": self.probabilities,
        }


def decide(
    source: PixelSource,
    *,
    model: str | Path,
    backend: str | None,
    mpp: float | None,
    allow_upsampling: bool,
    tissue: str | Path,
    window: int | None,
    halo: int | None,
    stitch: Stitch,
    device: str,
    precision: str,
    batch: int,
    workers: int | None,
    memory_bytes: int | None,
    probabilities: bool,
    execution: Execution | None = None,
) -> Setup:
    """Decide how to segment a source; the parameters are those of `wsi_espnet.segment.segment`.

    `execution` takes the place of what would be chosen for this machine: another one is going to run the network.

    Raises
    ------
    ScaleError, TissueError, ModelError, GeometryError, BudgetError, UsageError, DependencyError
        The run cannot work as it was asked for.
    """
    chosen = choose_backend(model, backend, precision=precision)
    path, card = chosen.path, chosen.card
    if card.network.architecture not in ESPNETS and chosen.backend != TORCH:
        raise UsageError(
            f"the model {card.name!r} is {card.network}, which torch alone runs on slides; leave out --backend"
        )
    plan = source.plan(_wanted_mpp(card, mpp), allow_upsampling=allow_upsampling)
    grid = _grid(plan, card, window=window, halo=halo, stitch=stitch)
    mask = _tissue(tissue, source, plan)
    windows = {w.index: w for w in grid.windows(mask.box)}
    if execution is None:
        execution = choose_execution(chosen, device=device, precision=precision, batch=batch)
    demand = _demand(windows, grid, mask, card, execution, probabilities=probabilities)
    return Setup(
        model=path,
        card=card,
        plan=plan,
        tissue=mask,
        grid=grid,
        windows=windows,
        execution=execution,
        memory=plan_memory(demand, workers=workers, budget_bytes=memory_bytes),
        probabilities=probabilities,
    )


def _wanted_mpp(card: ModelCard, mpp: float | None) -> float:
    wanted = card.mpp if mpp is None else mpp
    if wanted is None:
        raise ScaleError(
            f"the model {card.name!r} was not trained on slides and has no scale of its own; say at which one it is "
            "to run, for example --mpp 0.5"
        )
    return wanted


def _grid(plan: ReadPlan, card: ModelCard, *, window: int | None, halo: int | None, stitch: Stitch) -> Grid:
    if stitch not in ("blend", "crop"):
        raise UsageError(f"--stitch must be blend or crop, got {stitch!r}")
    halo_px = card.halo_px if halo is None else halo
    window_px = card.core_px + 2 * halo_px if window is None else window
    return Grid(
        shape=plan.shape,
        core_px=core_of_window(window_px, halo_px),
        halo_px=halo_px,
        # Half of the halo: a window has its say only where it has the other half as context. Of 192 px: 0.49 % of the
        # tissue px change when the grid moves by half a core; over the whole halo 0.51 %, cropped 0.53 %.
        blend_px=halo_px // 2 if stitch == "blend" else 0,
    )


def _tissue(tissue: str | Path, source: PixelSource, plan: ReadPlan) -> TissueMask:
    if tissue == "none":
        return everything(plan)
    if tissue != "auto":
        return load_tissue(tissue, source, plan)
    stored = source.stored_tissue() if isinstance(source, ZarrSource) else None
    if stored is not None and stored.any():
        return lay_over(stored, plan)
    return find_tissue(source, plan)


def _demand(
    windows: dict[Index, Window],
    grid: Grid,
    mask: TissueMask,
    card: ModelCard,
    execution: Execution,
    *,
    probabilities: bool,
) -> Demand:
    largest = max(w.work_px for w in windows.values())
    classes = len(card.classes)
    on_cpu = execution.device == "cpu"
    strips_px = 8 * grid.blend_px * grid.core_px  # four sides, twice: what is kept and what is handed on
    return Demand(
        network_bytes=network_bytes(largest, card=card, execution=execution) if on_cpu else 0,
        # RGB as read and as mirrored; labels and probabilities as computed and as cut.
        window_bytes=largest * execution.batch * (2 * 3 + 2 * (1 + classes)),
        # Dask finishes the grid two rows at a time; strips and labels shrink to a quarter at least.
        waiting_bytes=2 * grid.counts[1] * (strips_px * classes + grid.core_px**2) // 4,
        fixed_bytes=mask.nbytes + (2 * classes * grid.core_px**2 if probabilities else 0),
    )
