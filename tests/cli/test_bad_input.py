"""Whatever a user gets wrong: one sentence on stderr, the right exit status, and nothing lost."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small import Call, blobs, files_below, run_process, small_slide, tiny_model

from wsi_espnet.models.espnet import build
from wsi_espnet.models.network_config import EspNetConfig

Refuse = Callable[..., None]

SLIDES = {
    "missing": ("nothing.svs", "there is no slide"),
    "text": ("text.svs", "does not know this format"),
    "zero bytes": ("empty.svs", "it is empty (0 bytes)"),
    "cut off": ("cut.svs", "cut off", "copy or download it again"),
    "a folder": (".", "is a folder, not a slide"),
}
MODELS = {
    "unknown name": ("resnet", "no model 'resnet'", "glas-colon"),
    "cut off": ("cut.safetensors", "is damaged", "bytes"),
    "cut in its header": ("torn.safetensors", "is damaged"),
    "of the authors": ("zip.pth", "wsi-espnet models import"),
    "text": ("text.safetensors", "is not a .safetensors file"),
    "a folder": (".", "neither a .safetensors file"),
}
TISSUE = {
    "missing": ("nothing.png", "does not exist"),
    "text": ("text.png", "cannot be read as a PNG"),
    "weights": ("tiny.safetensors", "must be a .png, .tif"),
    "empty geojson": ("empty.geojson", "no tissue is in"),
    "torn geojson": ("torn.geojson", "is not GeoJSON"),
}
OPTIONS = {
    "window not of 8": ("--window 500", "--window", "multiple of 8", "496 or 504"),
    "window of 0": ("--window 0", "--window"),
    "halo over the window": ("--window 256 --halo 200", "halo of 200 px", "window of 256 px"),
    "halo over half the core": ("--window 256 --halo 96", "too wide"),
    "halo not of 8": ("--halo 100", "halo", "multiple of 8"),
    "halo below 0": ("--halo -8", "halo", "not negative"),
    "unknown device": ("--device tpu", "--device", "cpu"),
    "absent device": ("--device cuda:77", "cuda:77", "--device cpu"),
    "unknown precision": ("--precision fp8", "precision", "bf16"),
    "unknown stitch": ("--stitch glue", "stitch", "blend"),
    "no workers": ("--workers 0", "--workers", "1 or more"),
    "no batch": ("--batch 0", "--batch", "1 or more"),
    "too little memory": ("--memory 100MB", "GiB", "--memory"),
    "memory in words": ("--memory lots", "3GiB"),
    "mpp of 0": ("--mpp 0", "mpp", "positive"),
    "mpp not a number": ("--mpp nan", "mpp", "positive"),
    "mpp too fine": ("--mpp 0.1", "--allow-upsampling"),
    "slide mpp below 0": ("--slide-mpp -1", "mpp", "positive"),
    "letters for a number": ("--window wide", "--window", "integer"),
    "unknown option": ("--glue", "--glue"),
    "two slides": ("second.svs", "second.svs"),
}


@pytest.fixture(scope="module")
def earlier(bench: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished result."""
    out = tmp_path_factory.mktemp("earlier") / "out"
    told = run_process("segment", bench / "slide.svs", "-o", out, "-m", bench / "tiny.safetensors")
    assert told.status == 0, told.err
    return out


@pytest.fixture
def refuse(wsi_espnet: Call, bench: Path, earlier: Path) -> Refuse:
    """Run `segment` into a finished result that may be overwritten; it must refuse and leave the result alone."""

    def call(
        status: int, *words: str, slide: str = "slide.svs", model: str = "tiny.safetensors", options: str = ""
    ) -> None:
        before = files_below(earlier)
        reference = bench / model if (bench / model).exists() else model
        told = wsi_espnet(
            "segment",
            bench / slide,
            "-o",
            earlier,
            "-m",
            reference,
            "--overwrite",
            *options.split(),
        )
        told.assert_refused(status, *words)
        assert files_below(earlier) == before

    return call


@pytest.mark.parametrize("case", SLIDES.values(), ids=SLIDES)
def test_what_is_no_slide_is_refused(refuse: Refuse, case: tuple[str, ...]) -> None:
    slide, *words = case
    refuse(1, *words, slide=slide)


@pytest.mark.parametrize("case", MODELS.values(), ids=MODELS)
def test_what_is_no_model_is_refused(refuse: Refuse, case: tuple[str, ...]) -> None:
    model, *words = case
    refuse(1, *words, model=model)


