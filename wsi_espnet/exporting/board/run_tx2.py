#!/usr/bin/env python3
"""Labels pictures with the network beside this file, and says how fast. For Python 3.6 and later.

Needs numpy and Pillow, and one of: TensorRT (the engine that build_engine.sh makes), onnxruntime-gpu, onnxruntime.

    python3 run_tx2.py --check                      golden input against golden output
    python3 run_tx2.py picture.png folder -o out    labels as palette PNG, and frames per second
    python3 run_tx2.py slide.png --windows 64 -o out  a picture larger than the network's size, in windows
"""

import argparse
import ctypes
import json
import os
import sys
import time

import numpy as np
from PIL import Image

HERE = os.path.dirname(os.path.abspath(__file__))
PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
LEAST_AGREEMENT = {"fp32": 0.9999, "fp16": 0.995}
HOST_TO_DEVICE, DEVICE_TO_HOST = 1, 2  # cudaMemcpyKind of the CUDA runtime


class OnnxRuntime:
    """The ONNX file through onnxruntime, on the GPU where the installed build has it."""

    def __init__(self, path):
        import onnxruntime

        wanted = ["CUDAExecutionProvider", "CPUExecutionProvider"]
        providers = [name for name in wanted if name in onnxruntime.get_available_providers()]
        self.session = onnxruntime.InferenceSession(path, providers=providers)
        self.name = "onnxruntime {} {}".format(onnxruntime.__version__, self.session.get_providers()[0])
        self.precision = "fp32"

    def __call__(self, image):
        return self.session.run(["labels"], {"image": image})[0]


class TensorRt:
    """An engine through TensorRT 8.2's own Python, and the CUDA runtime through ctypes."""

    def __init__(self, path):
        import tensorrt

        self.cuda = ctypes.CDLL("libcudart.so")
        logger = tensorrt.Logger(tensorrt.Logger.WARNING)
        with open(path, "rb") as file:
            self.engine = tensorrt.Runtime(logger).deserialize_cuda_engine(file.read())
        if self.engine is None:
            raise SystemExit(
                "{} cannot be read by TensorRT {}; build it on this machine: ./build_engine.sh".format(
                    path, tensorrt.__version__
                )
            )
        self.context = self.engine.create_execution_context()
        self.name = "TensorRT {}".format(tensorrt.__version__)
        self.precision = "fp16" if "fp16" in os.path.basename(path) else "fp32"
        self.labels = np.empty(tuple(self.engine.get_binding_shape("labels")), np.int32)
        # Every value is of 4 bytes: float32 in, int32 labels out, float32 for other outputs.
        shapes = [tuple(self.engine.get_binding_shape(i)) for i in range(self.engine.num_bindings)]
        self.buffers = [self._allocate(4 * int(np.prod(shape))) for shape in shapes]

    def __call__(self, image):
        image = np.ascontiguousarray(image, np.float32)
        given = self.buffers[self.engine.get_binding_index("image")]
        said = self.buffers[self.engine.get_binding_index("labels")]
        self._copy(given, image.ctypes.data, image.nbytes, HOST_TO_DEVICE)
        if not self.context.execute_v2(self.buffers):
            raise SystemExit("TensorRT could not run the engine; its own lines above say why")
        self._copy(self.labels.ctypes.data, said, self.labels.nbytes, DEVICE_TO_HOST)
        return self.labels.copy()

    def _allocate(self, size):
        pointer = ctypes.c_void_p()
        self._ensure(self.cuda.cudaMalloc(ctypes.byref(pointer), ctypes.c_size_t(size)), "cudaMalloc")
        return pointer.value

    def _copy(self, to, source, size, kind):
        status = self.cuda.cudaMemcpy(
            ctypes.c_void_p(to), ctypes.c_void_p(source), ctypes.c_size_t(size), ctypes.c_int(kind)
        )
        self._ensure(status, "cudaMemcpy")

    @staticmethod
    def _ensure(status, what):
        if status != 0:
            raise SystemExit("{} failed with CUDA error {}".format(what, status))


def open_network(folder, backend):
    """The fastest of what is here: an engine, else the ONNX file."""
    engines = [os.path.join(folder, name) for name in ("model_fp16.engine", "model_fp32.engine")]
    engine = next((path for path in engines if os.path.exists(path)), None)
    if backend == "tensorrt" and engine is None:
        raise SystemExit("there is no engine in {}; build one: ./build_engine.sh".format(folder))
    if backend in ("auto", "tensorrt") and engine is not None:
        return TensorRt(engine)
    return OnnxRuntime(os.path.join(folder, "model.onnx"))


def as_input(rgb):
    """(h, w, 3) uint8 -> (1, 3, h, w) float32, RGB 0..255; the network normalises by itself."""
    return np.ascontiguousarray(rgb.transpose(2, 0, 1)[None], np.float32)


