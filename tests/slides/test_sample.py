"""Sample slides open as slides, show tissue, and fail in words."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pooch
import pytest
import requests

from wsi_espnet.errors import OutputError, SlideError, UsageError
from wsi_espnet.geometry import Region
from wsi_espnet.slides import sample
from wsi_espnet.slides.colon import GLASS, colon_slide, he_picture
from wsi_espnet.slides.sample import CMU_SMALL_SHA256, CMU_SMALL_URL, list_samples, make_sample
from wsi_espnet.slides.slide import Slide
from wsi_espnet.slides.tissue import find_tissue


@pytest.fixture(scope="module")
def colon(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_sample("colon", tmp_path_factory.mktemp("sample"))


def test_the_colon_sample_is_a_pyramidal_slide_at_twenty_times(colon: Path) -> None:
    with Slide(colon) as slide:
        assert (slide.vendor, slide.power) == ("aperio", 20.0)
        assert slide.mpp == pytest.approx((0.62005, 0.62005))
        assert [level.shape for level in slide.levels] == [(5120, 6144), (1280, 1536), (320, 384)]
        assert "thumbnail" in slide.associated_images


def test_the_colon_sample_shows_islands_of_tissue_on_glass(colon: Path) -> None:
    with Slide(colon) as slide:
        assert 0.3 < find_tissue(slide, slide.plan(None)).fraction < 0.6
        corner = slide.read(slide.plan(None), Region(0, 0, 64, 64))
        np.testing.assert_allclose(corner.mean(axis=(0, 1)), GLASS, atol=2)


def test_levels_of_the_colon_sample_show_the_same(colon: Path) -> None:
    with Slide(colon) as slide:
        fine = slide.read_level(slide.levels[1], Region(400, 600, 320, 320))
        coarse = slide.read_level(slide.levels[2], Region(100, 150, 80, 80))
    shrunk = fine.reshape(80, 4, 80, 4, 3).mean(axis=(1, 3))
    in_place, a_px_off = np.abs(shrunk - coarse).mean(), np.abs(shrunk[:, 1:] - coarse[:, :-1]).mean()
    assert in_place < 6  # JPEG, twice
    assert in_place < 0.6 * a_px_off


def test_the_same_seed_gives_the_same_slide() -> None:
    first, again, other = (colon_slide(seed=seed, shape=(512, 768)) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_the_picture_has_the_colours_of_haematoxylin_and_eosin() -> None:
    red, green, blue = np.moveaxis(he_picture().astype(float), 2, 0)
    stained = green < 200
    assert stained.mean() > 0.7
    assert (green < red)[stained].mean() > 0.85  # neither of the stains lets green pass
    assert (green < blue)[stained].mean() > 0.99  # brown would


def test_a_sample_that_is_there_is_not_replaced_unasked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = sample.Sample(summary="", terms="", content=lambda: b"new")
    monkeypatch.setitem(sample.SAMPLES, "colon", entry)
    (tmp_path / "colon.svs").write_bytes(b"mine")
    with pytest.raises(OutputError, match=r"already there.*--overwrite"):
        make_sample("colon", tmp_path)
    assert (tmp_path / "colon.svs").read_bytes() == b"mine"
    assert make_sample("colon", tmp_path, overwrite=True).read_bytes() == b"new"
    assert [p.name for p in tmp_path.iterdir()] == ["colon.svs"]


def test_an_unknown_sample_is_refused_with_those_there_are() -> None:
    assert list_samples() == ["colon", "cmu-small"]
    with pytest.raises(UsageError, match="'liver'; choose one of colon, cmu-small"):
        make_sample("liver", Path())


def test_without_a_network_the_download_fails_with_its_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*args: object, **kwargs: object) -> None:
        raise requests.ConnectionError("no route")

    monkeypatch.setattr(pooch.HTTPDownloader, "__call__", offline)
    with pytest.raises(SlideError, match=rf"{CMU_SMALL_URL} cannot be downloaded \(ConnectionError\)"):
        make_sample("cmu-small", tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_download_that_is_not_the_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pooch.HTTPDownloader, "__call__", lambda self, url, file, _: Path(file).write_bytes(b"page"))
    with pytest.raises(SlideError, match=f"has changed: its sha256 is {hashlib.sha256(b'page').hexdigest()}"):
        make_sample("cmu-small", tmp_path)


def test_the_download_is_the_slide_that_is_meant(tmp_path: Path, slides: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = (slides / "CMU-1-Small-Region.svs").read_bytes()
    assert hashlib.sha256(real).hexdigest() == CMU_SMALL_SHA256
    monkeypatch.setattr(pooch.HTTPDownloader, "__call__", lambda self, url, file, _: Path(file).write_bytes(real))
    with Slide(make_sample("cmu-small", tmp_path)) as slide:
        assert slide.levels[0].shape == (2967, 2220)
