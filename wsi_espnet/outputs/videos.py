"""Pictures as a video that every player shows."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from wsi_espnet.atomic import replacing

if TYPE_CHECKING:
    from av.container import OutputContainer
    from av.video.stream import VideoStream

TICKS = 90_000
"""Time steps in a second: MPEG's clock, which the usual rates divide."""

QUALITY = "20"
"""Constant rate factor of H.264, 0..51, lower is better; a tint needs no more."""


class VideoWriter:
    """H.264 in MP4, of the first picture's size; use `write_video`."""

    def __init__(self, container: OutputContainer, rate: Fraction) -> None:
        self._container = container
        self._rate = rate
        self._stream: VideoStream | None = None
        self._last: int | None = None

    def write(self, rgb: NDArray[np.uint8], second: Fraction | None) -> None:
        """One picture (h, w, 3) uint8, shown from `second` on; None is one frame after the last."""
        import av

        h, w = rgb.shape[:2]
        # H.264 with colour at half resolution, which players expect, has even sides.
        rgb = np.pad(rgb, ((0, h % 2), (0, w % 2), (0, 0)), mode="edge")
        if self._stream is None:
            self._stream = self._container.add_stream("libx264", rate=self._rate, options={"crf": QUALITY})
            self._stream.height, self._stream.width = rgb.shape[:2]
            self._stream.pix_fmt = "yuv420p"
            self._stream.codec_context.time_base = Fraction(1, TICKS)
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb), format="rgb24")
        frame.time_base = Fraction(1, TICKS)
        usual = 0 if self._last is None else self._last + round(TICKS / self._rate)
        wanted = usual if second is None else round(second * TICKS)
        # Times that stand still or go back are no video.
        self._last = frame.pts = wanted if self._last is None else max(wanted, self._last + 1)
        self._container.mux(self._stream.encode(frame))

    def flush(self) -> None:
        """Write what the encoder still holds."""
        if self._stream is not None:
            self._container.mux(self._stream.encode(None))


@contextlib.contextmanager
def write_video(path: Path, rate: Fraction) -> Iterator[VideoWriter]:
    """A file that is there when the block has ended well, and not before.

    Raises
    ------
    OutputError
        The disk is full or read-only.
    """
    import av

    with replacing(path) as partial, av.open(partial, "w", format="mp4") as container:
        writer = VideoWriter(container, rate)
        yield writer
        writer.flush()
