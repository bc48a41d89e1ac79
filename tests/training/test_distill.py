"""Learning from a teacher, against numpy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import rel_entr, softmax
from small import tiny_model

from wsi_espnet.errors import UsageError
from wsi_espnet.models.card import Normalisation
from wsi_espnet.models.catalog import class_table
from wsi_espnet.models.espnet import EspNet
from wsi_espnet.models.weights import load_model
from wsi_espnet.training.distill import agreed, logits_loss, pairwise_loss, renormalise
from wsi_espnet.training.module import Teacher


def test_logits_loss_is_the_divergence_of_the_softened_outputs_of_labelled_px() -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 4, 3, 5), torch.randn(2, 4, 3, 5)
    labels = torch.zeros(2, 3, 5, dtype=torch.int64)
    labels[1, :2] = 255
    p, q = (softmax(x.double().numpy() / 2.0, axis=1) for x in (teacher, student))
    wanted = 4 * rel_entr(p, q).sum(axis=1)[labels.numpy() != 255].mean()
    assert logits_loss(student, teacher, labels, temperature=2.0).item() == pytest.approx(wanted, rel=1e-5)
    assert logits_loss(student, teacher, torch.full_like(labels, 255), temperature=2.0).item() == 0


def test_teachers_agree_on_the_mean_of_their_probabilities() -> None:
    torch.manual_seed(2)
    one, other = torch.randn(1, 3, 4, 6), torch.randn(1, 3, 4, 6)
    wanted = np.mean([softmax(x.double().numpy() / 2.0, axis=1) for x in (one, other)], axis=0)
    got = agreed([one, other], (4, 6), temperature=2.0)
    np.testing.assert_allclose(softmax(got.double().numpy() / 2.0, axis=1), wanted, atol=1e-6)
    alone = agreed([one], (4, 6), temperature=2.0)
    np.testing.assert_allclose((alone - one).std(dim=1).numpy(), 0, atol=1e-6)  # the same but for a shift
    assert agreed([one, other[..., :2, :3]], (8, 12), temperature=1.0).shape == (1, 3, 8, 12)


def test_a_teacher_is_asked_for_the_classes_by_name(tmp_path: Path) -> None:
    street, void = class_table("camvid11"), class_table("camvid12")
    backwards = tuple(c.model_copy(update={"id": i}) for i, c in enumerate(void.classes[::-1]))
    known = void.model_copy(update={"classes": backwards})
    model = load_model(tiny_model(tmp_path / "tiny.safetensors", classes=known))
    assert isinstance(model.module, EspNet)
    pixels = torch.randn(1, 3, 16, 24, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        asked = Teacher.of(model, street.names).fine_and_coarse(pixels, model.card.normalisation)
        whole = model.module.fine_and_coarse(pixels)
    for got, all_ in zip(asked, whole, strict=True):
        assert got is not None
        torch.testing.assert_close(got, all_.flip(1)[:, :11])  # void, the first of theirs, is left out
    with pytest.raises(UsageError, match="the teacher tiny does not know colon, which the data set has"):
        Teacher.of(model, ["sky", "colon"])


def test_a_student_that_agrees_has_nothing_to_learn() -> None:
    x = torch.randn(1, 4, 6, 6, generator=torch.Generator().manual_seed(0))
    assert logits_loss(x + 3, x, torch.zeros(1, 6, 6, dtype=torch.int64), temperature=1).item() == pytest.approx(
        0, abs=1e-6
    )
    # Similarity has no scale, and knows no number of channels.
    assert pairwise_loss(x, torch.cat([2 * x, 2 * x], dim=1), pool=2).item() == pytest.approx(0, abs=1e-10)


def test_pairwise_loss_compares_the_cosines_of_all_pairs_of_places() -> None:
    torch.manual_seed(1)
    student, teacher = torch.randn(1, 3, 4, 5), torch.randn(1, 7, 4, 5)

    def cosines(x: torch.Tensor) -> np.ndarray:
        places = x[0].double().numpy()
        # 2 x 2 px each, of which the last column has one.
        means = [places[:, y : y + 2, c : c + 2].mean(axis=(1, 2)) for y in (0, 2) for c in (0, 2, 4)]
        unit = np.array([m / np.linalg.norm(m) for m in means])
        return unit @ unit.T

    wanted = np.mean((cosines(student) - cosines(teacher)) ** 2)
    assert pairwise_loss(student, teacher, pool=2).item() == pytest.approx(wanted, rel=1e-5)


def test_pixels_can_be_made_again_for_another_network() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    one = Normalisation(order="rgb", mean=(10, 20, 30), std=(40, 50, 60))
    other = Normalisation(order="bgr", mean=(72, 82, 73), std=(45, 46, 44), divide=255)
    for given, wanted in ((one, other), (other, one), (one, one)):
        got = renormalise(torch.from_numpy(given.apply(rgb))[None], given, wanted)
        np.testing.assert_allclose(got[0].numpy(), wanted.apply(rgb), atol=2e-5)
