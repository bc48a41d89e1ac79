"""Networks to export."""

from __future__ import annotations

from pathlib import Path

import pytest
from small import tiny_model

from wsi_espnet.models.importer import import_pth
from wsi_espnet.models.weights import LoadedModel, load_model, save_model


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    """A small network of random weights."""
    return load_model(tiny_model(tmp_path_factory.mktemp("tiny") / "tiny.safetensors"))


@pytest.fixture(scope="session")
def coarse(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    """One without a decoder, whose logits are at stride 8."""
    return load_model(tiny_model(tmp_path_factory.mktemp("coarse") / "c.safetensors", architecture="espnet-c"))


@pytest.fixture(scope="session")
def colon() -> LoadedModel:
    """The bundled model."""
    return load_model("glas-colon")


@pytest.fixture(scope="session")
def camvid_file(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The authors' CamVid weights: BGR, divided by 255 twice."""
    module, card = import_pth(shared / "data/weights/espnet/decoder/espnet_p_2_q_8_camvid.pth", name="camvid")
    return save_model(tmp_path_factory.mktemp("camvid") / "camvid.safetensors", module, card)


@pytest.fixture(scope="session")
def camvid(camvid_file: Path) -> LoadedModel:
    """The same, loaded."""
    return load_model(camvid_file)
