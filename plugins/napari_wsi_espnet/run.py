"""One segmentation beside the window: computed on a thread of its own, looked at from time to time, cancelled."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

from wsi_espnet.errors import WsiEspnetError
from wsi_espnet.segment import Progress, SegmentResult, segment


class _Cancelled(Exception):  # noqa: N818 - no error: the way out of a run that is to end
    """Ends a run from inside it."""


class Run(threading.Thread):
    """A run of `wsi_espnet.segment.segment` with these arguments.

    Nothing is signalled: what a window does about a signal may let further ones in before it is done (napari's
    progress bars do), so it looks here when it has time.

    Attributes
    ----------
    progress : Progress | None
        How far it is; None before its windows begin.
    result : SegmentResult | None
        Once the thread has ended: what the run left; None if it was cancelled or failed.
    fault : str | None
        Once the thread has ended: why it failed, in one sentence.
    """

    def __init__(self, slide: Path, out: Path, **options: Any) -> None:
        super().__init__(name=f"segment {slide.name}")
        self.progress: Progress | None = None
        self.result: SegmentResult | None = None
        self.fault: str | None = None
        self._slide, self._out, self._options = slide, out, options
        self._stop_asked = threading.Event()

    def cancel(self) -> None:
        """Let the run end with the windows that are in work; what is finished is kept."""
        self._stop_asked.set()

    def run(self) -> None:
        """Compute; called on the run's thread."""
        try:
            self.result = segment(self._slide, self._out, progress=self._tell, **self._options)
        except _Cancelled:
            pass
        except WsiEspnetError as exc:
            self.fault = str(exc)
        except Exception as exc:  # noqa: BLE001 - a thread has nobody above it: what it does not tell is lost
            self.fault = f"the run broke off, a fault of wsi_espnet: {type(exc).__name__}: {exc}"

    def _tell(self, progress: Progress) -> None:
        self.progress = progress
        if self._stop_asked.is_set():
            raise _Cancelled
