"""`evaluate` and `predict` as users meet them."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small import Call, blobs, tiny_model

from wsi_espnet.models.catalog import class_table
from wsi_espnet.outputs.videos import write_video


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, a CamVid of one image, and pictures; nothing is written into it."""
    folder = tmp_path_factory.mktemp("place")
    tiny_model(folder / "m.safetensors", classes=class_table("camvid12"), mpp=None)
    tiny_model(folder / "tissue.safetensors")
    for name, px in (("val", blobs(24, 40)), ("valannot", np.full((24, 40), 3, np.uint8))):
        (folder / "camvid" / name).mkdir(parents=True)
        Image.fromarray(px).save(folder / "camvid" / name / "a.png")
    (folder / "empty").mkdir()
    (folder / "text.png").write_text("no picture")
    (folder / "drive.mp4").write_text("no video either")
    (folder / "mixed").mkdir()
    Image.fromarray(blobs(24, 40)).save(folder / "mixed" / "a.png")
    (folder / "mixed" / "b.png").write_text("no picture")
    return folder


def test_evaluate_prints_a_table_and_writes_the_files(place: Path, tmp_path: Path, wsi_espnet: Call) -> None:
    told = wsi_espnet(
        "evaluate", place / "m.safetensors", "camvid", "--data", place / "camvid", "-o", tmp_path / "out",
        "--save-masks", "--flip", "--scales", "1,0.5",
    )  # fmt: skip
    assert told.status == 0, told.err
    lines = told.out.splitlines()
    assert lines[0].split() == ["class", "IoU", "Dice", "accuracy", "of", "truth"]
    road = next(line for line in lines if line.startswith("road"))
    assert road.split()[-1] == "100.00"
    assert "tiny on 1 images of camvid val (camvid11); void is ignored" in lines
    assert f"written  1 masks in {tmp_path / 'out' / 'masks'}" in lines
    assert told.err == ""


def test_json_is_all_that_stdout_holds(place: Path, wsi_espnet: Call) -> None:
    words = ("evaluate", place / "m.safetensors", "camvid", "--data", place / "camvid", "--json", "--void-as-error")
    said = json.loads(wsi_espnet(*words).out)
    assert (said["void"], said["images"]) == ("error", 1)
    assert said["classes"]["road"]["truth px"] == 24 * 40


def test_predict_prints_where_the_masks_are(place: Path, tmp_path: Path, wsi_espnet: Call) -> None:
    out = tmp_path / "out"
    told = wsi_espnet("predict", place / "m.safetensors", place / "camvid/val", "-o", out, "--overlay", "--size=32x16")
    assert (told.status, told.err) == (0, "")
    assert told.out.splitlines() == [f"1 PNG in {out / 'masks'}", f"1 PNG in {out / 'overlays'}"]
    assert np.asarray(Image.open(out / "masks/a.png")).shape == (24, 40)


def test_predict_takes_a_video(place: Path, tmp_path: Path, wsi_espnet: Call) -> None:
    with write_video(tmp_path / "a.mp4", Fraction(25)) as writer:
        for seed in range(3):
            writer.write(blobs(24, 40, seed=seed), None)
    out = tmp_path / "out"
    told = wsi_espnet("predict", place / "m.safetensors", tmp_path / "a.mp4", "-o", out, "--overlay")
    assert (told.status, told.err) == (0, "")
    assert told.out.splitlines() == [f"3 PNG in {out / 'masks/a'}", f"overlays: {out / 'overlays/a.mp4'}"]


def test_pictures_that_could_not_be_done_are_told_at_the_end(place: Path, tmp_path: Path, wsi_espnet: Call) -> None:
    told = wsi_espnet("predict", place / "m.safetensors", place / "mixed", "-o", tmp_path / "out")
    assert told.status == 1
    assert told.out == f"1 PNG in {tmp_path / 'out' / 'masks'}\n"
    assert told.err.startswith("error: 1 pictures could not be done; the first: ")


EVALUATE = {
    "unknown adapter": (1, "m.safetensors kitti --data camvid", "no data set adapter 'kitti'", "camvid"),
    "missing folder": (1, "m.safetensors camvid --data nothing", "nothing", "is missing"),
    "another layout": (1, "m.safetensors camvid --data empty", "is not CamVid"),
    "unknown split": (1, "m.safetensors camvid --data camvid --split test", "no split 'test'"),
    "unknown model": (1, "resnet camvid --data camvid", "no model 'resnet'"),
    "other classes": (2, "tissue.safetensors camvid --data camvid", "glass, stroma, gland", "--map"),
    "map without value": (2, "m.safetensors camvid --data camvid --map road", "--map looks like NAME=VALUE"),
    "map to nowhere": (2, "m.safetensors camvid --data camvid --map road=street", "no class 'street'"),
    "size in words": (2, "m.safetensors camvid --data camvid --size big", "1024x512"),
    "size of 0": (2, "m.safetensors camvid --data camvid --size 0x8", "--size"),
    "scales in words": (2, "m.safetensors camvid --data camvid --scales all", "--scales"),
    "scale of 0": (2, "m.safetensors camvid --data camvid --scales 0", "--scales"),
    "masks without a folder": (2, "m.safetensors camvid --data camvid --save-masks", "--out"),
    "absent device": (2, "m.safetensors camvid --data camvid --device cuda:77", "--device cpu"),
    "no data": (2, "m.safetensors camvid", "--data"),
}
PREDICT = {
    "missing picture": (1, "m.safetensors nothing.png", "nothing.png is missing"),
    "not a picture": (1, "m.safetensors text.png", "cannot be read as a picture"),
    "empty folder": (1, "m.safetensors empty", "holds no pictures"),
    "not a video": (1, "m.safetensors drive.mp4", "cannot be read as a video"),
    "missing video": (1, "m.safetensors nothing.mp4", "nothing.mp4 is missing"),
    "ids of others": (2, "m.safetensors camvid/val --label-ids kitti", "label-ids", "cityscapes"),
    "ids it has not": (2, "m.safetensors camvid/val --label-ids cityscapes", "Cityscapes has no label"),
    "voc of others": (2, "m.safetensors camvid/val --voc", "VOC's 21 classes"),
    "mpp below 0": (2, "m.safetensors camvid/val --mpp -1", "--mpp"),
}


@pytest.mark.parametrize("case", EVALUATE)
def test_evaluate_refuses(place: Path, wsi_espnet: Call, monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    status, words, *said = EVALUATE[case]
    monkeypatch.chdir(place)
    wsi_espnet("evaluate", *words.split()).assert_refused(status, *said)


@pytest.mark.parametrize("case", PREDICT)
def test_predict_refuses(
    place: Path, tmp_path: Path, wsi_espnet: Call, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    status, words, *said = PREDICT[case]
    monkeypatch.chdir(place)
    wsi_espnet("predict", *words.split(), "-o", tmp_path / "out").assert_refused(status, *said)
    assert not (tmp_path / "out").exists()


def test_a_result_that_is_there_is_kept(place: Path, tmp_path: Path, wsi_espnet: Call) -> None:
    words = ("predict", place / "m.safetensors", place / "camvid/val", "-o", tmp_path / "out")
    assert wsi_espnet(*words).status == 0
    before = (tmp_path / "out/masks/a.png").stat().st_mtime_ns
    wsi_espnet(*words).assert_refused(2, "exists and is not replaced", "--overwrite")
    assert (tmp_path / "out/masks/a.png").stat().st_mtime_ns == before
    assert wsi_espnet(*words, "--overwrite").status == 0
