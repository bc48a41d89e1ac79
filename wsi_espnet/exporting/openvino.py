"""Target `openvino`: OpenVINO's own format, made from the ONNX graph."""

from __future__ import annotations

import tempfile
from pathlib import Path

from wsi_espnet.exporting.bundle import Bundle, Request, checked_graph
from wsi_espnet.exporting.extra import ensure_extra
from wsi_espnet.exporting.graph import CURRENT_OPSET, OUTPUTS, GraphSpec
from wsi_espnet.exporting.metadata import class_lines, facts, sidecar
from wsi_espnet.exporting.parity import TEST_PX, answers, as_input, compare, ensure_parity, probe_picture
from wsi_espnet.exporting.parity import reference as torch_answers


def openvino(request: Request) -> Bundle:
    """`NAME.xml`, `NAME.bin` (float32), `NAME.json`, `labels.txt`, compared with torch through OpenVINO.

    Raises
    ------
    DependencyError
        OpenVINO is not installed.
    ModelError
        It does not say what torch says.
    """
    ensure_extra(("openvino",), extra="openvino", what="--target openvino")
    import openvino as ov

    model, name = request.model, request.model.card.name
    spec = GraphSpec(
        opset=request.opset or CURRENT_OPSET,
        outputs=request.outputs or OUTPUTS,
        input=request.input or "float32",
        size=request.size,
    )
    graph, _ = checked_graph(model, spec, "fp32")
    bundle = Bundle()
    with tempfile.TemporaryDirectory() as folder:
        onnx_file, xml = Path(folder) / "model.onnx", Path(folder) / f"{name}.xml"
        onnx_file.write_bytes(graph.SerializeToString())
        converted = ov.convert_model(str(onnx_file))
        for key, value in facts(model, spec, "fp32").items():
            converted.set_rt_info(str(value), ["model_info", key])
        ov.save_model(converted, str(xml), compress_to_fp16=False)
        for path in (xml, xml.with_suffix(".bin")):
            bundle.files[path.name] = path.read_bytes()
        image = as_input(probe_picture(*(spec.size or TEST_PX)), spec)
        compiled = ov.Core().compile_model(str(xml), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        said = compiled({"image": image})
        parity = compare({output: said[output] for output in answers(graph, image)}, torch_answers(model, image))
    ensure_parity(parity, "fp32", model.card)
    bundle.parities[f"{name}.xml"] = parity
    bundle.files[f"{name}.json"] = sidecar(model, {f"{name}.xml": (graph, spec, "fp32", parity)})
    bundle.files["labels.txt"] = class_lines(model.card)
    return bundle
