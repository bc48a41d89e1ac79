"""Videos: every frame, upright, at its time; damage is told."""

from __future__ import annotations

import contextlib
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from small import blobs

from wsi_espnet.data.videos import is_video, open_video
from wsi_espnet.errors import DataError, DependencyError
from wsi_espnet.outputs.videos import write_video

RATE = Fraction(30_000, 1001)


def lossless(path: Path, frames: list[np.ndarray]) -> Path:
    """A video with the very px, written without the package's own writer."""
    with av.open(path, "w") as container:
        stream = container.add_stream("libx264rgb", rate=RATE, options={"crf": "0"})
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "rgb24"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    return path


@pytest.fixture
def frames() -> list[np.ndarray]:
    return [blobs(48, 64, seed=i) for i in range(7)]


def test_every_frame_comes_once_in_its_place_and_at_its_time(tmp_path: Path, frames: list[np.ndarray]) -> None:
    video = open_video(lossless(tmp_path / "a.mp4", frames))
    assert (video.frames, video.rate) == (7, RATE)
    seen = list(video)
    assert len(seen) == 7
    for i, (frame, wanted) in enumerate(zip(seen, frames, strict=True)):
        np.testing.assert_array_equal(frame.rgb, wanted)
        assert frame.second is not None
        assert float(frame.second) == pytest.approx(i / RATE, abs=1e-3)


def test_a_turned_camera_gives_upright_frames(tmp_path: Path, frames: list[np.ndarray]) -> None:
    path = lossless(tmp_path / "a.mp4", frames)
    content = bytearray(path.read_bytes())
    # ISO/IEC 14496-12, 8.3.2: the display matrix is 40 bytes after the name of the track header. This one is a quarter
    # turn clockwise, as phones that are held upright write it.
    start = content.index(b"tkhd") + 44
    turn = (0, 0x10000, 0, 0xFFFF0000, 0, 0, 48 << 16, 0, 0x40000000)
    content[start : start + 36] = b"".join(value.to_bytes(4, "big") for value in turn)
    path.write_bytes(content)
    for frame, stored in zip(open_video(path), frames, strict=True):
        np.testing.assert_array_equal(frame.rgb, np.rot90(stored, -1))


def test_a_video_that_ends_too_early_gives_what_it_holds_and_tells(
    tmp_path: Path, frames: list[np.ndarray], caplog: pytest.LogCaptureFixture
) -> None:
    path = lossless(tmp_path / "a.mkv", frames)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    seen = list(open_video(path))
    assert 0 < len(seen) < 7
    for frame, wanted in zip(seen, frames, strict=False):
        np.testing.assert_array_equal(frame.rgb, wanted)
    assert f"says that it holds about 7 frames, and gave {len(seen)}" in caplog.text


def test_a_video_that_is_damaged_in_the_middle_is_told(
    tmp_path: Path, frames: list[np.ndarray], caplog: pytest.LogCaptureFixture
) -> None:
    path = lossless(tmp_path / "a.mkv", frames * 10)
    assert len(list(open_video(path))) == 70
    assert caplog.text == ""
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 2000] = bytes(2000)
    path.write_bytes(content)
    given = len(list(open_video(path)))
    assert 0 < given < 70
    assert f"1 of {given} frames of {path} are damaged and were patched" in caplog.text
    assert f"says that it holds about 70 frames, and gave {given}" in caplog.text


def test_what_is_no_video_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="is missing"):
        open_video(tmp_path / "a.mp4")
    (tmp_path / "a.mp4").write_text("no video")
    with pytest.raises(DataError, match="cannot be read as a video"):
        open_video(tmp_path / "a.mp4")
    with av.open(tmp_path / "sound.mp4", "w") as container:
        stream = container.add_stream("aac", rate=44_100)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        sound.sample_rate = 44_100
        container.mux([*stream.encode(sound), *stream.encode(None)])
    with pytest.raises(DataError, match="without pictures"):
        open_video(tmp_path / "sound.mp4")
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(DependencyError, match=r"wsi-espnet\[video\]"):
        open_video(tmp_path / "sound.mp4")


def test_a_folder_is_no_video_whatever_it_is_called(tmp_path: Path) -> None:
    (tmp_path / "drive.mp4").mkdir()
    assert not is_video(tmp_path / "drive.mp4")
    assert is_video(tmp_path / "DRIVE.MP4")


def test_what_is_written_is_read_again_at_the_same_times(tmp_path: Path) -> None:
    smooth = [np.full((31, 45, 3), 40 * i, np.uint8) for i in range(5)]
    times = [Fraction(0), Fraction(1, 10), None, Fraction(1, 2), Fraction(1, 4)]
    with write_video(tmp_path / "deep" / "a.mp4", Fraction(20)) as writer:
        for frame, second in zip(smooth, times, strict=True):
            writer.write(frame, second)
        assert not (tmp_path / "deep" / "a.mp4").exists()
    seen = list(open_video(tmp_path / "deep" / "a.mp4"))
    assert [round(float(frame.second or 0), 3) for frame in seen] == [0, 0.1, 0.15, 0.5, 0.5]
    for frame, wanted in zip(seen, smooth, strict=True):
        assert frame.rgb.shape == (32, 46, 3)  # sides made even
        assert np.abs(frame.rgb.astype(int)[:31, :45] - wanted).max() <= 4
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["a.mp4"]


def test_a_video_whose_making_failed_is_not_there(tmp_path: Path) -> None:
    with contextlib.suppress(DataError), write_video(tmp_path / "a.mp4", Fraction(20)) as writer:
        writer.write(blobs(16, 16), None)
        raise DataError("the source is damaged")
    assert list(tmp_path.iterdir()) == []
