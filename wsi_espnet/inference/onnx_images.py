"""Whole pictures of any size through an exported file: the same masks as torch gives, without torch."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsi_espnet.errors import UsageError
from wsi_espnet.inference.onnx_backend import ensure_finite, onnx_network_bytes, open_runner
from wsi_espnet.inference.onnx_file import LOGITS, MULTIPLE, OnnxFile
from wsi_espnet.inference.predictor import Execution
from wsi_espnet.inference.resize import Floats, resize
from wsi_espnet.inference.view import Size, View, picture_bytes, refuse_too_large, size_at_scale


class OnnxImagePredictor:
    """An exported file that labels whole pictures.

    Parameters
    ----------
    file
        What was exported; it has to give logits.
    view
        How it looks at pictures.
    execution
        How it is run.

    Raises
    ------
    ModelError
        It gives no logits, or cannot be run.
    """

    def __init__(self, file: OnnxFile, view: View, execution: Execution) -> None:
        file.ensure_outputs(LOGITS)
        self.card = file.card
        self.sha256 = file.sha256
        self.view = view
        self.execution = execution
        self.at_once = 1  # the runner takes all cores for one
        self._file = file
        self._runner = open_runner(file, execution)

    def labels(self, rgb: NDArray[np.uint8], *, mpp: float | None = None) -> NDArray[np.uint8]:
        """The class of each px of a picture; see `wsi_espnet.inference.images.ImagePredictor.labels`.

        Raises
        ------
        ScaleError, BudgetError, ModelError
            As there.
        UsageError
            The file takes another size alone, or 8-bit images where the picture has to be resized.
        """
        own = Size(*rgb.shape[:2])
        base = self.view.size or size_at_scale(self.card, own, mpp)
        self._refuse_too_large(own, base)
        whole = rgb.transpose(2, 0, 1)[None].astype(np.float32)  # (1, 3, h, w)
        said = self._average(whole, base) if self.view.passes > 1 else self._logits(whole, base, own)
        ensure_finite(said, self.card.name)
        return said[0].argmax(axis=0).astype(np.uint8)  # type: ignore[no-any-return]

    def _average(self, whole: Floats, base: Size) -> Floats:
        """Sum of the probabilities over all passes, (1, C, h, w)."""
        own = Size(*whole.shape[-2:])
        total = np.zeros((1, len(self.card.classes), *own), np.float32)
        for size in self.view.scaled(base):
            total += _softmax(self._logits(whole, size, own))
            if self.view.flip:
                total += _softmax(self._logits(whole[..., ::-1], size, own))[..., ::-1]
        return total

    def _logits(self, whole: Floats, size: Size, own: Size) -> Floats:
        """(1, 3, h, w) RGB 0..255 -> logits (1, C, h, w), computed at `size`."""
        resized = resize(whole, *size)
        padding = [(0, 0), (0, 0), *((0, -side % MULTIPLE) for side in size)]
        image = np.pad(resized, padding, mode="edge")  # as the network itself does in torch
        (logits,) = self._runner.run([LOGITS], self._as_taken(image, resized=resized is not whole))
        return resize(logits[..., : size.height, : size.width], *own)

    def _as_taken(self, image: Floats, *, resized: bool) -> NDArray[Any]:
        file, sides = self._file, (image.shape[2], image.shape[3])
        if file.size is not None and file.size != sides:
            raise UsageError(
                f"{file.path} takes images of {Size(*file.size)} px alone, got {Size(*sides)}; give --size "
                f"{Size(*file.size)}, or take a file that was exported without --size"
            )
        if file.input == "uint8" and resized:
            raise UsageError(
                f"{file.path} takes 8-bit images, and resized ones have values between; export it with --input float32"
            )
        return np.ascontiguousarray(image, dtype=file.input)

    def _refuse_too_large(self, own: Size, base: Size) -> None:
        if self.execution.device != "cpu":
            return
        classes = len(self.card.classes)
        area = int(max(self.view.scales) ** 2 * math.prod(base))
        needed = onnx_network_bytes(area, classes=classes, execution=self.execution)
        refuse_too_large(own, base, picture_bytes(own, classes=classes, network_bytes=needed))


def _softmax(logits: Floats) -> Floats:
    """Over the classes, (1, C, h, w)."""
    raised = np.exp(logits - logits.max(axis=1, keepdims=True))
    return raised / raised.sum(axis=1, keepdims=True)  # type: ignore[no-any-return]
