"""Every error that a user can do something about.

    WsiEspnetError
    +-- UsageError            an argument has a value that cannot work
    |   +-- GeometryError     window, halo, core or region do not fit together
    |   +-- ScaleError        micrometres per pixel are missing or too coarse
    |   +-- BudgetError       the run needs more memory than it may use
    |   +-- ResumeError       something else already lies at the output
    +-- SlideError            a slide cannot be opened
    |   +-- SlideReadError    one region of an open slide cannot be read
    +-- TissueError           no tissue, or a tissue file that does not fit
    |   +-- NoTissueError     all of a slide looks like glass
    +-- DataError             a data set with ground truth is wrong or damaged
    +-- ModelError            a model file is damaged or of another kind
    +-- OutputError           a result cannot be written
    +-- ClusterError          workers or the scheduler of a cluster went away
    +-- DependencyError       an optional package is not installed

A message is one sentence or two: what, got, wanted, remedy. The command line prints it without a traceback and
leaves with `exit_code`: 2 for a command that must be changed, 1 for data or a machine that must be mended.
"""

from __future__ import annotations

from typing import ClassVar


class WsiEspnetError(Exception):
    """Root of all errors raised on purpose by this package."""

    exit_code: ClassVar[int] = 1


class UsageError(WsiEspnetError, ValueError):
    """An argument has a value that cannot work."""

    exit_code = 2


class GeometryError(UsageError):
    """Window, halo, core or region do not fit together."""


class ScaleError(UsageError):
    """Micrometres per pixel are missing, or the slide is coarser than what is asked for."""


class BudgetError(UsageError):
    """The run would need more memory than it may use; raised before it starts."""


class ResumeError(UsageError):
    """The output holds something that this run must not touch."""


class SlideError(WsiEspnetError, OSError):
    """A slide is missing, damaged, or not a slide at all."""


class SlideReadError(SlideError):
    """One region of an otherwise open slide cannot be read."""


class TissueError(WsiEspnetError, ValueError):
    """No tissue was found, or a given tissue file does not fit the slide."""


class NoTissueError(TissueError):
    """All of a slide looks like glass: nothing to segment, and nothing wrong with it either."""


class DataError(WsiEspnetError, ValueError):
    """A data set is not of its layout, or one of its files is missing, damaged or outside its class table.

    Each argument is one fault, in a sentence; the message joins them.
    """

    def __str__(self) -> str:
        return "; ".join(self.faults)

    @property
    def faults(self) -> tuple[str, ...]:
        """All that is wrong with one thing: a picture may be of another size than its mask and the mask wrong too."""
        return tuple(str(fault) for fault in self.args)


class ModelError(WsiEspnetError, ValueError):
    """A model file is damaged, of another kind, or its class table is unknown."""


class OutputError(WsiEspnetError, OSError):
    """A result cannot be written: read-only, full, or not a folder."""


class ClusterError(WsiEspnetError, RuntimeError):
    """Workers or the scheduler of a cluster went away, and did not come back; what is finished is kept."""


class DependencyError(WsiEspnetError, ImportError):
    """An optional package is not installed; the message names the extra."""
