"""Run what the README shows, in order, in an empty folder: its outputs and its picture are those of real runs.

    python docs/refresh.py            write outputs and picture anew, after a change of the model or of a command
    python docs/refresh.py --check    change nothing; fail where the README shows what a command no longer says

A ``console`` block holds commands (``$ ...``) and what they say, a ``python`` block a program. Other blocks are
not run. Numbers may differ from one machine to the next, so `--check` leaves them aside.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

PROJECT = Path(__file__).resolve().parents[1]
README = PROJECT / "README.md"
PICTURE = PROJECT / "docs" / "pictures" / "overview.png"
PICTURE_PX = 1600

_BLOCK = re.compile(r"^```(console|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_NUMBER = re.compile(r"\d+(\.\d+)?")


def run_console(block: str, folder: Path) -> str:
    """The block with the output that its commands have in `folder`; what goes to stderr is left out."""
    bin_ = Path(sys.executable).parent
    environment = {**os.environ, "COLUMNS": "100", "PATH": f"{bin_}{os.pathsep}{os.environ['PATH']}"}
    lines = []
    for command in (line for line in block.splitlines() if line.startswith("$ ")):
        done = subprocess.run(
            shlex.split(command[2:]), cwd=folder, env=environment, stdout=subprocess.PIPE, text=True, check=True
        )
        lines += [command, *(line.rstrip() for line in done.stdout.strip("\n").splitlines())]
    return "\n".join(lines) + "\n"


def follow(text: str, folder: Path) -> str:
    """The README with what its blocks say when they are run in `folder`, one after the other."""

    def rerun(found: re.Match[str]) -> str:
        kind, block = found.groups()
        if kind == "console":
            return f"```console\n{run_console(block, folder)}```"
        subprocess.run([sys.executable, "-c", block], cwd=folder, check=True)
        return found.group()

    return _BLOCK.sub(rerun, text)


def differing(shown: str, said: str) -> list[str]:
    """Lines in which the README and a run of it differ, numbers and widths of columns aside."""
    old, new = ([" ".join(_NUMBER.sub("#", line).split()) for line in text.splitlines()] for text in (shown, said))
    return [f"shown: {line}" for line in old if line not in new] + [f"said: {line}" for line in new if line not in old]


def save_picture(overview: Path) -> None:
    """The overview in 256 colours, small enough for a repository."""
    picture = Image.open(overview).convert("RGB")
    height = round(picture.height * PICTURE_PX / picture.width)
    small = picture.resize((PICTURE_PX, height), Image.Resampling.LANCZOS)
    PICTURE.parent.mkdir(exist_ok=True)
    small.quantize(256).save(PICTURE, optimize=True)


def main(*, check: bool) -> None:
    """Follow the README; write it anew, or compare."""
    shown = README.read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as folder:
        said = follow(shown, Path(folder))
        if check:
            wrong = differing(shown, said)
            sys.exit("README.md is out of date; run python docs/refresh.py\n" + "\n".join(wrong) if wrong else 0)
        save_picture(Path(folder) / "out" / "overview.png")
    README.write_text(said, encoding="utf-8")


if __name__ == "__main__":
    main(check="--check" in sys.argv[1:])
