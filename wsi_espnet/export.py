"""Export a model: from a file of weights to folders that other programs and machines take."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from wsi_espnet.atomic import output_errors, refuse_existing, write_bytes_atomic
from wsi_espnet.errors import UsageError
from wsi_espnet.exporting.bundle import Bundle, Request
from wsi_espnet.exporting.gpu import gpu
from wsi_espnet.exporting.openvino import openvino
from wsi_espnet.exporting.parity import Parity
from wsi_espnet.exporting.qupath import qupath
from wsi_espnet.exporting.triton import triton
from wsi_espnet.exporting.tx2 import tx2
from wsi_espnet.models.weights import load_model

TARGETS: dict[str, Callable[[Request], Bundle]] = {
    "gpu": gpu,
    "tx2": tx2,
    "openvino": openvino,
    "triton": triton,
    "qupath": qupath,
}
"""What can be exported for, in the order of ``all``; each has a folder of its name."""

ALL_OPTIONS = frozenset({"precision", "size", "opset", "outputs", "input"})

TAKES = {
    "gpu": ALL_OPTIONS,
    "tx2": ALL_OPTIONS - {"precision"},
    "openvino": ALL_OPTIONS - {"precision"},
    "triton": ALL_OPTIONS,
    "qupath": frozenset({"opset"}),
}
"""Options that change what a target writes; `all` hands each option to those that take it."""

PRECISIONS = {"fp32": ("fp32",), "fp16": ("fp16",), "both": ("fp32", "fp16")}


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written.

    Parameters
    ----------
    files
        In the order of the targets.
    parities
        How each graph compares with torch, by its file.
    """

    files: tuple[Path, ...]
    parities: dict[Path, Parity]


def export(
    model: str | Path,
    out: str | Path,
    *,
    target: str = "gpu",
    precision: str = "both",
    size: tuple[int, int] | None = None,
    opset: int | None = None,
    outputs: Sequence[str] | None = None,
    input: str | None = None,
    overwrite: bool = False,
) -> Exported:
    """Write a model for other programs, each graph compared with torch before anything is written.

    Parameters
    ----------
    model
        Bundled name or path of a ``.safetensors`` file.
    out
        Folder for the results: a folder in it for each target.
    target
        One of `TARGETS`, or ``all``.
    precision
        ``fp32``, ``fp16`` or ``both``, where a target takes both.
    size
        (height, width) in px of the only images that are taken; None takes any where the target can.
    opset, outputs, input
        See `wsi_espnet.exporting.graph.GraphSpec`; None takes the target's own.
    overwrite
        Replace files that are there.

    Raises
    ------
    ModelError, UsageError, DependencyError, ResumeError, OutputError
        See `wsi_espnet.errors`; each message says what to do.
    """
    if target != "all" and target not in TARGETS:
        raise UsageError(f"--target must be {', '.join(TARGETS)} or all, got {target!r}")
    if precision not in PRECISIONS:
        raise UsageError(f"--precision must be {', '.join(PRECISIONS)}, got {precision!r}")
    given = {"precision": precision == "fp16" or None, "size": size, "opset": opset, "outputs": outputs, "input": input}
    for option, value in given.items():
        if value is not None and option not in TAKES.get(target, ALL_OPTIONS):
            raise UsageError(
                f"--{option} changes nothing for --target {target}, whose files have one form; leave it out"
            )
    loaded = load_model(model)
    request = Request(
        loaded,
        precisions=PRECISIONS[precision],
        size=size,
        opset=opset,
        outputs=None if outputs is None else tuple(outputs),
        input=input,
    )
    names = list(TARGETS) if target == "all" else [target]
    bundles = {Path(out) / name: TARGETS[name](request) for name in names}
    paths = [folder / name for folder, bundle in bundles.items() for name in bundle.files]
    if not overwrite:
        refuse_existing(paths)
    for folder, bundle in bundles.items():
        _write(folder, bundle)
    parities = {folder / name: p for folder, bundle in bundles.items() for name, p in bundle.parities.items()}
    return Exported(tuple(paths), parities)


def _write(folder: Path, bundle: Bundle) -> None:
    for name, content in bundle.files.items():
        write_bytes_atomic(folder / name, content)
        if name in bundle.executable:
            with output_errors(folder / name):
                (folder / name).chmod(0o755)
