"""The logits of a brought file itself, on ONNX Runtime: what the graph that is made of it is compared with."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from calib.errors import InputError
from calib.preprocess import LUMA, Image, Preprocess
from export.brought.interface import Interface
from export.engines import onnxruntime_backend

Logits = Callable[[Image], NDArray[np.float32]]  # uint8 images (N, H, W, 3) → (N, classes)


@contextmanager
def open_reference(proto: onnx.ModelProto, of: Interface, spec: Preprocess, threads: int) -> Iterator[Logits]:
    """The file's logits as a function of uint8 images, which are normalised here as `spec` says.

    InputError where ONNX Runtime cannot load it.
    """
    alone = onnx.ModelProto()
    alone.CopyFrom(proto)
    del alone.graph.output[:]
    alone.graph.output.append(helper.make_tensor_value_info(of.logits, TensorProto.FLOAT, None))
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "brought.onnx"
        onnx.save(alone, path)
        try:
            runner = onnxruntime_backend.load(path, threads)
        except RuntimeError as error:
            raise InputError(
                "ONNX Runtime cannot load this ONNX file", got=str(error).strip().splitlines()[0],
                next_step="export the network again",
            ) from error  # fmt: skip
    with runner:
        yield lambda images: runner.infer({of.input: as_taken(images, of, spec)})[of.logits]


def as_taken(images: Image, of: Interface, spec: Preprocess) -> NDArray[np.generic]:
    """`images` (N, H, W, 3) as the file takes them: as they are, or normalised, float32 (N, C, H, W) or (N, H, W, C)."""
    if of.layout == "uint8 NHWC":
        return images
    x = images.astype(np.float32)
    if spec.grey:
        x = (x * np.asarray(LUMA, np.float32)).sum(axis=3, keepdims=True)
    scale = np.float32(255)
    x = (x - np.asarray(spec.mean, np.float32) * scale) * (1 / (np.asarray(spec.std, np.float32) * scale))
    return np.ascontiguousarray(x if of.layout == "NHWC" else x.transpose(0, 3, 1, 2))
