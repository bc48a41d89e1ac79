"""Frames of a video, one after another, in memory for one at a time."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from wsi_espnet.errors import DataError, DependencyError

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.stream import VideoStream

SUFFIXES = frozenset({".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv"})
"""Of videos, in lower case."""

SHORT = 0.95
"""Share of the frames that it says it holds below which a video is cut short; estimates are not better than that."""

USUAL_RATE = 25
"""Frames per second of a video that does not say its own."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Frame:
    """One picture of a video.

    Parameters
    ----------
    rgb
        (h, w, 3) uint8, upright.
    second
        When it is shown, from 0; None where the video does not say.
    """

    rgb: NDArray[np.uint8]
    second: Fraction | None


@dataclass(frozen=True, slots=True)
class Video:
    """A video file, of whose streams the first with pictures is read.

    Parameters
    ----------
    path
        The file.
    frames
        How many it says that it holds, or an estimate from its duration; 0 where it says neither.
    rate
        Frames per second, on average.
    """

    path: Path
    frames: int
    rate: Fraction

    def __iter__(self) -> Iterator[Frame]:
        """Each frame, in the order in which they are shown.

        Frames that the decoder had to patch are given as they are. They are told in a warning at the end, and so is
        a video that ends well before it says that it does.

        Raises
        ------
        DataError
            The file is damaged; the message says how many frames came before that.
        """
        done = patched = 0
        with _opened(self.path) as (container, stream):
            from av.error import FFmpegError

            try:
                for frame in container.decode(stream):
                    # Cameras are turned; the angle is counter-clockwise, as that of av_display_rotation_get (FFmpeg).
                    rgb = np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90))
                    second = None if frame.pts is None or frame.time_base is None else frame.pts * frame.time_base
                    yield Frame(np.ascontiguousarray(rgb), second)
                    done += 1
                    patched += frame.is_corrupt
            except FFmpegError as exc:
                came = f"{done} of about {self.frames} frames"
                raise DataError(f"{self.path} is damaged after {came}: {exc.strerror}") from exc
        if done == 0:
            raise DataError(f"{self.path} holds no frames")
        if patched:
            log.warning("warning: %d of %d frames of %s are damaged and were patched", patched, done, self.path)
        if done < SHORT * self.frames:
            log.warning("warning: %s says that it holds about %d frames, and gave %d", self.path, self.frames, done)


def is_video(path: Path) -> bool:
    """Whether a path is named like a video and is no folder."""
    return path.suffix.lower() in SUFFIXES and not path.is_dir()


def open_video(path: Path) -> Video:
    """What a video says about itself.

    Raises
    ------
    DataError
        It is missing, or no video.
    DependencyError
        PyAV is not installed.
    """
    with _opened(path) as (container, stream):
        rate = stream.average_rate or Fraction(USUAL_RATE)
        seconds = Fraction(container.duration or 0, 1_000_000)  # FFmpeg's AV_TIME_BASE
        return Video(path, frames=stream.frames or round(seconds * rate), rate=rate)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[tuple[InputContainer, VideoStream]]:
    try:
        import av
    except ImportError as exc:
        raise DependencyError("reading videos needs PyAV: pip install 'wsi-espnet[video]'") from exc
    if not path.is_file():
        raise DataError(f"{path} is missing")
    try:
        container = av.open(path)
    except av.error.FFmpegError as exc:
        raise DataError(f"{path} cannot be read as a video: {exc.strerror}") from exc
    with container:
        if not container.streams.video:
            raise DataError(f"{path} is a video file without pictures")
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        yield container, stream
