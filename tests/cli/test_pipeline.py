"""`run`: commands from a file, in order, each once."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import time
from pathlib import Path

import pytest
from small import Call, blobs, command, run_process, small_slide

PIPELINES = Path(__file__).resolve().parents[2] / "pipelines"
GIVEN = {"slide": "a slide.svs", "data": "data of GlaS"}
"""What the files leave to be said."""


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("path", sorted(PIPELINES.glob("steps-*.toml")), ids=lambda path: path.stem)
def test_the_commands_of_those_that_come_along_are_known(path: Path, wsi_espnet: Call) -> None:
    said = [name for name in GIVEN if f'{name} = ""' in path.read_text(encoding="utf-8")]
    told = wsi_espnet("run", path, "--dry-run", *(word for name in said for word in ("--set", f"{name}={GIVEN[name]}")))
    assert told.status == 0, told.err
    assert len(told.out.splitlines()) == path.read_text(encoding="utf-8").count("[[steps]]")
    assert all(line.startswith("wsi-espnet ") for line in told.out.splitlines())
    assert all(f"'{GIVEN[name]}'" in told.out for name in said)


@pytest.mark.parametrize("value", ["1e3", "007", "true", "2026-11-30", "a b"])
def test_a_value_is_the_text_that_was_said(value: str, wsi_espnet: Call, tmp_path: Path) -> None:
    file = write(tmp_path / "p.toml", 'steps = [{run = "info $slide"}]\n[given]\nslide = ""\n')
    assert shlex.split(wsi_espnet("run", file, "--dry-run", "--set", f"slide={value}").out) == [
        "wsi-espnet", "info", value,
    ]  # fmt: skip


def test_a_slide_goes_through(bench: Path, tmp_path: Path, wsi_espnet: Call) -> None:
    out = tmp_path / "with blanks"
    words = ["run", PIPELINES / "steps-slide.toml"]
    for name, value in {"slide": bench / "slide.svs", "model": bench / "tiny.safetensors", "out": out}.items():
        words += ["--set", f"{name}={value}"]
    told = run_process(*words)
    assert told.status == 0, told.err
    assert [line.partition(":")[0] for line in told.err.splitlines() if line.startswith("step")] == [
        "step 1 of 3", "step 2 of 3", "step 3 of 3",
    ]  # fmt: skip
    assert "tissue  0.0" in told.out
    (out / "outlines.geojson").unlink()
    segmented, outlined, masked = wsi_espnet(*words, "--dry-run").out.splitlines()
    assert segmented.startswith("wsi-espnet segment ")
    assert outlined == f"wsi-espnet outlines '{out}'"
    assert masked == f"# {out / 'mask.ome.tiff'} is there"


def test_what_is_made_is_not_made_again(tmp_path: Path) -> None:
    steps = 'steps = [{run = "segment $here/absent.svs", makes = "$here/p.toml"}, {run = "models list"}]'
    told = run_process("run", write(tmp_path / "p.toml", steps))
    assert told.status == 0, told.err
    assert told.err.splitlines() == [
        f"step 1 of 2: {tmp_path / 'p.toml'} is there",
        "step 2 of 2: wsi-espnet models list",
    ]
    assert "glas-colon" in told.out


def test_a_step_that_fails_ends_it_with_its_sentence_and_status(bench: Path, tmp_path: Path) -> None:
    steps = 'steps = [{run = "info $here/empty.svs"}, {run = "sample colon --out $here"}]'
    told = run_process("run", write(tmp_path / "p.toml", steps))
    assert told.status == 1
    assert told.err.splitlines()[-1] == (
        "step 1 of 2 left with status 1, for the reason above; the same command goes on there"
    )
    assert f"error: there is no slide at {tmp_path}/empty.svs" in " ".join(told.err.split())
    assert [path.name for path in tmp_path.iterdir()] == ["p.toml"]


@pytest.mark.parametrize("ending", ["ctrl-c", "sigterm"])
def test_what_ends_it_ends_the_step_and_the_same_command_goes_on(ending: str, bench: Path, tmp_path: Path) -> None:
    slide = small_slide(tmp_path / "slide.svs", blobs(2400, 2400))
    step = f"segment {slide} -o {tmp_path / 'out'} -m {bench / 'tiny.safetensors'}"
    file = write(tmp_path / "p.toml", f'steps = [{{run = "{step}"}}, {{run = "info {slide}"}}]')
    process = subprocess.Popen(command("run", file), stderr=subprocess.PIPE, text=True, start_new_session=True)
    core = tmp_path / "out" / "slide.ome.zarr" / "labels" / "classes" / "0" / "c" / "0" / "0"
    deadline = time.monotonic() + 60
    while not core.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    if ending == "ctrl-c":
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    else:
        process.terminate()
    _, err = process.communicate(timeout=60)  # which the step holds open, as long as it lives
    if ending == "ctrl-c":
        assert process.returncode == 130
        assert err.splitlines()[-2].startswith("interrupted; what is finished is kept")
        assert err.splitlines()[-1] == "step 1 of 2 was interrupted; the same command goes on there"
    else:
        assert process.returncode == 143
        assert err.splitlines()[-1].startswith("step 1 of 2 left with status 143")
    assert "Traceback" not in err
    told = run_process("run", file)
    assert told.status == 0, told.err
    found = re.search(r"(\d+) of \d+ windows touch tissue, (\d+) to do", " ".join(told.err.split()))
    assert found
    assert 0 < int(found[2]) < int(found[1])


@pytest.mark.parametrize(
    ("text", "words", "said"),
    [
        ('steps = [{run = "segment a.svs"}, {run = "segmint a.svs"}]', [], "step 2, wsi-espnet segmint a.svs: No such"),
        ('steps = [{run = "info a.svs --fast"}]', [], "No such option: --fast"),
        ('steps = [{run = "info a.svs"}, {run = "info --help"}]', [], "step 2, wsi-espnet info --help, does nothing"),
        ('steps = [{run = "run $here/p.toml"}]', [], "a pipeline runs no other, nor itself"),
        ('steps = [{run = "models calibrate m.safetensors"}]', [], "step 1, wsi-espnet models calibrate"),
        ('steps = [{run = "info $slide"}]', [], "step 1: nothing gives $slide; there are here"),
        ('steps = [{run = "info $"}]', [], "a $ itself is written $$"),
        ('steps = [{run = "info \'a"}]', [], "step 1 cannot be read: No closing quotation"),
        ("steps = []", [], "steps: Tuple should have at least 1 item"),
        ('steps = [{ran = "info"}]', [], "the setting steps.0.run is missing; there is no setting steps.0.ran"),
        ('steps = [{run = "info a.svs"}]', ["--set", "out=b"], "has no value 'out'; it has none"),
        ('steps = [{run = "info $s"}]\n[given]\ns = ""', [], "needs s; say --set s=..."),
        ("steps = ", [], "is not TOML"),
        ("[augment]\n", [], "has no [[steps]]: it holds the settings of a training, wsi-espnet train"),
        ("[cluster]\n", [], "has no [[steps]]: it holds the settings of a batch, wsi-espnet batch --config"),
    ],
)
def test_what_cannot_work_is_refused_before_the_first_step(
    text: str, words: list[str], said: str, wsi_espnet: Call, tmp_path: Path
) -> None:
    wsi_espnet("run", write(tmp_path / "p.toml", text), *words).assert_refused(2, said)


def test_a_file_that_is_not_there_is_refused(wsi_espnet: Call, tmp_path: Path) -> None:
    wsi_espnet("run", tmp_path / "p.toml").assert_refused(2, "cannot read the settings", "No such file")


def test_a_step_must_make_what_it_says(bench: Path, tmp_path: Path) -> None:
    steps = f'steps = [{{run = "info {bench / "slide.svs"}", makes = "$here/absent"}}]'
    told = run_process("run", write(tmp_path / "p.toml", steps))
    assert told.status == 2
    assert "step 1 ended well, but" in told.err.splitlines()[-1]
    assert "absent is not there" in told.err.splitlines()[-1]
