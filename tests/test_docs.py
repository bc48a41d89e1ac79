"""What the project says about itself: commands, programs, links, docstrings."""

from __future__ import annotations

import ast
import importlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from small import blobs, small_slide, tiny_model

from wsi_espnet.segment import segment
from wsi_espnet.slides.colon import colon_slide

PROJECT = Path(__file__).resolve().parents[1]
PAGES = sorted([*PROJECT.glob("*.md"), *(PROJECT / "docs").glob("*.md")])
BOARD = PROJECT / "wsi_espnet/exporting/board"  # programs for other machines, which say what they do with --help
MODULES = sorted(
    path
    for folder in ("wsi_espnet", "plugins")
    for path in (PROJECT / folder).rglob("*.py")
    if BOARD not in path.parents
)

Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def name_of(path: Path) -> str:
    return str(path.relative_to(PROJECT))


@pytest.mark.slow
def test_the_readme_shows_what_its_commands_say() -> None:
    done = run(PROJECT / "docs/refresh.py", "--check", folder=PROJECT)
    assert done.returncode == 0, done.stderr


def test_examples_run(tmp_path: Path) -> None:
    (tmp_path / "slide.svs").write_bytes(colon_slide(shape=(1024, 1280)))
    said = {
        "segment_a_slide.py": run(PROJECT / "examples/segment_a_slide.py", "slide.svs", "out", folder=tmp_path),
        "largest_glands.py": run(PROJECT / "examples/largest_glands.py", "out/slide.ome.zarr", folder=tmp_path),
    }
    assert said.keys() == {path.name for path in (PROJECT / "examples").glob("*.py")}, "run the new example here"
    for name, done in said.items():
        assert done.returncode == 0, f"{name}: {done.stderr}"
        assert " gland" in done.stdout, name
    assert (tmp_path / "out" / "overview.png").is_file()


def test_the_example_of_glands_reads_a_mask_of_one_level(tmp_path: Path) -> None:
    small_slide(tmp_path / "slide.svs", blobs(300, 400))
    made = segment(tmp_path / "slide.svs", tmp_path / "out", model=tiny_model(tmp_path / "tiny.safetensors"))
    done = run(PROJECT / "examples/largest_glands.py", str(made.path), folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "mm2 around x" in done.stdout


def test_the_outlines_of_all_slides_of_a_batch_are_written_as_the_page_says(tmp_path: Path) -> None:
    model = tiny_model(tmp_path / "tiny.safetensors")
    for name in ("a", "case 7/b"):
        slide = small_slide(tmp_path / f"{Path(name).name}.svs", blobs(300, 400))
        segment(slide, tmp_path / "results/slides" / name, model=model)
    (said,) = re.findall(
        r"^```sh\n(.*wsi-espnet outlines.*)\n```$", (PROJECT / "docs/batch.md").read_text(), re.MULTILINE
    )
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["sh", "-c", said], cwd=tmp_path, env=os.environ | {"PATH": path}, capture_output=True, text=True, check=False
    )
    assert done.stderr == ""
    written = sorted(str(found.parent.relative_to(tmp_path)) for found in tmp_path.rglob("outlines.geojson"))
    assert written == ["results/slides/a", "results/slides/case 7/b"]


def run(program: Path, *arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(program), *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8"))
    missing = [t for t in targets if "://" not in t and not (page.parent / t).exists()]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_programs_import_what_exists(page: Path) -> None:
    for program in re.findall(r"^```python\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL):
        for node in ast.walk(ast.parse(program)):
            if isinstance(node, ast.ImportFrom) and node.module is not None:
                module = importlib.import_module(node.module)
                assert not [alias.name for alias in node.names if not hasattr(module, alias.name)]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_no_placeholder_is_left(page: Path) -> None:
    assert not re.findall(r"\b(?:TODO|TBD|FIXME|PARAMS|SCORES|TIMING)\b", page.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_public_names_have_docstrings(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    undocumented = [name for name, node in public(tree, "module") if ast.get_docstring(node) is None]
    assert not undocumented


def public(node: Documented, name: str) -> Iterator[tuple[str, Documented]]:
    """A module or class, and the public classes, functions and methods in it."""
    yield name, node
    for child in node.body:
        if isinstance(child, ast.ClassDef | ast.FunctionDef) and not child.name.startswith("_"):
            if isinstance(child, ast.ClassDef):
                yield from public(child, f"{name}.{child.name}")
            else:
                yield f"{name}.{child.name}", child
