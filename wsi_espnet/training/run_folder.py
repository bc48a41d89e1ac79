"""The folder that a run leaves: what it was asked for, where it ran, how it went, what came of it.

config.json        all settings, defaults included
environment.json   versions, machine, command, commit
survey.json        px of each class and colours of the training split
log.csv            one line per epoch
steps.csv          one line per optimiser step
tensorboard/       the same for TensorBoard
curves.png         loss and scores over the epochs
predictions.png    some validation images, their truth, and what the network makes of them
checkpoints/       last.ckpt to go on from, best.ckpt
NAME.safetensors   the best network with its card
"""

from __future__ import annotations

import csv
import io
import json
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from wsi_espnet.atomic import remove_partials, write_bytes_atomic
from wsi_espnet.errors import ResumeError
from wsi_espnet.resume import remove_folder
from wsi_espnet.training.config import TrainConfig

CONFIG = "config.json"

CHANGES_NOTHING = frozenset({"run.workers", "data.cache"})
"""Settings that no number depends on: a run may be continued with others."""

PACKAGES = ("wsi-espnet", "torch", "lightning", "torchmetrics", "numpy", "pillow", "scikit-image")

Row = Mapping[str, object]


class RunFolder:
    """Paths of a run, and what is written to them."""

    def __init__(self, folder: Path, config: TrainConfig) -> None:
        self.folder = folder
        self.config = config
        self.log = folder / "log.csv"
        self.steps = folder / "steps.csv"
        self.survey = folder / "survey.json"
        self.curves = folder / "curves.png"
        self.predictions = folder / "predictions.png"
        self.last = folder / "checkpoints" / "last.ckpt"
        self.best = folder / "checkpoints" / "best.ckpt"
        self.model = folder / f"{config.name}.safetensors"

    def ensure_free(self, *, overwrite: bool) -> None:
        """Look whether the folder may be this run's: absent, empty, or the same run cut short. Nothing is written.

        Raises
        ------
        ResumeError
            Something else lies there, or a run with other settings that is not to be replaced.
        """
        known = (self.folder / CONFIG).is_file()
        if self.folder.exists() and not known and not _empty(self.folder):
            raise ResumeError(f"{self.folder} exists and is no training run; choose another folder")
        if known and not overwrite:
            self._ensure_same_settings()

    def begin(self, command: str, *, overwrite: bool) -> None:
        """Note settings and environment, in place of another run where that is to be replaced.

        Raises
        ------
        OutputError
            The folder cannot be written.
        """
        if overwrite and (self.folder / CONFIG).is_file():
            remove_folder(self.folder)
        remove_partials(self.folder)
        if not (self.folder / CONFIG).is_file():
            write_bytes_atomic(self.folder / CONFIG, (self.config.model_dump_json(indent=2) + "\n").encode())
        text = json.dumps(environment(command), indent=2) + "\n"
        write_bytes_atomic(self.folder / "environment.json", text.encode())

    def _ensure_same_settings(self) -> None:
        try:
            found = flat(json.loads((self.folder / CONFIG).read_text(encoding="utf-8")))
        except ValueError as exc:
            raise ResumeError(f"{self.folder / CONFIG} is damaged; choose another folder") from exc
        wanted = flat(json.loads(self.config.model_dump_json()))
        differing = sorted(k for k in found.keys() | wanted.keys() if found.get(k) != wanted.get(k))
        differing = [key for key in differing if key not in CHANGES_NOTHING]
        if differing:
            raise ResumeError(
                f"{self.folder} holds a run with other settings ({', '.join(differing[:5])}); choose another folder, "
                "or replace it with --overwrite"
            )


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one with dotted keys.

    Examples
    --------
    >>> flat({"run": {"epochs": 3, "seed": 0}, "name": "a"})
    {'run.epochs': 3, 'run.seed': 0, 'name': 'a'}
    """
    found: dict[str, Any] = {}
    for key, value in values.items():
        found.update(flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value})
    return found


def environment(command: str) -> dict[str, object]:
    """What a run depends on beside its settings."""
    return {
        "command": command,
        "commit": commit(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "packages": {name: _version(name) for name in PACKAGES},
    }


def commit() -> str | None:
    """Commit of the checkout that this package is imported from, with a + where files differ; None without one."""
    here = Path(__file__).resolve().parent

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(["git", "-C", str(here), *arguments], capture_output=True, text=True, check=False)
        except FileNotFoundError:  # no git on this machine
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    # A checkout of something else, which happens to hold an installed package, tells nothing.
    if git("ls-files", "--error-unmatch", Path(__file__).name) is None:
        return None
    head = git("rev-parse", "HEAD")
    return f"{head}+" if git("status", "--porcelain", "--untracked-files=no") else head


def read_rows(path: Path) -> list[dict[str, str]]:
    """Lines of a CSV file; none where it is absent."""
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """A CSV file, whole; the columns are those of the first row."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n", restval="")
    writer.writeheader()
    writer.writerows(rows)
    write_bytes_atomic(path, text.getvalue().encode())


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _empty(folder: Path) -> bool:
    return folder.is_dir() and not any(folder.iterdir())