@pytest.mark.parametrize("case", TISSUE.values(), ids=TISSUE)
def test_what_is_no_tissue_file_is_refused(refuse: Refuse, bench: Path, case: tuple[str, ...]) -> None:
    tissue, *words = case
    refuse(1, *words, options=f"--tissue {bench / tissue}")


@pytest.mark.parametrize("case", OPTIONS.values(), ids=OPTIONS)
def test_options_that_cannot_work_are_refused(refuse: Refuse, case: tuple[str, ...]) -> None:
    options, *words = case
    refuse(2, *words, options=options)


def test_a_slide_without_mpp_is_refused_with_the_remedy(refuse: Refuse) -> None:
    refuse(2, "--slide-mpp 0.5", slide="scaleless.svs")


def test_a_slide_of_nothing_but_glass_is_refused_with_the_remedy(refuse: Refuse) -> None:
    refuse(1, "no tissue", "--tissue none", slide="white.svs")


def test_a_tissue_mask_of_another_aspect_is_refused(refuse: Refuse, tmp_path: Path) -> None:
    Image.fromarray(np.full((300, 100), 255, np.uint8)).save(tmp_path / "narrow.png")
    refuse(1, "narrow.png", "100 x 300 px", options=f"--tissue {tmp_path / 'narrow.png'}")


def test_a_second_slide_is_not_put_into_the_folder_of_the_first(refuse: Refuse) -> None:
    refuse(2, "already holds the result of another slide", "slide.ome.zarr", slide="other.svs")


