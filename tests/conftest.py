"""Fixtures that every test may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# Before torch is imported, here or in a process that a test starts: threads of OpenMP spin while they wait, and where
# two tests share two cores that takes four times the processor time of what is computed.
os.environ.setdefault("OMP_NUM_THREADS", "1")

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real slides, images and weights that lies beside the checkout."""
    if not SHARED.is_dir():
        pytest.skip("needs the data folder ../shared beside the checkout, which is absent")
    return SHARED


@pytest.fixture(scope="session")
def slides(shared: Path) -> Path:
    """Real whole-slide files."""
    return shared / "data" / "slides"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests come first, so that processes that take file after file end at the same time."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)
