"""ESPNet over a large window in bands of rows: the maps that a pass needs only for a moment are never whole.

A window of 2944 px has maps of up to 280 MiB. Band by band they stay in the processor's cache and on the heap, and
only what a later layer still asks for is kept. Hardly a row is computed twice: a pyramid is dilated over its reduced
map, which is thin and kept whole, and elsewhere two bands share one row.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from wsi_espnet.inference.decoder import Decoder
from wsi_espnet.inference.joins import EighthJoin, QuarterJoin
from wsi_espnet.inference.layers import Activation, Convolution, PointConvolution
from wsi_espnet.inference.maps import Map, Workspace
from wsi_espnet.inference.predictor import Columns
from wsi_espnet.inference.pyramids import BandedPyramid
from wsi_espnet.inference.stem import Stem
from wsi_espnet.models.espnet import ConvNormAct, DilatedPyramid, EspNet, StridedPyramid


class BandedEspNet:
    """A network made ready for bands; threads may call it at once, with a workspace each.

    Parameters
    ----------
    network
        In evaluation mode, from `layers.in_precision`.
    """

    def __init__(self, network: EspNet) -> None:
        encoder = network.encoder
        self.classes = network.classifier.out_channels
        self._stem = Stem(network)
        self._second = _Pyramids(encoder.level2_0, encoder.level2)
        self._third = _Pyramids(encoder.level3_0, encoder.level3)
        self._quarter, self._eighth = QuarterJoin(network), EighthJoin(network)
        fusion = network.combine_l2_l3[1]
        self._combine = (_CombineByConvolution if isinstance(fusion, ConvNormAct) else _CombineByPyramid)(fusion)
        self._decode = Decoder(network)

    def __call__(
        self, window: Tensor, mean: Tensor, scale: Tensor, workspace: Workspace, columns: Columns | None = None
    ) -> Iterator[tuple[int, int, NDArray[np.float32]]]:
        """Logits of a window, band by band from the top.

        Parameters
        ----------
        window
            (H, W, 3) uint8 or float32, both sides multiples of 8, channels as the network wants them.
        mean, scale
            (3,): what the network sees is (px - mean) * scale.
        workspace
            Where maps lie until the last band; of the network's dtype.
        columns
            What is wanted of it; None is all. Each band is computed in the columns that some of its rows ask for;
            beyond these the network sees zeros in all of its maps, as it does beyond a window.

        Yields
        ------
        row, column, logits
            The first row and column, and (C, rows, width) float32 from there on; all rows in the end.
        """
        workspace.columns = columns
        height, width = window.shape[:2]
        joined = Map(workspace, "joined", height // 4, width // 4, 2 * self.classes)
        reduced = self._second.reduced(height // 4, width // 4, workspace)
        detail, image = self._stem(window, mean, scale, reduced, workspace)
        first, last = self._second(reduced, workspace)
        reduced = self._third.reduced(height // 8, width // 8, workspace)
        self._quarter((last, first, image), joined, reduced, workspace)
        first, last = self._third(reduced, workspace)
        self._eighth((first, last), joined, workspace)
        yield from self._decode(detail, self._combine(joined, workspace), workspace)


class _Pyramids:
    """A strided pyramid, from its reduced map on, and those behind it."""

    def __init__(self, head: StridedPyramid, behind: nn.ModuleList) -> None:
        others = cast("list[DilatedPyramid]", list(behind))
        pyramids = zip([head, *others], [*others, None], strict=True)
        self._pyramids = [BandedPyramid(pyramid, following) for pyramid, following in pyramids]

    def reduced(self, rows: int, width: int, workspace: Workspace) -> Map:
        """Where the first one's reduced map belongs."""
        return self._pyramids[0].reduced(0, rows, width, workspace)

    def __call__(self, reduced: Map, workspace: Workspace) -> tuple[Map, Map]:
        """What the first one gives, and the last one."""
        head, end = self._pyramids[0], self._pyramids[-1]
        size = reduced.rows, reduced.width
        first, last = (Map(workspace, name, *size, head.outputs) for name in ("first", "last"))
        thinner = end.reduced(1, *size, workspace)
        for pyramid in self._pyramids:
            to = first if pyramid is head else None, None if pyramid is end else thinner
            pyramid(reduced, last, *to, workspace)
            reduced, thinner = thinner, reduced
        return first, last


class _CombineByConvolution:
    """2C channels to C at stride 4, below `models.espnet.DILATED_FUSION_MIN_CLASSES`."""

    def __init__(self, fusion: nn.Module) -> None:
        layer = cast("ConvNormAct", fusion)
        self._convolve, self._activate = Convolution(layer.conv.weight), Activation.of(layer.bn, layer.act)

    def __call__(self, joined: Map, workspace: Workspace) -> Map:
        out = Map(workspace, "combined", joined.rows, joined.width, joined.channels // 2)
        for band in workspace.bands(joined.rows, joined.width, joined.channels):
            rows = self._convolve(joined.take(band.start - 1, band.stop + 1))
            self._activate(rows, out.take(band.start, band.stop))
        return out


class _CombineByPyramid:
    """2C channels to C at stride 4."""

    def __init__(self, fusion: nn.Module) -> None:
        pyramid = cast("DilatedPyramid", fusion)
        self._reduce, self._pyramid = PointConvolution(pyramid.c1.conv.weight), BandedPyramid(pyramid, None)

    def __call__(self, joined: Map, workspace: Workspace) -> Map:
        size = joined.rows, joined.width
        reduced = self._pyramid.reduced(0, *size, workspace)
        for band in workspace.bands(joined.rows, joined.width, joined.channels):
            self._reduce(joined.take(band.start, band.stop), reduced.take(band.start, band.stop), reduced.left)
        out, passed = (Map(workspace, name, *size, joined.channels // 2) for name in ("combined", "passed"))
        self._pyramid(reduced, passed, out, None, workspace)
        return out
