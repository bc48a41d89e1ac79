"""`wsi-espnet view`: what cannot be shown is told before a window opens."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from small import blobs, command, run_process, small_slide


def test_what_is_no_slide_is_told_without_a_window(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("notes")
    run_process("view", tmp_path / "notes.txt").assert_refused(1, "notes.txt", "as a slide")
    run_process("view", tmp_path / "absent.svs").assert_refused(1, "there is no slide at")


def test_without_napari_it_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import importlib.util as u\nfind = u.find_spec\n"
        "u.find_spec = lambda name, *more: None if name == 'napari' else find(name, *more)\n"
    )
    told = run_process("view", "slide.svs", env=os.environ | {"PYTHONPATH": str(tmp_path)})
    told.assert_refused(1, "napari", "pip install 'wsi-espnet[napari]'")


@pytest.mark.slow
def test_a_window_with_the_slide_opens_and_stays(tmp_path: Path) -> None:
    """Started on a screen of its own; closed with Ctrl-C."""
    slide = small_slide(tmp_path / "slide.svs", blobs(300, 400))
    if subprocess.run(["which", "xvfb-run"], capture_output=True, check=False).returncode:
        pytest.skip("needs xvfb-run")
    screen = ["xvfb-run", "-a", "-s", "-screen 0 1400x1000x24"]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen([*screen, *command("view", slide)], stderr=log, stdout=log, start_new_session=True)
        try:
            deadline = time.monotonic() + 60
            while not _maps_a_window(process.pid) and time.monotonic() < deadline:
                time.sleep(0.2)
            assert _maps_a_window(process.pid), (tmp_path / "log").read_text()
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(timeout=5)
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    assert "Traceback" not in (tmp_path / "log").read_text()


def _maps_a_window(leader: int) -> bool:
    """Whether a process of the session has loaded Qt's platform for X, which it does for its first window."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if os.getsid(int(folder.name)) == leader and "libqxcb.so" in (folder / "maps").read_text():
                return True
        except (OSError, ProcessLookupError):
            continue
    return False
