from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

import pytest
import zarr

from wsi_espnet.errors import OutputError, ResumeError
from wsi_espnet.resume import alone, claim_folder, mark, read_mark

FINGERPRINT: dict[str, Any] = {"source": {"name": "a.svs", "bytes": 12}, "mpp": (0.5, 0.5), "tissue": None}


def claim(out: Path, fingerprint: dict[str, Any] = FINGERPRINT, **options: Any) -> str:
    return claim_folder(out, fingerprint, **({"kind": "tile", "overwrite": False, "resume": True} | options))


def written(out: Path, state: str = "writing", **attributes: Any) -> Path:
    marked = mark(FINGERPRINT, kind="tile", state=state)  # type: ignore[arg-type]
    zarr.create_group(out, zarr_format=3, attributes={**attributes, **marked})
    return out


def test_nothing_and_an_empty_folder_are_new(tmp_path: Path) -> None:
    assert claim(tmp_path / "absent") == "new"
    assert claim(tmp_path) == "new"
    (tmp_path / "zarr.json.12ab.partial").touch()  # killed before the first file was whole
    assert claim(tmp_path) == "new"
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(("state", "expected"), [("writing", "resumed"), ("done", "done")])
def test_the_same_run_goes_on_or_is_done(tmp_path: Path, state: str, expected: str) -> None:
    out = written(tmp_path / "out", state)
    (out / "0.12ab.partial").touch()
    assert claim(out) == expected
    assert read_mark(out) == {
        "kind": "tile",
        "fingerprint": json.loads(json.dumps(FINGERPRINT)),
        "state": state,
    }


def test_another_run_is_refused_and_what_differs_is_named(tmp_path: Path) -> None:
    out = written(tmp_path / "out", "done")
    other = FINGERPRINT | {"source": {"name": "b.svs", "bytes": 12}, "mpp": (0.25, 0.5)}
    with pytest.raises(ResumeError, match=r"differs in mpp, source\.name; .* --overwrite"):
        claim(out, other)
    with pytest.raises(ResumeError, match="was not written by wsi-espnet segment"):
        claim(out, kind="segment")
    with pytest.raises(ResumeError, match="asked not to resume; use --overwrite"):
        claim(out, resume=False)


def test_overwriting_removes_a_zarr_group(tmp_path: Path) -> None:
    out = written(tmp_path / "out", "done")
    assert claim(out, {"mpp": 1}, overwrite=True) == "new"
    assert not any(tmp_path.iterdir())


def test_overwriting_a_link_replaces_what_it_points_at(tmp_path: Path) -> None:
    place, link = written(tmp_path / "large" / "out", "done"), tmp_path / "out"
    link.symlink_to(place)
    assert claim(link, {"mpp": 1}, overwrite=True) == "new"
    assert link.readlink() == place
    assert sorted(tmp_path.rglob("*")) == [tmp_path / "large", place, link]
    written(link)
    assert (read_mark(place) or {})["state"] == "writing"


def test_a_folder_is_held_under_all_its_names_and_nothing_is_left_behind(tmp_path: Path) -> None:
    place, link = tmp_path / "large" / "out", tmp_path / "out"
    place.mkdir(parents=True)
    link.symlink_to(place)
    with alone(place), pytest.raises(ResumeError, match=f"another process is writing to {link}; wait"), alone(link):
        pass
    assert sorted(tmp_path.rglob("*")) == [tmp_path / "large", place, link]


def test_nothing_is_made_at_the_end_of_a_link_to_nothing(tmp_path: Path) -> None:
    (tmp_path / "out").symlink_to(tmp_path / "not mounted" / "out")
    said = r"out is a link to .*not mounted/out, which is not there; make that folder"
    with pytest.raises(OutputError, match=said), alone(tmp_path / "out"):
        pass
    assert list(tmp_path.iterdir()) == [tmp_path / "out"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_that_is_no_zarr_group_is_never_touched(tmp_path: Path, overwrite: bool) -> None:
    (tmp_path / "thesis.docx").write_text("years of work")
    with pytest.raises(ResumeError, match="choose another folder"):
        claim(tmp_path, overwrite=overwrite)
    assert (tmp_path / "thesis.docx").read_text() == "years of work"


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_file_is_never_touched(tmp_path: Path, overwrite: bool) -> None:
    file = tmp_path / "slide.svs"
    file.write_bytes(b"px")
    with pytest.raises(ResumeError, match="choose another folder"):
        claim(file, overwrite=overwrite)
    assert file.read_bytes() == b"px"


def test_a_foreign_zarr_group_is_replaced_only_when_asked(tmp_path: Path) -> None:
    zarr.create_group(tmp_path / "out", zarr_format=3, attributes={"ome": {}})
    with pytest.raises(ResumeError, match="was not written by wsi-espnet tile"):
        claim(tmp_path / "out")
    assert claim(tmp_path / "out", overwrite=True) == "new"


def test_a_damaged_document_is_not_taken_for_ours(tmp_path: Path) -> None:
    (tmp_path / "zarr.json").write_text("{")
    assert read_mark(tmp_path) is None
    with pytest.raises(ResumeError, match="is not a Zarr group and is never removed"):
        claim(tmp_path, overwrite=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_folder_beside_which_nothing_may_be_made_is_held_itself() -> None:
    with tempfile.TemporaryDirectory() as above:
        out = Path(above) / "out"
        out.mkdir()
        os.chmod(above, 0o755)
        out.chmod(0o777)
        os.seteuid(65534)
        try:
            with alone(out):
                assert list(Path(above).rglob("*")) == [out]
                with pytest.raises(ResumeError, match="another process is writing to"), alone(out):
                    pass
            with alone(out):
                pass
        finally:
            os.seteuid(0)
