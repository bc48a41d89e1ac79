"""Run a model on pictures and videos: from files to palette masks, overlays and ids that others take."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from wsi_espnet.atomic import output_errors, refuse_existing, write_bytes_atomic
from wsi_espnet.classes import ClassTable
from wsi_espnet.data.photographs import find_pictures
from wsi_espnet.data.pictures import read_rgb
from wsi_espnet.data.street_labels import cityscapes_label_ids
from wsi_espnet.data.videos import is_video, open_video
from wsi_espnet.errors import BudgetError, DataError, UsageError
from wsi_espnet.inference.backends import open_labeller
from wsi_espnet.inference.view import Size, View
from wsi_espnet.models.catalog import class_table
from wsi_espnet.outputs.pictures import class_palette, id_png, palette_png, rgb_png, voc_palette
from wsi_espnet.outputs.pictures import overlay as tint
from wsi_espnet.outputs.videos import write_video
from wsi_espnet.threads import in_order

MASKS, OVERLAYS, LABEL_IDS, VOC = "masks", "overlays", "label_ids", "voc"
"""Folders of the results, one for each kind; the last two are what the servers of Cityscapes and VOC take."""

Encode = Callable[[NDArray[np.uint8], NDArray[np.uint8]], bytes]
"""A file's bytes from a picture (h, w, 3) and its labels (h, w)."""

Label = Callable[[NDArray[np.uint8]], NDArray[np.uint8]]
"""The labels of a picture."""

