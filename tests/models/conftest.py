from __future__ import annotations

from collections.abc import Callable

import pytest

from wsi_espnet.models.card import ModelCard, Normalisation
from wsi_espnet.models.catalog import class_table
from wsi_espnet.models.network_config import EspNetConfig


@pytest.fixture
def make_card() -> Callable[..., ModelCard]:
    """Makes the card of a small network with three classes; keywords replace its fields."""
    return _make_card


def _make_card(**changes: object) -> ModelCard:
    values: dict[str, object] = {
        "name": "test",
        "summary": "for tests",
        "network": EspNetConfig(p=1, q=1, classes=3),
        "classes": class_table("glas-grade"),
        "mpp": 0.5,
        "normalisation": Normalisation(mean=(200, 130, 198), std=(42, 60, 35)),
        "data": "none",
        "terms": "none",
        "split": "none",
        "scores": {"mIoU": 0.5, "IoU": {"benign gland": 0.25}},
        "limits": "none",
        "source": "a test",
    }
    return ModelCard.model_validate(values | changes)
