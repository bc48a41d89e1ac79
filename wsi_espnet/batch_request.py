"""What a batch asks for: which slides, how each is segmented, and a digest that tells one request from another."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

from wsi_espnet.cohort.folder import Shard
from wsi_espnet.cohort.manifest import Entry
from wsi_espnet.cohort.settings import SegmentOptions
from wsi_espnet.errors import WsiEspnetError
from wsi_espnet.models.catalog import find_model


def select(entries: list[Entry], shard: Shard | None) -> list[Entry]:
    """The slides of a shard, in their order."""
    return entries if shard is None else entries[shard.number - 1 :: shard.count]


def options_of(entry: Entry, options: SegmentOptions) -> SegmentOptions:
    """How one slide is segmented: what its line in the manifest says comes first.

    Files are named by absolute paths, since workers may have been started in another folder.
    """
    said = {"slide_mpp": entry.mpp, "model": entry.model or options.model, "tissue": entry.tissue or options.tissue}
    said |= {name: _absolute(said[name]) for name in ("model", "tissue")}
    return options.model_copy(update={name: value for name, value in said.items() if value is not None})


def _absolute(text: object) -> str:
    """A file's absolute path; a name, such as that of a bundled model, as it is."""
    return str(Path(str(text)).absolute() if os.path.isfile(str(text)) else text)


def request_keys(entries: Sequence[Entry], options: SegmentOptions) -> list[str]:
    """A digest for each slide of everything that was asked for: the file as it is now, the model, the options.

    A result of the same key is what would be computed again. Another key leaves it to the result's own
    fingerprint, which takes opening the slide.

    Raises
    ------
    ModelError, UsageError
        The model of the whole batch is not there.
    """
    digests = {_absolute(options.model): _digest(options.model)}
    keys = []
    for entry in entries:
        own = options_of(entry, options)
        if own.model not in digests:
            try:
                digests[own.model] = _digest(own.model)
            except (WsiEspnetError, OSError):
                digests[own.model] = "absent"  # the slide fails, by itself, when it is begun
        facts = [str(entry.slide), _stamp(entry.slide), own.model_dump(), digests[own.model]]
        if own.tissue not in ("auto", "none"):
            facts.append(_stamp(Path(own.tissue)))
        keys.append(hashlib.sha256(json.dumps(facts).encode()).hexdigest())
    return keys


def _digest(model: str) -> str:
    return hashlib.sha256(find_model(model).read_bytes()).hexdigest()


def _stamp(path: Path) -> list[int]:
    """Size and time of a file; nothing for one that is not there."""
    try:
        found = path.stat()
    except OSError:
        return []
    return [found.st_size, found.st_mtime_ns]
