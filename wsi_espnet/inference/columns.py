"""What is wanted of a window: the tissue in it, and a halo around that. No px are touched here."""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from wsi_espnet.grid import MULTIPLE, Window
from wsi_espnet.inference.predictor import Columns
from wsi_espnet.slides.tissue_mask import TissueMask


def wanted_columns(window: Window, tissue: TissueMask) -> Columns:
    """Columns of a window that hold tissue about which it has something to say, and its halo on every side of it.

    A mask that brings a rim of glass with it gets half the halo, which changes nothing that can be measured; without
    any, twice as many px depend on where windows lie (docs/benchmarks.md).

    Parameters
    ----------
    window
        With a halo of a multiple of 8 px.
    tissue
        Of the image that the window is a part of.
    """
    (top, bottom), (left, right) = ((span.start, span.stop) for span in window.read)
    rows, width = (bottom - top) // MULTIPLE, (right - left) // MULTIPLE
    halo = (window.box.y - top) // MULTIPLE // (2 if tissue.has_rim else 1)
    reach = window.reach
    inside = np.zeros((bottom - top, right - left), np.bool_)
    inside[reach.y - top : reach.y - top + reach.h, reach.x - left : reach.x - left + reach.w] = tissue.sample(reach)
    across = np.logical_or.reduce(inside.reshape(rows, MULTIPLE, -1), axis=1)
    has_tissue = np.logical_or.reduce(across, axis=1)
    begin = np.where(has_tissue, across.argmax(axis=1) // MULTIPLE, width)
    end = np.where(has_tissue, width - across[:, ::-1].argmax(axis=1) // MULTIPLE, 0)
    begin = sliding_window_view(np.pad(begin, halo, constant_values=width), 2 * halo + 1).min(axis=1) - halo
    end = sliding_window_view(np.pad(end, halo), 2 * halo + 1).max(axis=1) + halo
    columns = np.stack([np.maximum(begin, 0), np.minimum(end, width)], axis=1).astype(np.int32)
    columns[columns[:, 0] >= columns[:, 1]] = 0
    return columns
