"""The import directions of the house, read from the source: nothing is imported here to find out."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

PROJECT = Path(__file__).resolve().parents[1]
PACKAGE = PROJECT / "wsi_espnet"
PLUGINS = PROJECT / "plugins"

ROOMS = (
    "errors",
    "settings",
    "atomic",
    "locks",
    "machine",
    "threads",
    "resume",
    "classes",
    "scores",
    "calibration",
    "geometry",
    "ngff",
    "budget",
    "grid",
    "slides",
    "models",
    "exporting",
    "inference",
    "outputs",
    "data",
    "training",
    "cohort",
    "jobs",
    "bench",
    "cli",
    "__main__",
)
"""A room imports itself and rooms before it. A room is a package or a module at the top of wsi_espnet."""

JOBS = frozenset(
    {
        "segment",
        "segment_setup",
        "predict",
        "batch",
        "batch_work",
        "batch_flow",
        "batch_task",
        "batch_notes",
        "batch_request",
        "batch_plan",
        "train",
        "evaluate",
        "calibrate",
        "measure",
        "export",
        "outlines",
        "mask",
        "pipeline",
    }
)
"""Modules at the top of wsi_espnet that make up the room `jobs`."""

# The benchmark holds other ways to segment a slide, written without this package's own: it may import what they need.
ONLY_IN = {
    ("openslide",): ("slides", "bench"),
    ("torch", "safetensors.torch"): (
        "models",
        "exporting",
        "inference",
        "training",
        "data",
        "train",
        "calibrate",
        "measure",
        "export",
        "bench",
    ),
    ("dask", "distributed", "dask_jobqueue"): ("inference.schedule", "cohort.clusters", "batch", "batch_flow", "bench"),
    ("typer", "rich", "click"): ("cli",),
    ("monai",): ("bench",),
    ("onnx",): ("exporting",),
    ("onnxruntime",): ("exporting", "inference", "bench"),
    ("openvino",): ("exporting", "inference"),
    ("rasterio", "shapely"): ("outputs.outlines",),
    ("av",): ("data.videos", "outputs.videos"),
    ("lightning", "torchmetrics", "matplotlib", "tensorboard"): ("training", "train", "bench"),
    ("napari", "npe2", "magicgui", "qtpy"): (),
}
"""Packages, and the modules or rooms of the library that may import them."""

HEAVY = frozenset(
    {"torch", "zarr", "dask", "distributed", "numpy", "scipy", "skimage", "openslide", "PIL", "tifffile"}
) | {
    "lightning",
    "torchmetrics",
    "matplotlib",
    "onnx",
    "onnxruntime",
}
"""What no `--help` may wait for."""

HELP = """
import sys
from wsi_espnet.cli.main import run
try:
    run()
finally:
    print("LOADED", *sys.modules)
"""
"""What the command line does, and what it had loaded when it left."""

DISTRIBUTIONS = {
    "dask_jobqueue": "dask-jobqueue",
    "PIL": "pillow",
    "google": "protobuf",
    "yaml": "pyyaml",
    "skimage": "scikit-image",
    "openslide": "openslide-python",
}
"""Distributions that are not called what is imported."""

BESIDE = frozenset({"openslide-bin"})
"""Dependencies that are not imported: OpenSlide's own shared library."""


class Import(NamedTuple):
    """Module `importer` (inside the package, "" for its face) imports `name` in a line of a file."""

    importer: str
    name: str
    place: str


BOARD = PACKAGE / "exporting" / "board"
"""Programs that are copied to other machines; no module of the library."""


def imports_below(folder: Path) -> list[Import]:
    return [
        Import(_module(path, folder), name, f"{path.relative_to(PROJECT)}:{line}")
        for path in sorted(folder.rglob("*.py"))
        if BOARD not in path.parents
        for name, line in _imported(ast.parse(path.read_text(encoding="utf-8")))
    ]


def _module(path: Path, folder: Path) -> str:
    return ".".join(path.relative_to(folder).with_suffix("").parts).removesuffix("__init__").rstrip(".")


def _imported(tree: ast.Module) -> Iterator[tuple[str, int]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide where a name comes from"
            yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)


