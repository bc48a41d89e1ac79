"""From a model to folders of files: which, what is in them, what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import onnx
import pytest
from small import tiny_model

from wsi_espnet import __version__
from wsi_espnet.errors import ModelError, ResumeError, UsageError
from wsi_espnet.export import TAKES, TARGETS, export
from wsi_espnet.exporting import bundle
from wsi_espnet.exporting.parity import Parity, ensure_parity
from wsi_espnet.models.card import ModelCard
from wsi_espnet.models.catalog import read_card


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return tiny_model(tmp_path / "tiny.safetensors")


def test_gpu_files_lie_in_a_folder_of_their_own(model: Path, tmp_path: Path) -> None:
    found = export(model, tmp_path / "out")
    names = ["tiny.onnx", "tiny.fp16.onnx", "tiny.json", "labels.txt"]
    assert list(found.files) == [tmp_path / "out/gpu" / name for name in names]
    assert {path.name for path in (tmp_path / "out/gpu").iterdir()} == set(names)
    assert (tmp_path / "out/gpu/labels.txt").read_text().split() == ["glass", "stroma", "gland"]
    assert [path.name for path in found.parities] == names[:2]


def test_a_file_says_what_it_is(model: Path, tmp_path: Path) -> None:
    export(model, tmp_path / "out", precision="fp16")
    graph = onnx.load_model(str(tmp_path / "out/gpu/tiny.fp16.onnx"))
    said = {entry.key: entry.value for entry in graph.metadata_props}
    card = read_card(model)
    assert ModelCard.model_validate_json(said["card"]) == card
    assert json.loads(said["class_names"]) == {"0": "glass", "1": "stroma", "2": "gland"}
    assert json.loads(said["palette"])["1"] == [230, 120, 160]
    assert json.loads(said["normalisation_inside"])["mean"] == [200, 160, 190]
    assert (said["mpp"], said["window_px"], said["halo_px"]) == ("0.5", "320", "32")
    assert (said["licence"], said["precision"]) == ("none", "fp16")
    assert said["producer"] == f"wsi-espnet {__version__}"
    beside = json.loads((tmp_path / "out/gpu/tiny.json").read_text())["files"]["tiny.fp16.onnx"]
    assert beside["operators"]["PRelu"] > 0
    assert beside["against_torch"]["same_labels"] > 0.99
    assert beside["weights_sha256"] == said["weights_sha256"]


def test_the_same_model_gives_the_same_bytes(model: Path, tmp_path: Path) -> None:
    for folder in ("a", "b"):
        export(model, tmp_path / folder)
    for name in ("tiny.onnx", "tiny.fp16.onnx", "tiny.json"):
        assert (tmp_path / "a/gpu" / name).read_bytes() == (tmp_path / "b/gpu" / name).read_bytes()


def test_nothing_that_is_there_is_replaced_unless_asked(model: Path, tmp_path: Path) -> None:
    mine = tmp_path / "out/gpu/tiny.json"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    with pytest.raises(ResumeError, match=r"tiny\.json exists and is not replaced"):
        export(model, tmp_path / "out")
    assert [path.name for path in mine.parent.iterdir()] == ["tiny.json"]
    export(model, tmp_path / "out", overwrite=True)
    assert mine.read_text() != "mine"


def test_a_graph_that_says_something_else_is_not_written(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundle, "answers", lambda graph, image: {"labels": image[:, 0] * 0})
    with pytest.raises(ModelError, match="of the labels that torch gives"):
        export(model, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_parity_has_a_limit_for_each_precision(model: Path) -> None:
    card = read_card(model)
    ensure_parity(Parity(px=10**6, labels=0.9999, logits=None), "fp32", card)
    ensure_parity(Parity(px=10**6, labels=0.995, logits=None), "fp16", card)
    with pytest.raises(ModelError, match=r"wanted 99\.99%"):
        ensure_parity(Parity(px=10**6, labels=0.9998, logits=None), "fp32", card)
    with pytest.raises(ModelError, match="take --precision fp32"):
        ensure_parity(Parity(px=10**6, labels=0.994, logits=None), "fp16", card)


def test_each_target_says_what_it_takes() -> None:
    assert TAKES.keys() == TARGETS.keys()


@pytest.mark.parametrize(
    "wrong",
    [
        {"target": "qupath", "size": (64, 96)},
        {"target": "qupath", "outputs": ["labels"]},
        {"target": "tx2", "precision": "fp16"},
        {"target": "openvino", "precision": "fp16"},
    ],
    ids=str,
)
def test_an_option_that_would_change_nothing_is_refused(model: Path, tmp_path: Path, wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=f"changes nothing for --target {wrong['target']}"):
        export(model, tmp_path / "out", **wrong)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [({"target": "toaster"}, "--target must be gpu"), ({"precision": "int4"}, "--precision must be fp32, fp16, both")],
)
def test_what_is_not_there_is_refused(model: Path, tmp_path: Path, wrong: dict[str, str], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        export(model, tmp_path / "out", **wrong)