def label(network, rgb, size, halo):
    """(h, w, 3) -> (h, w) labels, in one piece, or in windows that share `halo` px on each side."""
    if halo is None:
        return network(as_input(rgb))[0]
    height, width = size
    core_height, core_width = height - 2 * halo, width - 2 * halo
    rows, columns = rgb.shape[:2]
    # Mirrored at the picture's edges, and on until the last windows are full.
    more = [(halo, halo + -side % core) for side, core in ((rows, core_height), (columns, core_width))]
    padded = np.pad(rgb, more + [(0, 0)], mode="symmetric")
    labels = np.empty((padded.shape[0] - 2 * halo, padded.shape[1] - 2 * halo), np.int32)
    for y in range(0, labels.shape[0], core_height):
        for x in range(0, labels.shape[1], core_width):
            said = network(as_input(padded[y : y + height, x : x + width]))[0]
            core = said[halo : height - halo, halo : width - halo]
            labels[y : y + core_height, x : x + core_width] = core
    return labels[:rows, :columns]


def read_picture(path, size, resize, halo):
    """A picture of the network's size; refused where it is of another and nothing was asked for."""
    try:
        picture = Image.open(path).convert("RGB")
    except OSError as exc:
        raise SystemExit("error: {} cannot be read as a picture: {}".format(path, exc))
    wanted = (size[1], size[0])
    if halo is None and picture.size != wanted:
        if not resize:
            raise SystemExit(
                "error: {} has {}x{} px and the network takes {}x{}; add --resize or --windows 64".format(
                    path, picture.size[0], picture.size[1], wanted[0], wanted[1]
                )
            )
        picture = picture.resize(wanted, Image.BILINEAR)
    return np.asarray(picture)


def find_pictures(sources):
    found = []
    for source in sources:
        if os.path.isdir(source):
            names = sorted(os.listdir(source))
            found += [os.path.join(source, name) for name in names if name.lower().endswith(PICTURES)]
        else:
            found.append(source)
    return found


def write_labels(path, labels, colors):
    picture = Image.fromarray(labels.astype(np.uint8), mode="P")
    picture.putpalette([channel for color in colors for channel in color])
    picture.save(path)


def measure(network, image, frames):
    """Seconds of each of `frames` runs, after some that do not count."""
    for _ in range(max(1, frames // 10)):
        network(image)
    seconds = []
    for _ in range(frames):
        started = time.perf_counter()
        network(image)
        seconds.append(time.perf_counter() - started)
    return np.array(seconds)


def check(network, folder):
    """Share of px with the golden label, 0..1."""
    image = np.load(os.path.join(folder, "golden_input.npy"))
    wanted = np.load(os.path.join(folder, "golden_output.npy"))
    return float((network(image) == wanted).mean())


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", nargs="*", help="pictures, or folders of them")
    parser.add_argument("-o", "--out", help="folder for the labels; without it none are written")
    parser.add_argument("--backend", choices=["auto", "tensorrt", "onnxruntime"], default="auto")
    parser.add_argument("--model", default=HERE, help="folder of model.onnx [that of this file]")
    parser.add_argument("--resize", action="store_true", help="bring pictures to the network's size")
    parser.add_argument("--windows", type=int, metavar="HALO", help="cut pictures into windows that share HALO px")
    parser.add_argument("--check", action="store_true", help="compare with the golden output, and measure")
    parser.add_argument("--frames", type=int, default=100, help="runs that are timed with --check [100]")
    given = parser.parse_args(arguments)
    if not given.check and not given.pictures:
        parser.error("give pictures, or --check")
    with open(os.path.join(given.model, "model.json"), encoding="utf-8") as file:
        about = json.load(file)["files"]["model.onnx"]
    size = tuple(about["size"])
    if given.windows is not None and not 0 <= 2 * given.windows < min(size):
        parser.error("--windows must leave a core: 0 to {} px, got {}".format(min(size) // 2 - 1, given.windows))
    colors = [about["palette"][str(i)] for i in range(len(about["palette"]))]
    network = open_network(given.model, given.backend)
    print("{} {} px, {}".format(about["name"], "{}x{}".format(size[1], size[0]), network.name))
    if given.check:
        same = check(network, given.model)
        seconds = measure(network, np.load(os.path.join(given.model, "golden_input.npy")), given.frames)
        print("golden labels: {:.4%} the same".format(same))
        print(
            "{:.1f} fps (median {:.1f} ms of {} frames, copies included, reading and writing not)".format(
                1 / np.median(seconds), 1000 * np.median(seconds), given.frames
            )
        )
        if same < LEAST_AGREEMENT[network.precision]:
            raise SystemExit(
                "error: too few labels are the same; wanted {:.2%}".format(LEAST_AGREEMENT[network.precision])
            )
    pictures = find_pictures(given.pictures)
    if given.pictures and not pictures:
        raise SystemExit("error: there are no pictures in {}".format(", ".join(given.pictures)))
    seconds = 0.0
    for path in pictures:
        rgb = read_picture(path, size, given.resize, given.windows)
        started = time.perf_counter()
        labels = label(network, rgb, size, given.windows)
        seconds += time.perf_counter() - started
        if given.out:
            os.makedirs(given.out, exist_ok=True)
            name = os.path.splitext(os.path.basename(path))[0] + ".png"
            write_labels(os.path.join(given.out, name), labels, colors)
    if pictures:
        print("{} pictures, {:.1f} per second".format(len(pictures), len(pictures) / seconds))
    return 0


if __name__ == "__main__":
    sys.exit(main())
