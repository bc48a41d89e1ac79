"""Networks as files for other programs and machines: ONNX and what is written around it."""
