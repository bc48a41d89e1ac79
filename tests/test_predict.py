"""Pictures in, masks out: which files, what is in them, what is refused."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small import blobs, tiny_model

from wsi_espnet.data.videos import open_video
from wsi_espnet.errors import DataError, ResumeError, ScaleError, UsageError
from wsi_espnet.models.catalog import class_table
from wsi_espnet.models.importer import import_pth
from wsi_espnet.models.weights import save_model
from wsi_espnet.outputs.pictures import voc_palette
from wsi_espnet.outputs.videos import write_video
from wsi_espnet.predict import predict


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return tiny_model(tmp_path / "tiny.safetensors", classes=class_table("voc21"), mpp=None)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    for i, name in enumerate(("a.png", "deep/b.jpg")):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(blobs(40, 56, seed=i)).save(tmp_path / "in" / name)
    return tmp_path / "in"


def test_each_kind_has_a_folder_that_mirrors_the_pictures(model: Path, pictures: Path, tmp_path: Path) -> None:
    told = []
    found = predict(model, pictures, tmp_path / "out", overlay=True, voc=True, progress=lambda *n: told.append(n))
    written = sorted(str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*.png"))
    assert written == sorted(f"{kind}/{name}.png" for kind in ("masks", "overlays", "voc") for name in ("a", "deep/b"))
    assert told == [(1, 2), (2, 2)]
    assert found.masks == 2
    labels, ids = (np.asarray(Image.open(tmp_path / "out" / kind / "a.png")) for kind in ("masks", "voc"))
    np.testing.assert_array_equal(labels, ids)
    shown = np.asarray(Image.open(tmp_path / "out/voc/a.png").convert("RGB"))
    np.testing.assert_array_equal(shown, voc_palette()[ids])
    assert np.asarray(Image.open(tmp_path / "out/overlays/a.png")).shape == (*labels.shape, 3) == (40, 56, 3)


def test_cityscapes_frames_become_label_ids_of_their_own_size(shared: Path, tmp_path: Path) -> None:
    module, card = import_pth(shared / "data/weights/espnet/decoder/espnet_p_2_q_3.pth", name="street")
    model = save_model(tmp_path / "street.safetensors", module, card)
    frame = shared / "data/street/cityscapes_sample/frankfurt_000000_000294_leftImg8bit.png"
    predict(model, frame, tmp_path / "out", label_ids="cityscapes", size=(512, 1024))
    ids = np.asarray(Image.open(tmp_path / "out/label_ids/frankfurt_000000_000294_leftImg8bit.png"))
    labels = np.asarray(Image.open(tmp_path / "out/masks/frankfurt_000000_000294_leftImg8bit.png"))
    assert ids.shape == (1024, 2048)
    for train_id, label_id in {0: 7, 2: 11, 13: 26, 19: 0}.items():
        np.testing.assert_array_equal(labels == train_id, ids == label_id)
    # espnet.md, section 9.5: pixel accuracy of these weights on the small truth of this frame.
    truth = np.asarray(
        Image.open(
            shared / "data/street/pseudo_cityscapes_dataset/gtFine/val/frankfurt"
            "/frankfurt_000000_000294_gtFine_labelTrainIds.png"
        )
    )
    known = truth != 255
    assert (labels[4::8, 4::8] == truth)[known].mean() == pytest.approx(0.789, abs=0.01)


def test_results_may_go_into_the_pictures_folder_or_above_it(model: Path, pictures: Path) -> None:
    for out in (pictures.parent, pictures):
        assert predict(model, pictures, out).masks == 2
        assert sorted(path.name for path in (out / "masks").rglob("*.png")) == ["a.png", "b.png"]


def test_one_bad_picture_does_not_stop_the_others(model: Path, pictures: Path, tmp_path: Path) -> None:
    (pictures / "0.png").write_text("no picture")
    found = predict(model, pictures, tmp_path / "out")
    assert [(f.picture.name, "cannot be read as a picture" in f.cause) for f in found.failures] == [("0.png", True)]
    assert found.masks == 2
    assert not (tmp_path / "out/masks/0.png").exists()
    with pytest.raises(DataError, match="cannot be read as a picture"):
        predict(model, pictures / "0.png", tmp_path / "other")


def test_nothing_that_is_there_is_replaced_unless_asked(model: Path, pictures: Path, tmp_path: Path) -> None:
    mine = tmp_path / "out/masks/deep/b.png"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    with pytest.raises(ResumeError, match=r"b\.png exists and is not replaced \(1 of 2 files\)"):
        predict(model, pictures, tmp_path / "out")
    assert [p for p in (tmp_path / "out").rglob("*") if p.is_file()] == [mine]
    assert mine.read_text() == "mine"
    predict(model, pictures, tmp_path / "out", overwrite=True)
    assert np.asarray(Image.open(mine)).shape == (40, 56)


def test_results_inside_the_folder_are_not_taken_for_pictures(model: Path, pictures: Path) -> None:
    for _ in range(2):
        found = predict(model, pictures, pictures / "out", overlay=True, overwrite=True)
        assert found.masks == 2


def test_each_frame_of_a_video_is_labelled_as_the_picture_that_it_is(model: Path, tmp_path: Path) -> None:
    with write_video(tmp_path / "drive.mp4", Fraction(10)) as writer:
        for i in range(4):
            writer.write(blobs(40, 56, seed=i), None)
    for i, frame in enumerate(open_video(tmp_path / "drive.mp4")):
        Image.fromarray(frame.rgb).save(tmp_path / f"{i:06d}.png")
    told: list[tuple[int, int]] = []
    out = tmp_path / "out"
    (out / "masks/drive").mkdir(parents=True)
    (out / "masks/drive/000009.png").write_text("of a longer one")
    with pytest.raises(ResumeError, match="drive exists and is not replaced"):
        predict(model, tmp_path / "drive.mp4", out, overlay=True, voc=True)
    predicted = predict(
        model,
        tmp_path / "drive.mp4",
        out,
        overlay=True,
        voc=True,
        overwrite=True,
        progress=lambda *n: told.append(n),
    )
    assert (predicted.masks, told[-1]) == (4, (4, 4))
    assert predicted.folders == (out / "masks/drive", out / "voc/drive")
    assert sorted(p.name for p in (out / "masks/drive").iterdir()) == [f"{i:06d}.png" for i in range(4)]
    predict(model, tmp_path / "000002.png", tmp_path / "one")
    for kind in ("masks", "voc"):
        np.testing.assert_array_equal(
            np.asarray(Image.open(out / kind / "drive/000002.png")),
            np.asarray(Image.open(tmp_path / "one/masks/000002.png")),
        )
    assert predicted.video == out / "overlays/drive.mp4"
    overlays = list(open_video(predicted.video))
    assert [frame.rgb.shape for frame in overlays] == [(40, 56, 3)] * 4
    assert [frame.second for frame in overlays] == [Fraction(i, 10) for i in range(4)]


def test_a_model_of_tissue_is_told_the_scale(pictures: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tissue = tiny_model(tmp_path / "tissue.safetensors")
    predict(tissue, pictures / "a.png", tmp_path / "out")
    assert "was trained at 0.5 um per px" in caplog.text
    caplog.clear()
    predict(tissue, pictures / "a.png", tmp_path / "half", mpp=0.25)
    assert caplog.text == ""
    with pytest.raises(ScaleError, match="nothing is enlarged"):
        predict(tissue, pictures / "a.png", tmp_path / "twice", mpp=1.0)
    with pytest.raises(UsageError, match="--mpp must be positive"):
        predict(tissue, pictures / "a.png", tmp_path / "twice", mpp=0.0)


def test_ids_that_the_classes_do_not_have_are_refused(pictures: Path, tmp_path: Path) -> None:
    tissue = tiny_model(tmp_path / "tissue.safetensors")
    with pytest.raises(UsageError, match="Cityscapes has no label for the class 'glass' of three"):
        predict(tissue, pictures, tmp_path / "out", label_ids="cityscapes")
    with pytest.raises(UsageError, match="--voc needs a model of VOC's 21 classes"):
        predict(tissue, pictures, tmp_path / "out", voc=True)
    assert not (tmp_path / "out").exists()
