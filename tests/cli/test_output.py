"""What commands say when all goes well: results on stdout, and nothing else there."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
import zarr
from small import Call, blobs, command, differing_files, run_process, small_slide

from wsi_espnet.cli import say
from wsi_espnet.models.card import Normalisation
from wsi_espnet.models.catalog import read_card
from wsi_espnet.models.espnet import build
from wsi_espnet.models.network_config import EspNetConfig
from wsi_espnet.segment import segment


def test_the_version_is_that_of_the_installed_package(wsi_espnet: Call) -> None:
    told = wsi_espnet("--version")
    assert (told.status, told.out, told.err) == (0, f"wsi-espnet {version('wsi_espnet')}\n", "")


def test_segment_prints_areas_and_places(bench: Path, tmp_path: Path, wsi_espnet: Call) -> None:
    out = tmp_path / "a folder [old]"
    told = wsi_espnet("segment", bench / "slide.svs", "-o", out, "-m", bench / "tiny.safetensors")
    assert told.status == 0
    lines = told.out.splitlines()
    assert lines[0].split() == ["class", "mm2", "of", "tissue"]
    assert [line.split()[0] for line in lines[1:5]] == ["glass", "stroma", "gland", "tissue"]
    shares = [float(line.split()[-1].rstrip("%")) for line in lines[1:4]]
    assert sum(shares) == pytest.approx(100, abs=0.2)
    assert lines[5:] == [
        f"mask      {out / 'slide.ome.zarr'}",
        f"overview  {out / 'overview.png'}",
        f"areas     {out / 'areas.csv'}",
    ]


def test_ctrl_c_is_said_and_the_run_goes_on_later(bench: Path, tmp_path: Path) -> None:
    slide = small_slide(tmp_path / "slide.svs", blobs(2400, 2400))
    words = ("segment", slide, "-o", tmp_path / "out", "-m", bench / "tiny.safetensors", "--json")
    process = subprocess.Popen(command(*words), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    core = tmp_path / "out" / "slide.ome.zarr" / "labels" / "classes" / "0" / "c" / "0" / "0"
    deadline = time.monotonic() + 60
    while not core.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert out == ""
    assert err.splitlines()[-1].startswith("interrupted; what is finished is kept")
    assert "Traceback" not in err
    said = json.loads(run_process(*words).out)
    assert 0 < said["computed"] < said["windows"]


def test_json_is_all_that_stdout_holds(bench: Path, tmp_path: Path) -> None:
    told = run_process(
        "segment", bench / "slide.svs", "-o", "out", "-m", bench / "tiny.safetensors", "--json",
        cwd=tmp_path,
    )  # fmt: skip
    assert told.status == 0
    said = json.loads(told.out)
    assert (said["windows"], said["computed"], said["failed"]) == (12, 12, [])
    assert said["mpp"] == [0.5, 0.5]
    assert said["tissue_mm2"] == pytest.approx(sum(c["mm2"] for c in said["classes"].values()))
    for key in ("mask", "overview", "areas_csv", "areas_json"):
        assert (tmp_path / said[key]).exists()


def test_the_command_and_the_function_give_the_same_bytes(bench: Path, tmp_path: Path, wsi_espnet: Call) -> None:
    words = ["--stitch=crop", "--window=320", "--halo=24", "--mpp=0.8", "--probabilities", "--precision=fp32"]
    model = bench / "tiny.safetensors"
    assert wsi_espnet("segment", bench / "slide.svs", "-o", tmp_path / "cli", "-m", model, *words).status == 0
    segment(
        bench / "slide.svs",
        tmp_path / "python",
        model=model,
        stitch="crop",
        window=320,
        halo=24,
        mpp=0.8,
        probabilities=True,
        precision="fp32",
    )
    assert differing_files(tmp_path / "cli", tmp_path / "python") == []


def test_tile_prints_the_place_that_segment_can_read(bench: Path, tmp_path: Path, wsi_espnet: Call) -> None:
    told = wsi_espnet("tile", bench / "slide.svs", "-o", tmp_path / "x.ome.zarr", "--mpp", "1", "--tissue-only")
    assert (told.status, told.out) == (0, f"{tmp_path / 'x.ome.zarr'}\n")
    assert zarr.open_group(tmp_path / "x.ome.zarr", mode="r")["0"].shape == (3, 300, 400)
    info = wsi_espnet("info", tmp_path / "x.ome.zarr", "--json", "-m", bench / "tiny.safetensors")
    assert json.loads(info.out)["vendor"] == "ome-zarr"
    told = wsi_espnet(
        "segment", tmp_path / "x.ome.zarr", "-o", tmp_path / "out", "-m", bench / "tiny.safetensors", "--mpp=1",
    )  # fmt: skip
    assert told.status == 0
    assert (tmp_path / "out" / "x.ome.zarr").is_dir()


@pytest.mark.parametrize(
    ("options", "order", "divide"), [("", "bgr", 255.0), ("--order rgb --divide 1", "rgb", 1.0)], ids=["authors", "own"]
)
def test_weights_of_other_classes_are_imported_with_their_normalisation(
    wsi_espnet: Call, tmp_path: Path, options: str, order: str, divide: float
) -> None:
    torch.save(build(EspNetConfig(p=1, q=1, classes=3)).state_dict(), tmp_path / "own.pth")
    words = "--classes glas-grade --mean 72.4,82.9,73.2 --std 45.3,46.2,44.9"
    out = tmp_path / "own.safetensors"
    told = wsi_espnet("models", "import", tmp_path / "own.pth", "-o", out, *words.split(), *options.split())
    assert (told.status, told.err) == (0, "")
    card = read_card(out)
    assert card.classes.name == "glas-grade"
    assert card.normalisation == Normalisation(
        order=order,  # type: ignore[arg-type]
        mean=(72.4, 82.9, 73.2),
        std=(45.3, 46.2, 44.9),
        divide=divide,
    )


@pytest.mark.parametrize("words", [("models", "list"), ("models", "show", "glas-colon"), ("sample",)])
def test_lists_go_to_stdout(wsi_espnet: Call, words: tuple[str, ...]) -> None:
    told = wsi_espnet(*words)
    assert (told.status, told.err) == (0, "")
    assert "colon" in told.out


@pytest.mark.parametrize("words", [("models", "list", "--json"), ("models", "show", "glas-colon", "--json")])
def test_lists_parse_as_json(wsi_espnet: Call, words: tuple[str, ...]) -> None:
    told = wsi_espnet(*words)
    assert "glas-colon" in json.dumps(json.loads(told.out))


def test_a_log_gets_a_line_of_progress_now_and_then(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(say, "LINE_EVERY_S", 0.0)
    with say.progress_bar("windows") as update:
        update(1, 3, "2.0 Mpx/s")
        monkeypatch.setattr(say, "LINE_EVERY_S", 1e9)
        update(2, 3, "2.0 Mpx/s")
    out, err = capsys.readouterr()
    assert (out, err) == ("", "windows 1/3 2.0 Mpx/s\n")


def test_at_the_end_nothing_is_left_for_python_to_look_through() -> None:
    code = (
        "import atexit, gc, sys\n"
        "from wsi_espnet.cli import main\n"
        "atexit.register(lambda: print(gc.get_freeze_count() > 10_000))\n"  # the last to be called
        "sys.argv = ['wsi-espnet', 'sample']\n"
        "main.run()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "True"
