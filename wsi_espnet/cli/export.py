"""`wsi-espnet export MODEL` and `wsi-espnet export check FILE`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from wsi_espnet.cli import say
from wsi_espnet.cli.values import size_hw


class Target(StrEnum):
    """For what is exported."""

    GPU = "gpu"
    TX2 = "tx2"
    OPENVINO = "openvino"
    TRITON = "triton"
    QUPATH = "qupath"
    ALL = "all"


class Files(StrEnum):
    """Types that files compute in."""

    FP32 = "fp32"
    FP16 = "fp16"
    BOTH = "both"


class Input(StrEnum):
    """Type of the image."""

    FLOAT32 = "float32"
    UINT8 = "uint8"


class Profile(StrEnum):
    """Whose limits a file is held against."""

    TX2 = "tx2"


def export(
    model: Annotated[str, typer.Argument(help="Bundled name or .safetensors file.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder; each target has a folder in it.")],
    target: Annotated[Target, typer.Option(help="What the files are for.")] = Target.GPU,
    precision: Annotated[Files, typer.Option(help="For targets that take both.")] = Files.BOTH,
    size: Annotated[
        str | None, typer.Option(help="WxH of the only images taken [any; tx2: 1024x512, 1024x1024 of tissue].")
    ] = None,
    opset: Annotated[int | None, typer.Option(help="Version of ONNX's operators [20; tx2: 13].")] = None,
    outputs: Annotated[str | None, typer.Option(help="Some of logits,probabilities,labels [all; tx2: labels].")] = None,
    input_: Annotated[Input | None, typer.Option("--input", help="Type of the image, RGB 0..255 [float32].")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files that are there.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was written as JSON.")] = False,
) -> None:
    """Write a model as ONNX and what goes with it; `export check FILE` holds any ONNX file against a profile."""
    from wsi_espnet.export import export as job

    found = job(
        model,
        out,
        target=target.value,
        precision=precision.value,
        size=None if size is None else size_hw(size),
        opset=opset,
        outputs=None if outputs is None else [name.strip() for name in outputs.split(",")],
        input=None if input_ is None else input_.value,
        overwrite=overwrite,
    )
    if as_json:
        parities = {str(path): parity.facts for path, parity in found.parities.items()}
        say.print_json({"files": list(map(str, found.files)), "against_torch": parities})
        return
    for path in found.files:
        parity = found.parities.get(path)
        note = "" if parity is None else f"  labels as in torch: {parity.labels:.2%}"
        if parity is not None and parity.logits is not None:
            note += f", largest difference {parity.logits:.1e}"
        say.out.print(f"{path}{note}", markup=False)


def check(
    file: Annotated[Path, typer.Argument(help="Any ONNX file.")],
    profile: Annotated[Profile, typer.Option(help="tx2: JetPack 4.6, TensorRT 8.2.")] = Profile.TX2,
    as_json: Annotated[bool, typer.Option("--json", help="Print what is wrong as JSON.")] = False,
) -> None:
    """Hold an ONNX file against what a machine can run; exit status 1 and each offending node if it cannot."""
    from wsi_espnet.cli.main import fail
    from wsi_espnet.exporting.profile import check_file

    offences = check_file(file, profile.value)
    if as_json:
        say.print_json({"file": str(file), "profile": profile.value, "offences": [o.facts for o in offences]})
    elif offences:
        for offence in offences:
            say.out.print(str(offence), markup=False)
    else:
        say.out.print(f"{file} fits {profile.value}", markup=False)
    if offences:
        fail(f"error: {file} does not fit {profile.value}: {len(offences)} faults, the first: {offences[0]}", 1)


class ExportCommand(TyperCommand):
    """`export`, which hands what follows the word ``check`` to that command; a model of that name is ``./check``."""

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        """The context of whichever of the two is meant."""
        if args[:1] == ["check"]:
            return _check_command().make_context(f"{info_name} check", args[1:], parent=parent, **extra)
        return super().make_context(info_name, args, parent=parent, **extra)


def _check_command() -> Any:
    alone = typer.Typer(add_completion=False, rich_markup_mode=None)
    alone.command("check")(check)
    return typer.main.get_command(alone)
