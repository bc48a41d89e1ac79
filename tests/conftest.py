"""Fixtures that every test may use."""

from __future__ import annotations

from pathlib import Path

import pytest

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
