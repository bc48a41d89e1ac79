from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from wsi_espnet.errors import UsageError
from wsi_espnet.models.card import EspNetConfig, Normalisation
from wsi_espnet.models.espnet import EspNet
from wsi_espnet.models.importer import import_pth
from wsi_espnet.training import glas_init


@pytest.fixture
def authors(shared: Path) -> Path:
    return shared / "data/weights/espnet/decoder/espnet_p_2_q_8.pth"


def test_the_converted_encoder_gives_the_authors_features(authors: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(glas_init, "wake_dead_channels", lambda _: None)
    module = EspNet(EspNetConfig(p=2, q=8, classes=3)).eval()
    glas_init.start_from(module, authors)
    reference, card = import_pth(authors)
    rgb = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    blue, green, red = card.normalisation.mean
    blue_std, green_std, red_std = card.normalisation.std
    plain = Normalisation(mean=(red, green, blue), std=(red_std, green_std, blue_std))
    # With the authors' classifier on top, all that differs is the way in.
    module.encoder.classifier = reference.encoder.classifier  # type: ignore[union-attr,assignment]
    with torch.inference_mode():
        wanted = reference.encoder(torch.from_numpy(card.normalisation.apply(rgb))[None])[3]  # type: ignore[union-attr,operator]
        got = module.encoder(torch.from_numpy(plain.apply(rgb))[None])[3]
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-3)


def test_no_channel_starts_dead(authors: Path) -> None:
    module = EspNet(EspNetConfig(p=2, q=8, classes=3))
    glas_init.start_from(module, authors)
    for layer in module.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            gain = layer.weight.abs()
            assert gain.min() >= glas_init.DEAD_SHARE * gain.max()


def test_another_depth_is_refused(authors: Path) -> None:
    with pytest.raises(UsageError, match="must be equal"):
        glas_init.start_from(EspNet(EspNetConfig(p=2, q=3, classes=3)), authors)
