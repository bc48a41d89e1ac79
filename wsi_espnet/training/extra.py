"""Whether what training needs beside the package itself is installed."""

from __future__ import annotations

from importlib.util import find_spec

from wsi_espnet.errors import DependencyError

PACKAGES = ("lightning", "torchmetrics", "tensorboard", "matplotlib")


def ensure_extra() -> None:
    """Look for the packages of the extra ``train`` without importing them.

    Raises
    ------
    DependencyError
        One is missing.
    """
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        raise DependencyError(f"training needs {', '.join(missing)}: pip install 'wsi-espnet[train]'")