def test_a_truncated_aperio_slide_is_told_from_a_foreign_file(slides: Path, wsi_espnet: Call, tmp_path: Path) -> None:
    whole = (slides / "CMU-1-Small-Region.svs").read_bytes()
    (tmp_path / "half.svs").write_bytes(whole[: len(whole) // 2])
    for name in ("segment", "info", "tile"):
        out = () if name == "info" else ("-o", tmp_path / "out")
        wsi_espnet(name, tmp_path / "half.svs", *out).assert_refused(1, "cut off")


def test_a_slide_coarser_than_the_model_is_refused_with_the_remedy(
    slides: Path, bench: Path, wsi_espnet: Call, tmp_path: Path
) -> None:
    slide = slides / "multi_frame_jpeg_camelyon_challenge_image.dcm"
    told = wsi_espnet("segment", slide, "-o", tmp_path / "out", "-m", bench / "tiny.safetensors")
    told.assert_refused(2, "28.97 um per px", "--allow-upsampling", "--mpp 28.97")
    assert not (tmp_path / "out").exists()


def test_a_result_of_other_settings_needs_overwrite(
    bench: Path, earlier: Path, wsi_espnet: Call, tmp_path: Path
) -> None:
    shutil.copytree(earlier, tmp_path / "out")
    before = files_below(tmp_path / "out")
    base = (
        "segment", bench / "slide.svs", "-o", tmp_path / "out", "-m", bench / "tiny.safetensors",
        "--halo", "24",
    )  # fmt: skip
    wsi_espnet(*base).assert_refused(2, "another run", "differs in", "halo", "--overwrite")
    assert files_below(tmp_path / "out") == before
    assert wsi_espnet(*base, "--overwrite").status == 0
    assert files_below(tmp_path / "out") != before


def test_a_finished_result_is_not_resumed_if_that_is_not_wanted(bench: Path, earlier: Path, wsi_espnet: Call) -> None:
    before = files_below(earlier)
    told = wsi_espnet("segment", bench / "slide.svs", "-o", earlier, "-m", bench / "tiny.safetensors", "--no-resume")
    told.assert_refused(2, "--overwrite")
    assert files_below(earlier) == before


@pytest.mark.parametrize("overwrite", [(), ("--overwrite",)], ids=["", "overwrite"])
def test_a_foreign_folder_in_the_way_is_never_touched(
    bench: Path, wsi_espnet: Call, tmp_path: Path, overwrite: tuple[str, ...]
) -> None:
    foreign = tmp_path / "out" / "slide.ome.zarr"
    foreign.mkdir(parents=True)
    (foreign / "thesis.txt").write_text("the only copy", encoding="utf-8")
    told = wsi_espnet(
        "segment", bench / "slide.svs", "-o", tmp_path / "out", "-m", bench / "tiny.safetensors", *overwrite
    )
    told.assert_refused(2, "slide.ome.zarr", "choose another folder")
    assert files_below(tmp_path / "out") == {"slide.ome.zarr/thesis.txt": b"the only copy"}


def test_files_beside_the_result_are_kept(bench: Path, wsi_espnet: Call, tmp_path: Path) -> None:
    mine = {"failures/0.0.json": b"{}", "failures/why.txt": b"?", "slide.failures/notes.txt": b"!", "slide.svs": b""}
    for name, content in mine.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    base = ("segment", bench / "slide.svs", "-o", tmp_path, "-m", bench / "tiny.safetensors")
    assert wsi_espnet(*base).status == 0
    assert wsi_espnet(*base, "--overwrite", "--halo", "24").status == 0
    after = files_below(tmp_path)
    assert {name: after.get(name) for name in mine} == mine


def test_an_output_below_a_file_is_refused(bench: Path, wsi_espnet: Call, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept", encoding="utf-8")
    for out in (tmp_path / "file", tmp_path / "file" / "out"):
        told = wsi_espnet("segment", bench / "slide.svs", "-o", out, "-m", bench / "tiny.safetensors")
        told.assert_refused(1, "cannot be written", str(out))
    assert (tmp_path / "file").read_text(encoding="utf-8") == "kept"


def test_a_slide_is_not_written_over_by_its_own_result(bench: Path, wsi_espnet: Call, tmp_path: Path) -> None:
    assert wsi_espnet("tile", bench / "slide.svs", "-o", tmp_path / "slide.ome.zarr").status == 0
    before = files_below(tmp_path)
    told = wsi_espnet(
        "segment", tmp_path / "slide.ome.zarr", "-o", tmp_path, "-m", bench / "tiny.safetensors", "--overwrite"
    )
    told.assert_refused(2, "slide.ome.zarr")
    assert files_below(tmp_path) == before


def test_a_model_without_a_scale_asks_for_one(refuse: Refuse, bench: Path, tmp_path: Path) -> None:
    tiny_model(tmp_path / "street.safetensors", mpp=None)
    refuse(2, "no scale of its own", "--mpp 0.5", model=str(tmp_path / "street.safetensors"))


def test_a_model_of_broken_weights_is_found_out(bench: Path, wsi_espnet: Call, tmp_path: Path) -> None:
    tiny_model(tmp_path / "nan.safetensors", constant=float("nan"))
    told = wsi_espnet("segment", bench / "slide.svs", "-o", tmp_path / "out", "-m", tmp_path / "nan.safetensors")
    told.assert_refused(1, "not finite")
    assert not list((tmp_path / "out").rglob("overview.png"))


def test_an_unknown_class_table_is_refused(shared: Path, wsi_espnet: Call, tmp_path: Path) -> None:
    weights = shared / "data" / "weights" / "espnet" / "decoder" / "espnet_p_2_q_3.pth"
    told = wsi_espnet("models", "import", weights, "--classes", "birds", "-o", tmp_path / "x.safetensors")
    told.assert_refused(1, "no class table 'birds'", "cityscapes20")
    assert not list(tmp_path.iterdir())


def test_a_table_of_another_length_is_refused(shared: Path, wsi_espnet: Call, tmp_path: Path) -> None:
    weights = shared / "data" / "weights" / "espnet" / "decoder" / "espnet_p_2_q_3.pth"
    told = wsi_espnet("models", "import", weights, "--classes", "glas-grade", "-o", tmp_path / "x.safetensors")
    told.assert_refused(1, "classes")
    assert not list(tmp_path.iterdir())


NORMALISATIONS = {
    "none": ("", 1, "mean and std", "give them as --mean and --std"),
    "mean alone": ("--mean 1,2,3", 2, "--mean and --std", "got only --mean", "give both"),
    "order alone": ("--order rgb --divide 1", 2, "got only --order, --divide"),
    "two numbers": ("--mean 1,2 --std 1,2,3", 2, "--mean looks like", "'1,2'"),
    "words": ("--mean 1,2,3 --std a,b,c", 2, "--std looks like", "'a,b,c'"),
    "no numbers": ("--mean 1,2,nan --std 1,2,3", 2, "--mean looks like", "'1,2,nan'"),
    "std of 0": ("--mean 1,2,3 --std 1,0,3", 2, "std must be above 0"),
    "divided by 0": ("--mean 1,2,3 --std 1,2,3 --divide 0", 2, "divide", "greater than 0"),
    "unknown order": ("--mean 1,2,3 --std 1,2,3 --order gbr", 2, "--order", "bgr"),
}


@pytest.mark.parametrize("case", NORMALISATIONS.values(), ids=NORMALISATIONS)
def test_weights_are_not_imported_with_half_a_normalisation(
    wsi_espnet: Call, tmp_path: Path, case: tuple[str, int, str]
) -> None:
    options, status, *words = case
    torch.save(build(EspNetConfig(p=1, q=1, classes=3)).state_dict(), tmp_path / "own.pth")
    out = tmp_path / "own.safetensors"
    told = wsi_espnet("models", "import", tmp_path / "own.pth", "--classes", "glas-grade", "-o", out, *options.split())
    told.assert_refused(status, *words)
    assert not out.exists()


def test_tile_refuses_what_it_cannot_do(bench: Path, wsi_espnet: Call, tmp_path: Path) -> None:
    slide, out = bench / "slide.svs", tmp_path / "out.ome.zarr"
    wsi_espnet("tile", slide, "-o", out, "--workers", "0").assert_refused(2, "workers")
    wsi_espnet("tile", slide, "-o", out, "--mpp", "0.1").assert_refused(2, "--allow-upsampling")
    wsi_espnet("tile", slide, "-o", out, "--tissue-only", "--tissue", "x.png").assert_refused(1, "does not exist")
    wsi_espnet("tile", bench / "white.svs", "-o", out, "--tissue-only").assert_refused(1, "no tissue")
    assert not out.exists()


def test_a_command_that_does_not_exist_is_refused(wsi_espnet: Call) -> None:
    wsi_espnet("colour").assert_refused(2, "colour")
    wsi_espnet("segment").assert_refused(2, "slide")


# The same in processes of their own, one for each kind of end: what a shell sees.


def test_a_process_says_one_sentence_and_leaves_with_the_right_status(bench: Path, tmp_path: Path) -> None:
    run_process("segment", "nothing.svs", cwd=tmp_path).assert_refused(1, "there is no slide at nothing.svs")
    run_process("segment", bench / "scaleless.svs", cwd=tmp_path).assert_refused(2, "--slide-mpp 0.5")
    run_process("segment", bench / "slide.svs", "--stitch", "glue").assert_refused(2, "glue")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_an_address_where_nobody_answers_costs_no_earlier_result(bench: Path, earlier: Path) -> None:
    before = files_below(earlier)
    told = run_process(
        "segment", bench / "slide.svs", "-o", earlier, "-m", bench / "tiny.safetensors", "--overwrite",
        "--scheduler", "tcp://127.0.0.1:9",
    )  # fmt: skip
    assert told.status == 2
    assert "error: no Dask scheduler answers at tcp://127.0.0.1:9" in told.err.splitlines()[-1]
    assert "Traceback" not in told.err
    assert files_below(earlier) == before


def test_progress_leaves_nothing_but_whole_lines_in_a_log(bench: Path, tmp_path: Path) -> None:
    told = run_process("segment", bench / "slide.svs", "-o", tmp_path / "out", "-m", bench / "tiny.safetensors")
    assert told.status == 0
    assert told.err.isascii()
    assert "\r" not in told.err
    said = [line for line in told.err.splitlines() if not line.startswith("compiling the network")]  # where nobody has
    assert len(said) == 2  # what is read, and how it is computed


def test_a_small_slide_of_another_size_is_told_from_the_first(bench: Path, wsi_espnet: Call, tmp_path: Path) -> None:
    """A slide replaced by another of the same name is not taken for the one that a result was made from."""
    slide = small_slide(tmp_path / "slide.svs", blobs(600, 800))
    base = ("segment", slide, "-o", tmp_path / "out", "-m", bench / "tiny.safetensors")
    assert wsi_espnet(*base).status == 0
    small_slide(tmp_path / "slide.svs", blobs(600, 800, seed=2))
    wsi_espnet(*base).assert_refused(2, "source", "--overwrite")


@pytest.mark.parametrize("words", [(), ("batch",), ("models",), ("data",)])
def test_a_command_without_anything_shows_its_help_as_it_is(wsi_espnet: Call, words: tuple[str, ...]) -> None:
    told = wsi_espnet(*words)
    assert told.status == 2
    assert told.err.startswith("Usage: ")
    assert "\nCommands:\n" in told.err
