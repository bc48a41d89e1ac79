"""An exported file, run by OpenVINO on the CPU."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

from numpy.typing import NDArray

from wsi_espnet.errors import DependencyError
from wsi_espnet.inference.onnx_file import OnnxFile


class OpenVino:
    """A graph compiled by OpenVINO for one thread; each calling thread has a request of its own.

    Raises
    ------
    DependencyError
        OpenVINO is not installed.
    """

    def __init__(self, file: OnnxFile) -> None:
        if find_spec("openvino") is None:
            raise DependencyError("--backend openvino needs OpenVINO: pip install 'wsi-espnet[openvino]'")
        import openvino

        core = openvino.Core()
        # Left alone it computes in bf16 where the CPU can, and 0.4 to 1.3 % of the labels change.
        settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1}
        self._compiled = core.compile_model(core.read_model(str(file.path)), "CPU", settings)

    def run(self, names: Sequence[str], image: NDArray[Any]) -> list[NDArray[Any]]:
        """Named outputs of a batch of images."""
        request = self._compiled.create_infer_request()
        said = request.infer({"image": image}, share_inputs=True)
        return [said[name].copy() for name in names]
