"""Whether what exporting needs beside the package itself is installed."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec

from wsi_espnet.errors import DependencyError

PACKAGES = ("onnx", "onnxruntime")


def ensure_extra(packages: Sequence[str] = PACKAGES, *, extra: str = "export", what: str = "exporting") -> None:
    """Look for packages without importing them.

    Raises
    ------
    DependencyError
        One is missing; the message names the extra that brings it.
    """
    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        raise DependencyError(f"{what} needs {', '.join(missing)}: pip install 'wsi-espnet[{extra}]'")
