"""Slides to try things on: one made on the spot without a network, one real one to download."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pooch

from wsi_espnet.atomic import write_bytes_atomic
from wsi_espnet.errors import OutputError, SlideError, UsageError
from wsi_espnet.slides.colon import colon_slide


@dataclass(frozen=True, slots=True)
class Sample:
    """A slide that can be had by name.

    Parameters
    ----------
    summary
        What it shows and where it comes from.
    terms
        Under what terms it may be used.
    content
        Makes or fetches the bytes of the file.
    """

    summary: str
    terms: str
    content: Callable[[], bytes]


CMU_SMALL_URL = "https://openslide.cs.cmu.edu/download/openslide-testdata/Aperio/CMU-1-Small-Region.svs"
CMU_SMALL_SHA256 = "ed92d5a9f2e86df67640d6f92ce3e231419ce127131697fbbce42ad5e002c8a7"
TIMEOUT_S = 30


def list_samples() -> list[str]:
    """Names that `make_sample` knows."""
    return list(SAMPLES)


def make_sample(name: str, out_dir: Path, *, overwrite: bool = False) -> Path:
    """Write a sample slide, ``NAME.svs``, into a folder.

    Parameters
    ----------
    name
        One of `list_samples`.
    out_dir
        Where the slide goes; made if it is not there.
    overwrite
        Whether a file of that name may be replaced.

    Raises
    ------
    UsageError
        There is no sample of that name.
    OutputError
        The file exists and may not be replaced, or cannot be written.
    SlideError
        The sample cannot be downloaded.
    """
    if name not in SAMPLES:
        raise UsageError(f"there is no sample {name!r}; choose one of {', '.join(SAMPLES)}")
    path = Path(out_dir) / f"{name}.svs"
    if path.exists() and not overwrite:
        raise OutputError(f"{path} is already there; use it, choose another folder, or replace it with --overwrite")
    write_bytes_atomic(path, SAMPLES[name].content())
    return path


def _download(url: str, sha256: str) -> bytes:
    """Bytes of a file, or an error that says by hand what failed."""
    remedy = "download it by hand with a browser, or make the sample colon, which needs no network"
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "download"
        try:
            pooch.HTTPDownloader(progressbar=False, timeout=TIMEOUT_S)(url, str(file), None)
        except OSError as exc:  # requests' errors are OSErrors too
            raise SlideError(f"{url} cannot be downloaded ({type(exc).__name__}); {remedy}") from exc
        got = pooch.file_hash(str(file), alg="sha256")
        if got != sha256:
            raise SlideError(f"{url} has changed: its sha256 is {got}, wanted {sha256}; {remedy}")
        return file.read_bytes()


SAMPLES = {
    "colon": Sample(
        summary="Colon glands in the colours of H&E, composed on the spot from a picture in scikit-image",
        terms="made from a picture of the CMMI that scikit-image ships, with no known copyright restrictions",
        content=colon_slide,
    ),
    "cmu-small": Sample(
        summary="CMU-1-Small-Region: skin, H&E, 20x, from OpenSlide's test data (2 MB download)",
        terms="CC0-1.0",
        content=lambda: _download(CMU_SMALL_URL, CMU_SMALL_SHA256),
    ),
}
"""All samples, by name."""
