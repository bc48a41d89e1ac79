"""Weights as an ONNX file in a cache, for backends that do not read weights."""

from __future__ import annotations

import hashlib
from pathlib import Path

from wsi_espnet import __version__
from wsi_espnet.atomic import write_bytes_atomic
from wsi_espnet.exporting.bundle import checked_graph
from wsi_espnet.exporting.graph import GraphSpec
from wsi_espnet.models.weights import load_model


def cached_onnx(weights: Path, precision: str, folder: Path) -> Path:
    """The ONNX file of a `.safetensors` file, named by its digest; made once, then found.

    Raises
    ------
    ModelError
        The weights cannot be exported.
    OutputError
        The cache cannot be written.
    """
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    path = folder / f"{digest[:32]}-{__version__}-{precision}.onnx"
    if not path.is_file():
        graph, _ = checked_graph(load_model(weights), GraphSpec(), precision)
        write_bytes_atomic(path, graph.SerializeToString())
    return path