def _is_in(name: str, packages: tuple[str, ...]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def room(module: str) -> str:
    """Room of a module inside the package."""
    top = module.partition(".")[0]
    return "jobs" if top in JOBS else top


LIBRARY = imports_below(PACKAGE)
OWN = [(i, i.name.removeprefix("wsi_espnet.")) for i in LIBRARY if _is_in(i.name, ("wsi_espnet",)) and i.importer]


def test_every_top_level_module_has_its_room() -> None:
    top = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
    homeless = sorted(top - {"__init__"} - set(ROOMS) - JOBS)
    assert not homeless, (
        f"wsi_espnet has new modules at its top, {', '.join(homeless)}: add those that are part of a job to JOBS in "
        "tests/test_imports.py, and others to ROOMS, after everything that they import"
    )


def test_rooms_import_only_rooms_before_them() -> None:
    order = {name: place for place, name in enumerate(ROOMS)}
    wrong = [
        f"{i.place}: {room(i.importer)} imports {target}"
        for i, target in OWN
        if target != "__version__" and order[room(i.importer)] < order[room(target)]
    ]
    assert not wrong, "imports must point to rooms before one's own (ROOMS in this file):\n" + "\n".join(wrong)


def test_outputs_and_inference_do_not_know_each_other() -> None:
    wrong = [i.place for i, target in OWN if {room(i.importer), room(target)} == {"outputs", "inference"}]
    assert not wrong, "a job brings outputs and inference together, not they themselves: " + ", ".join(wrong)


def test_the_face_of_the_package_imports_nothing_at_run_time() -> None:
    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    at_run_time = [node for node in tree.body if not (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node))]
    names = [name for name, _ in _imported(ast.Module(at_run_time, []))]
    wrong = [name for name in names if name.partition(".")[0] not in sys.stdlib_module_names]
    assert not wrong, f"`import wsi_espnet` must stay light; import {', '.join(wrong)} where a job needs it"


@pytest.mark.parametrize(("packages", "homes"), ONLY_IN.items(), ids=lambda value: "-".join(value) or "plugins")
def test_a_package_is_imported_only_where_it_belongs(packages: tuple[str, ...], homes: tuple[str, ...]) -> None:
    wrong = [
        f"{i.place} imports {i.name}" for i in LIBRARY if _is_in(i.name, packages) and not _is_in(i.importer, homes)
    ]
    wanted = " or ".join(homes) or "plugins/"
    assert not wrong, f"{', '.join(packages)} may be imported in {wanted} alone:\n" + "\n".join(wrong)


def test_the_library_does_not_know_its_plugins() -> None:
    plugins = tuple(path.name for path in PLUGINS.iterdir() if (path / "__init__.py").is_file())
    assert plugins
    wrong = [i.place for i in LIBRARY if _is_in(i.name, plugins)]
    assert not wrong, "plugins import the library, never the other way round: " + ", ".join(wrong)


def test_the_guard_sees_the_imports_that_are_there() -> None:
    found = {(room(i.importer), i.name.partition(".")[0]) for i in LIBRARY}
    assert {("slides", "openslide"), ("models", "torch"), ("inference", "dask"), ("cli", "typer")} <= found
    assert any(room(i.importer) == "jobs" and room(target) == "inference" for i, target in OWN)


COMMANDS = [
    *[
        "",
        "segment",
        "view",
        "batch",
        "predict",
        "evaluate",
        "train",
        "info",
        "tile",
        "sample",
        "export",
        "export check",
        "run",
    ],
    *["models", "models import", "data", "data check", "batch status"],
]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_loads_nothing_heavy(command: str) -> None:
    help_ = [sys.executable, "-c", HELP, *command.split(), "--help"]
    done = subprocess.run(help_, capture_output=True, text=True, check=True)
    assert f"Usage: -c {command}" in done.stdout
    loaded = set(done.stdout.rpartition("LOADED")[2].split())
    assert "typer" in loaded
    slow = sorted(HEAVY & loaded)
    assert not slow, f"`wsi-espnet {command} --help` waits for {', '.join(slow)}; import it inside the command"


def test_dependencies_are_what_is_imported() -> None:
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = {_distribution(line) for line in project["dependencies"]}
    extras = project["optional-dependencies"]
    of_extras = {
        _distribution(line)
        for extra in ("bench", "cluster", "train", "video", "export", "outlines", "openvino", "dicom")
        for line in extras[extra]
    }
    tops = {i.name.partition(".")[0] for i in LIBRARY} - sys.stdlib_module_names - {"wsi_espnet"}
    imported = {DISTRIBUTIONS.get(top, top) for top in tops} - of_extras
    assert imported - declared == set(), "imported, but not among the dependencies of pyproject.toml"
    assert declared - imported - BESIDE == set(), "among the dependencies of pyproject.toml, but never imported"


def test_every_dependency_is_pinned_in_the_constraints() -> None:
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = [*project["dependencies"], *(line for extra in project["optional-dependencies"].values() for line in extra)]
    pinned = {_distribution(line) for line in (PROJECT / "constraints.txt").read_text().splitlines() if "==" in line}
    assert {_distribution(line) for line in lines} - {"wsi-espnet"} - pinned == set(), "add a line to constraints.txt"


def _distribution(requirement: str) -> str:
    """Name of what a requirement asks for, as package indexes spell it."""
    found = re.match(r"[A-Za-z0-9._-]+", requirement)
    return re.sub(r"[-_.]+", "-", found.group()).lower() if found else ""
