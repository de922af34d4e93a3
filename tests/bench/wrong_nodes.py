"""INT8 graphs of networks with random weights on the CPU backends: what is computed wrong first, and what leaves INT8.

`python tests/bench/wrong_nodes.py mobilenetv4_conv_small resnet50`, names of timm; without any, those of docs/build.md.
"""

import sys
import tempfile
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]

import onnx
import timm
import torch
from engine_graphs import IMAGENET, photographs

from calib.preprocess import Preprocess
from export.faults.computing import on_engine, on_reference
from export.faults.first_wrong import Comparison
from export.faults.recover import recover
from export.faults.without_qdq import quantized_nodes
from export.onnx_export import OUTPUT, export_onnx
from export.quantize.int8 import quantize_int8
from export.simplify import simplify_onnx

SIDE, IMAGES, CLASSES = 224, 8, 10
BACKENDS = ("onnxruntime", "openvino")
NETWORKS = (
    "mobilenetv4_conv_small", "efficientvit_m0", "convnext_atto",
    "t2t_vit_14", "resnet50", "swin_tiny_patch4_window7_224", "edgenext_xx_small", "nextvit_small",
)  # fmt: skip

HEADINGS = (
    "network", "backend", "logits, dB", "at least", "first wrong node", "its result, dB", "at least", "INT8 layers that leave",
    "s",
)  # fmt: skip


def main(names: list[str]) -> None:
    import models  # noqa: F401  (registers the models)

    print(f"| {' | '.join(HEADINGS)} |")
    print(f"|{'---|' * len(HEADINGS)}")
    for name in names:
        with tempfile.TemporaryDirectory() as scratch:
            proto = int8_graph(name, Path(scratch))
        images = photographs(Path("data/fashion-mnist.npz"), SIDE, IMAGES).images
        for backend in BACKENDS:
            engine, reference = on_engine(backend, images, 1), on_reference(images, 1)
            logits = Comparison(proto, engine, reference).measure(OUTPUT)
            started = time.perf_counter()
            found = recover(proto, engine, reference)
            seconds = time.perf_counter() - started
            cells = [name, backend, f"{logits.snr_db:.1f}", f"{logits.allowed_db:.1f}"]
            if found is None:
                cells += ["–"] * 4
            else:
                wrong = found.wrong
                leave = f"{len(found.left_out)} of {len(quantized_nodes(proto))}" if found.proto else "does not help"
                cells += [f"{wrong.role or wrong.operator} of {wrong.module}", f"{wrong.measured.snr_db:.1f}"]
                cells += [f"{wrong.measured.allowed_db:.1f}", leave]
            print(f"| {' | '.join(cells)} | {seconds:.1f} |", flush=True)


def int8_graph(name: str, folder: Path) -> onnx.ModelProto:
    """As the stages write it by default, calibrated on 32 of the embedded photographs, enlarged."""
    torch.manual_seed(0)
    calibration = photographs(Path("data/fashion-mnist.npz"), SIDE, 32)
    model = timm.create_model(name, num_classes=CLASSES).eval()
    spec = Preprocess(SIDE, SIDE, 0.9, "bicubic", *IMAGENET)
    export_onnx(model, spec, [str(label) for label in range(CLASSES)], folder / "fp32.onnx")
    simplify_onnx(folder / "fp32.onnx", folder / "fp32.onnx", calibration.first(2))
    quantize_int8(folder / "fp32.onnx", folder / "int8.onnx", calibration)
    return onnx.load(folder / "int8.onnx")


if __name__ == "__main__":
    main(sys.argv[1:] or list(NETWORKS))
