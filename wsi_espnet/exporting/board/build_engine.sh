#!/bin/sh
# Builds the engine for this machine from model.onnx, and times it. For JetPack 4.6 (TensorRT 8.2).
# An engine belongs to one kind of machine and one version of TensorRT: build it where it is to run.
#   ./build_engine.sh         fp16 (the TX2 has no int8)
#   ./build_engine.sh fp32
set -eu
cd "$(dirname "$0")"
precision=${1:-fp16}
case $precision in
fp16) flag=--fp16 ;;
fp32) flag= ;;
*)
    echo "error: precision must be fp16 or fp32, got $precision" >&2
    exit 2
    ;;
esac
trtexec=${TRTEXEC:-/usr/src/tensorrt/bin/trtexec}
if [ ! -x "$trtexec" ]; then
    echo "error: no trtexec at $trtexec; install JetPack's TensorRT, or say where it is: TRTEXEC=/path ./build_engine.sh" >&2
    exit 1
fi
# Full clocks first, or figures mean little:
#   sudo nvpmodel -m 0 && sudo jetson_clocks
"$trtexec" --onnx=model.onnx $flag --workspace=1024 --saveEngine="model_$precision.engine"
"$trtexec" --loadEngine="model_$precision.engine" --iterations=200 --warmUp=2000 --avgRuns=100
