"""Networks as files for other programs and machines: ONNX and what is written around it.

Modules here import onnx, so the extra that brings it is looked for before any of them is: `DependencyError` names it.
"""

from wsi_espnet.exporting.extra import ensure_extra

ensure_extra()
