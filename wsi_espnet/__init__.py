"""Whole-slide segmentation with ESPNet: from a slide to a tissue-class mask.

    >>> import wsi_espnet
    >>> result = wsi_espnet.segment("colon.svs", "out")  # doctest: +SKIP

Nothing heavy is imported before a job is used.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from inspect import Signature

    from wsi_espnet.batch import batch
    from wsi_espnet.evaluate import evaluate
    from wsi_espnet.predict import predict
    from wsi_espnet.segment import segment

__version__ = "0.1.0"

__all__ = ["__version__", "batch", "evaluate", "predict", "segment"]

_JOBS = frozenset({"batch", "evaluate", "predict", "segment"})
"""Modules that are called like the function of their name."""


class _Job(ModuleType):
    """A job's module, called like its function: `wsi_espnet.segment` is the module and the function in one."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._function(*args, **kwargs)

    def __reduce__(self) -> tuple[Any, ...]:
        return import_module, (self.__name__,)

    @property
    def __signature__(self) -> Signature:
        import inspect

        return inspect.signature(self._function)

    @property
    def _function(self) -> Any:
        return self.__dict__[self.__name__.rpartition(".")[2]]


class _Package(ModuleType):
    """The package: imports a job when it is asked for, and makes its module callable whoever imported it first."""

    def __getattr__(self, name: str) -> Any:
        if name in _JOBS:
            return import_module(f"{__name__}.{name}")
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __setattr__(self, name: str, value: Any) -> None:
        # Python's import puts every submodule here, in whatever way it was asked for.
        if name in _JOBS and isinstance(value, ModuleType):
            value.__class__ = _Job
        super().__setattr__(name, value)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *_JOBS})


sys.modules[__name__].__class__ = _Package
