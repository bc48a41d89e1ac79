"""Where weights start, and what is left of them when the classes change."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from small import CLASSES, tiny_model

from wsi_espnet.classes import ClassTable
from wsi_espnet.errors import DependencyError, UsageError
from wsi_espnet.models.catalog import class_table
from wsi_espnet.models.espnet import build
from wsi_espnet.models.network_config import EspNetConfig
from wsi_espnet.models.weights import load_model
from wsi_espnet.training.config import ModelConfig
from wsi_espnet.training.imagenet import INPUT
from wsi_espnet.training.revive import DEAD_SHARE
from wsi_espnet.training.start import encoder_of, start

RENAMED = CLASSES.model_copy(
    update={
        "classes": (
            CLASSES.classes[2].model_copy(update={"id": 0}),
            CLASSES.classes[1].model_copy(update={"name": "muscle"}),
            CLASSES.classes[0].model_copy(update={"id": 2}),
            CLASSES.classes[0].model_copy(update={"id": 3, "name": "fat"}),
        ),
        "glass": 2,
    }
)
"""gland, muscle, glass, fat; the file knows glass, stroma, gland."""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tiny_model(tmp_path / "tiny.safetensors")


def of(file: Path, **changes: object) -> ModelConfig:
    return ModelConfig.model_validate({"p": 0, "q": 1, "init": str(file)} | changes)


def test_without_a_file_the_weights_are_those_of_the_seed() -> None:
    torch.manual_seed(5)
    begun = start(ModelConfig(p=0, q=1), CLASSES)
    torch.manual_seed(5)
    wanted = build(EspNetConfig(p=0, q=1, classes=3)).state_dict()
    assert all(torch.equal(t, wanted[key]) for key, t in begun.network.state_dict().items())
    assert begun.normalisation is None


def test_the_same_classes_keep_everything(file: Path) -> None:
    begun = start(of(file), CLASSES)
    wanted = load_model(file)
    assert all(torch.equal(t, wanted.module.state_dict()[key]) for key, t in begun.network.state_dict().items())
    assert begun.normalisation == wanted.card.normalisation
    assert begun.note.startswith("all of tiny")
    assert begun.network.training


def test_the_encoder_alone_leaves_the_decoder_to_chance(file: Path) -> None:
    begun = start(of(file, init_part="encoder"), CLASSES).network.state_dict()
    wanted = load_model(file).module.state_dict()
    kept = {key for key, t in begun.items() if torch.equal(t, wanted[key])}
    assert {key for key in begun if key.startswith("encoder.")} <= kept
    assert not {"level3_C.conv.weight", "classifier.weight", "up_l3.0.weight"} & kept


def test_other_classes_keep_the_pyramids_and_their_namesakes(file: Path) -> None:
    begun = start(of(file, init_classes={"fat": "stroma"}), RENAMED)
    wanted = load_model(file)
    theirs, ours = encoder_of(wanted.module), encoder_of(begun.network)
    for key, tensor in theirs.state_dict().items():
        assert key == "classifier.conv.weight" or torch.equal(tensor, ours.state_dict()[key])
    head, source = ours.classifier.conv.weight, theirs.classifier.conv.weight
    for row, other in ((0, 2), (2, 0), (3, 1)):
        assert torch.equal(head[row], source[other])
    assert not any(torch.equal(head[1], row) for row in source)


def test_an_encoder_file_starts_an_espnet_as_the_authors_did(tmp_path: Path) -> None:
    file = tiny_model(tmp_path / "coarse.safetensors", architecture="espnet-c")
    network = start(of(file), CLASSES).network.eval()
    x = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(network.fine_and_coarse(x)[1], load_model(file).module(x))  # type: ignore[union-attr, operator]


@pytest.mark.parametrize(
    ("name", "classes"), [("espnet_p_2_q_8.pth", "cityscapes19"), ("espnet_p_2_q_8_camvid.pth", "camvid11")]
)
def test_the_authors_weights_start_a_network_without_their_void_class(shared: Path, name: str, classes: str) -> None:
    path = shared / "data" / "weights" / "espnet" / "decoder" / name
    begun = start(ModelConfig(p=2, q=8, init=str(path), revive=True), class_table(classes))
    assert begun.normalisation is not None
    assert (begun.normalisation.order, begun.normalisation.divide) == ("rgb", 1.0)
    raw = torch.load(path, map_location="cpu", weights_only=True)["encoder.classifier.conv.weight"]
    head = encoder_of(begun.network).classifier.conv.weight
    assert torch.equal(head, raw[: len(head)])
    for layer in encoder_of(begun.network).modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            gains = layer.weight.abs()
            assert gains.min() >= DEAD_SHARE * gains.max()


@pytest.mark.parametrize(
    ("name", "classes", "skip"),
    [
        ("espnet_p_2_q_8.pth", "cityscapes19", 16),
        ("espnet_p_2_q_8.pth", "cityscapes20", 16),
        ("espnet_p_2_q_8_camvid.pth", "camvid12", 19),
    ],
)
def test_plain_rgb_gives_what_the_authors_input_gave(
    shared: Path, monkeypatch: pytest.MonkeyPatch, name: str, classes: str, skip: int
) -> None:
    """The encoder alone where a class is left out; the decoder too where all of the file is taken."""
    monkeypatch.setattr("wsi_espnet.training.start.wake_dead_channels", lambda _: None)
    path = str(shared / "data" / "weights" / "espnet" / "decoder" / name)
    rgb = np.random.default_rng(7).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    logits = []
    for revive in (False, True):
        begun = start(ModelConfig(p=2, q=8, skip=skip, init=path, revive=revive), class_table(classes))
        assert begun.normalisation is not None
        whole = begun.note.startswith("all of")
        assert whole == (classes != "cityscapes19")
        network = (begun.network if whole else encoder_of(begun.network)).eval()
        with torch.inference_mode():
            y = network(torch.from_numpy(begun.normalisation.apply(rgb))[None])
        logits.append(y if whole else y[-1])
    np.testing.assert_allclose(logits[1], logits[0], atol=1e-3)


def table(names: str) -> ClassTable:
    first = CLASSES.classes[0]
    rows = tuple(first.model_copy(update={"id": i, "name": name}) for i, name in enumerate(names.split()))
    return ClassTable(name="other", classes=rows)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"p": 2}, r"has p, q = \(0, 1\), model.p and model.q are \(2, 1\)"),
        ({"architecture": "encoder"}, "is an ESPNet-C at its core, which model.architecture = 'encoder' is not"),
        ({"skip": 16}, "has the detail skip 19, model.skip is 16"),
        ({"init_classes": {"bone": "gland"}}, "names bone; there are glass, stroma, gland"),
        ({"init_classes": {"gland": "bone"}}, "names bone; there are glass, stroma, gland"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(file: Path, changes: dict[str, object], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        start(of(file, **changes), CLASSES)


def test_classes_with_nothing_in_common_still_start_from_the_pyramids(file: Path) -> None:
    assert start(of(file), table("a b")).note.startswith("the encoder of tiny")


def test_imagenet_is_a_start_for_a_teacher_alone() -> None:
    teacher = ModelConfig(architecture="efficientnet-lite", size=2, init="imagenet")
    begun = start(teacher, CLASSES)
    assert begun.normalisation == INPUT
    assert begun.note.startswith("ImageNet (efficientnet-lite2")
    with pytest.raises(UsageError, match=r"'imagenet' is a start for model\.architecture = 'efficientnet-lite'"):
        start(ModelConfig(init="imagenet"), CLASSES)
    with pytest.raises(DependencyError, match="pip install efficientnet_lite4_pytorch_model"):
        start(teacher.model_copy(update={"size": 4}), CLASSES)
