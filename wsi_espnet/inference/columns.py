"""What is wanted of a window: the tissue in it, and a halo around that. No px are touched here."""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from wsi_espnet.grid import MULTIPLE, Window, within
from wsi_espnet.inference.predictor import Columns
from wsi_espnet.slides.tissue_mask import TissueMask


def wanted_columns(window: Window, tissue: TissueMask) -> Columns:
    """Columns of what a window reads that hold tissue, and its halo on every side of it.

    A mask that brings a rim of glass with it gets half the halo: 0.215 % of the tissue then change with the grid, and
    0.213 % where windows are computed whole. Without any halo it would be 0.42 % (docs/decisions.md).

    Parameters
    ----------
    window
        With a halo of a multiple of 8 px.
    tissue
        Of the image that the window is a part of; mirrored where the window leaves it, as its px are.
    """
    region, beyond = within(window.read, tissue.shape)
    inside = np.pad(tissue.sample(region), beyond, mode="symmetric")
    width = inside.shape[1] // MULTIPLE
    halo = (window.box.y - window.read[0].start) // MULTIPLE // (2 if tissue.has_rim else 1)
    across = np.logical_or.reduce(inside.reshape(-1, MULTIPLE, inside.shape[1]), axis=1)
    has_tissue = np.logical_or.reduce(across, axis=1)
    begin = np.where(has_tissue, across.argmax(axis=1) // MULTIPLE, width)
    end = np.where(has_tissue, width - across[:, ::-1].argmax(axis=1) // MULTIPLE, 0)
    begin = sliding_window_view(np.pad(begin, halo, constant_values=width), 2 * halo + 1).min(axis=1) - halo
    end = sliding_window_view(np.pad(end, halo), 2 * halo + 1).max(axis=1) + halo
    columns = np.stack([np.maximum(begin, 0), np.minimum(end, width)], axis=1).astype(np.int32)
    columns[columns[:, 0] >= columns[:, 1]] = 0
    return columns