Progress = Callable[[int, int], None]
"""Told about (done, total)."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Failure:
    """A picture that could not be done, and why."""

    picture: Path
    cause: str


@dataclass(frozen=True, slots=True)
class Predictions:
    """What a run left behind.

    Parameters
    ----------
    folders
        One for each kind of result.
    masks
        How many files are in each: one for each picture, or for each frame of a video.
    video
        Video of the overlays, where the source is one and they were asked for.
    failures
        Pictures that could not be read or were too large.
    """

    folders: tuple[Path, ...]
    masks: int
    video: Path | None = None
    failures: tuple[Failure, ...] = ()


def predict(
    model: str | Path,
    source: str | Path,
    out: str | Path,
    *,
    overlay: bool = False,
    label_ids: Literal["cityscapes"] | None = None,
    voc: bool = False,
    size: tuple[int, int] | None = None,
    scales: Sequence[float] = (1.0,),
    flip: bool = False,
    mpp: float | None = None,
    backend: str | None = None,
    device: str = "auto",
    precision: str = "fp32",
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Predictions:
    """Label pictures, or the frames of a video, px by px.

    Parameters
    ----------
    model
        Bundled name, or path of a ``.safetensors`` or exported ``.onnx`` file.
    source
        A picture, a folder that is searched through for pictures, or a video.
    out
        Folder for the results: `masks/NAME.png`, and `overlays`, `label_ids` and `voc` as asked for. Of a video, the
        masks are `masks/NAME/000000.png` and on, and the overlays a video again, `overlays/NAME.mp4`.
    overlay
        Whether pictures tinted by class are written.
    label_ids
        ``cityscapes`` writes the label ids that its server takes, void as 0.
    voc
        Whether masks in VOC's palette are written, as its server takes them.
    size, scales, flip
        (height, width) in px for the network, and further looks; see `wsi_espnet.inference.view.View`.
    mpp
        Um per px of the pictures, for models of tissue; None takes them as they are.
    backend
        ``torch``, ``onnx`` or ``openvino``; None takes what the file is for. See `wsi_espnet.inference.backends`.
    device, precision
        See `wsi_espnet.inference.torch_backend.choose_execution`.
    overwrite
        Replace files that are there.
    progress
        Told about (done, total) pictures or frames; how many frames a video has is what it says of itself.

    Raises
    ------
    DataError, DependencyError, ModelError, ResumeError, OutputError, ScaleError, UsageError
        See `wsi_espnet.errors`. Of several pictures, those that cannot be read are told in the result instead.
    """
    if mpp is not None and not 0 < mpp < float("inf"):
        raise UsageError(f"--mpp must be positive um per px, got {mpp:g}")
    view = View(size=None if size is None else Size(*size), scales=tuple(scales), flip=flip)
    labeller = open_labeller(model, view, backend=backend, device=device, precision=precision)
    card = labeller.card
    kinds = _kinds(card.classes, overlay=overlay, label_ids=label_ids, voc=voc)
    out, source = Path(out), Path(source)
    label = partial(labeller.labels, mpp=mpp)
    if card.mpp is not None and mpp is None and size is None:
        log.warning(
            "warning: %s was trained at %g um per px and the pictures are taken as they are; --mpp says their scale",
            card.name,
            card.mpp,
        )
    if is_video(source):
        return _label_video(
            source, label, kinds, out, card.classes, threads=labeller.at_once, overwrite=overwrite, progress=progress
        )
    return _label_pictures(source, label, kinds, out, threads=labeller.at_once, overwrite=overwrite, progress=progress)


def _label_pictures(
    source: Path,
    label: Label,
    kinds: Mapping[str, Encode],
    out: Path,
    *,
    threads: int,
    overwrite: bool,
    progress: Progress | None,
) -> Predictions:
    pictures = find_pictures(source, leave_out=[out / kind for kind in (MASKS, OVERLAYS, LABEL_IDS, VOC)])
    if not overwrite:
        refuse_existing([_place(out, kind, name) for _, name in pictures for kind in kinds])

    def do(item: tuple[Path, Path]) -> Failure | None:
        picture, name = item
        try:
            rgb = read_rgb(picture)
            labels = label(rgb)
        except (DataError, BudgetError) as exc:
            if len(pictures) == 1:
                raise
            return Failure(picture, str(exc))
        for kind, encode in kinds.items():
            write_bytes_atomic(_place(out, kind, name), encode(rgb, labels))
        return None

    failures: list[Failure] = []
    for number, failure in enumerate(in_order(do, pictures, threads=threads), start=1):
        if failure is not None:
            failures.append(failure)
        if progress is not None:
            progress(number, len(pictures))
    folders = tuple(out / kind for kind in kinds)
    return Predictions(folders, masks=len(pictures) - len(failures), failures=tuple(failures))


def _label_video(
    source: Path,
    label: Label,
    kinds: Mapping[str, Encode],
    out: Path,
    classes: ClassTable,
    *,
    threads: int,
    overwrite: bool,
    progress: Progress | None,
) -> Predictions:
    """Frames become files, because every frame of a mask must keep its ids; overlays are to be watched."""
    video = open_video(source)
    shown = out / OVERLAYS / f"{source.stem}.mp4" if OVERLAYS in kinds else None
    folders = {kind: out / kind / source.stem for kind in kinds if kind != OVERLAYS}
    if overwrite:
        _remove_frames(folders.values())  # a longer video may have left some
    else:
        refuse_existing([*folders.values(), *([shown] if shown else [])])
    done = 0
    with nullcontext() if shown is None else write_video(shown, video.rate) as overlays:
        for frame, labels in in_order(lambda frame: (frame, label(frame.rgb)), video, threads=threads):
            for kind, folder in folders.items():
                write_bytes_atomic(folder / f"{done:06d}.png", kinds[kind](frame.rgb, labels))
            if overlays is not None:
                overlays.write(tint(frame.rgb, labels, classes), frame.second)
            done += 1
            if progress is not None:
                progress(done, max(done, video.frames))
    return Predictions(tuple(folders.values()), masks=done, video=shown)


def _remove_frames(folders: Iterable[Path]) -> None:
    for folder in folders:
        with output_errors(folder):
            for frame in folder.glob("[0-9]" * 6 + ".png"):
                frame.unlink()


def _kinds(classes: ClassTable, *, overlay: bool, label_ids: str | None, voc: bool) -> dict[str, Encode]:
    """Folder and contents of each kind of file that is asked for; refuses what the classes do not allow."""
    colors = class_palette(classes)
    kinds: dict[str, Encode] = {MASKS: lambda rgb, labels: palette_png(labels, colors)}
    if overlay:
        kinds[OVERLAYS] = lambda rgb, labels: rgb_png(tint(rgb, labels, classes))
    if label_ids is not None:
        if label_ids != "cityscapes":
            raise UsageError(f"--label-ids must be cityscapes, got {label_ids!r}")
        ids = cityscapes_label_ids(classes)
        kinds[LABEL_IDS] = lambda rgb, labels: id_png(ids[labels])
    if voc:
        if classes.names != class_table("voc21").names:
            raise UsageError(f"--voc needs a model of VOC's 21 classes, and this one has those of {classes.name}")
        palette = voc_palette()
        kinds[VOC] = lambda rgb, labels: palette_png(labels, palette)
    return kinds


def _place(out: Path, kind: str, name: Path) -> Path:
    return out / kind / name.parent / f"{name.name}.png"
