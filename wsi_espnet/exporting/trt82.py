"""What TensorRT 8.2 reads of ONNX: facts of its importer, for JetPack 4.6 and so for the Jetson TX2.

Sources: onnx/onnx-tensorrt at release/8.2-GA (85e79f62), `docs/operators.md` for the operators, and
`builtin_op_importers.cpp`, `onnx2trt_utils.cpp` and `ModelImporter.cpp` for the limits.
"""

from __future__ import annotations

OPSET = 13
"""Last version of the operators that it knows."""

IR = 7
"""Format of ONNX 1.8, with whose schema it reads."""

_OPERATORS = (
    "Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh AveragePool BatchNormalization Cast Ceil Celu Clip "
    "Concat Constant ConstantOfShape Conv ConvTranspose Cos Cosh CumSum DepthToSpace DequantizeLinear Div Dropout "
    "Einsum Elu Equal Erf Exp Expand EyeLike Flatten Floor GRU Gather GatherElements GatherND Gemm "
    "GlobalAveragePool GlobalLpPool GlobalMaxPool Greater GreaterOrEqual HardSigmoid Identity If ImageScaler "
    "InstanceNormalization IsNaN LRN LSTM LeakyRelu Less LessOrEqual Log LogSoftmax Loop LpNormalization LpPool "
    "MatMul Max MaxPool Mean Min Mul Neg Not Or PRelu Pad ParametricSoftplus Pow QuantizeLinear RNN RandomUniform "
    "RandomUniformLike Range ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin "
    "ReduceProd ReduceSum ReduceSumSquare Relu Reshape Resize ReverseSequence Round ScaledTanh Scan Scatter "
    "ScatterElements ScatterND Selu Shape Sigmoid Sign Sin Sinh Size Slice Softmax Softplus Softsign SpaceToDepth "
    "Split Sqrt Squeeze Sub Sum Tan Tanh ThresholdedRelu Tile TopK Transpose Unsqueeze Upsample Where "
)
OPERATORS = frozenset(_OPERATORS.split())
"""The 128 that it imports without reserve (NonMaxSuppression is experimental there, and left out here)."""

RESIZE_MODES = frozenset({"nearest", "linear"})
"""`Resize` by cubic interpolation is refused."""

RESIZE_COORDINATES = frozenset(
    {"half_pixel", "pytorch_half_pixel", "tf_half_pixel_for_nn", "asymmetric", "align_corners"}
)
"""What `Resize` may place px by."""

TYPES = frozenset({"FLOAT", "FLOAT16", "INT32", "INT64", "INT8", "BOOL"})
"""Types inside a graph; INT64 becomes INT32. There is no UINT8 (onnx/onnx-tensorrt, issue 400)."""

EDGE_TYPES = frozenset({"FLOAT", "FLOAT16", "INT32", "INT8", "BOOL"})
"""Types of a graph's inputs and outputs."""

WEIGHTED = frozenset({"Conv", "ConvTranspose"})
"""Operators whose weights must be stored in the file."""
