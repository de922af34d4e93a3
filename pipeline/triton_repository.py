"""A model repository for Triton Inference Server: one model, its configuration and its labels.

Fields and their meaning: the server's model_config.proto.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path

from calib.preprocess import Preprocess
from export.runner import INPUT, OUTPUT

PLATFORMS = {"onnxruntime": ("onnxruntime_onnx", "model.onnx"), "tensorrt": ("tensorrt_plan", "model.plan")}
_QUEUE_MICROSECONDS = 1000  # how long the server waits for more images to fill a batch


@dataclass(frozen=True)
class TritonModel:
    """A network as the server sees it: uint8 images (N, H, W, 3) in, FP32 logits (N, classes) out."""

    name: str
    backend: str
    spec: Preprocess
    classes: tuple[str, ...]
    max_batch: int

    def config(self) -> str:
        """config.pbtxt."""
        platform, file = PLATFORMS[self.backend]
        preferred = [size for size in (2, 4, 8, 16, 32, 64) if size < self.max_batch] + [self.max_batch]
        batching = (
            "" if self.max_batch == 1 else
            f"dynamic_batching {{ preferred_batch_size: {preferred} "
            f"max_queue_delay_microseconds: {_QUEUE_MICROSECONDS} }}\n"
        )  # fmt: skip
        sizes = f"{self.spec.height}, {self.spec.width}, 3"
        return (
            f'name: "{self.name}"\n'
            f'platform: "{platform}"\n'
            f'default_model_filename: "{file}"\n'
            f"max_batch_size: {self.max_batch}\n"
            f'input [ {{ name: "{INPUT}" data_type: TYPE_UINT8 dims: [ {sizes} ] }} ]\n'
            f'output [ {{ name: "{OUTPUT}" data_type: TYPE_FP32 dims: [ {len(self.classes)} ] '
            f'label_filename: "labels.txt" }} ]\n'
            f"{batching}"
        )


def write_model(model: TritonModel, file: Path, repository: Path) -> Path:
    """Write `repository/<name>/` with `config.pbtxt`, `labels.txt` and `1/<file>`; returns that folder."""
    folder = repository / model.name
    (folder / "1").mkdir(parents=True, exist_ok=True)
    shutil.copyfile(file, folder / "1" / PLATFORMS[model.backend][1])
    (folder / "labels.txt").write_text("".join(f"{name}\n" for name in model.classes), encoding="utf-8")
    (folder / "config.pbtxt").write_text(model.config(), encoding="utf-8")
    return folder


def model_name(run: str) -> str:
    """A run's name as a model name: the server takes it as a folder's."""
    return "".join(sign if sign.isalnum() or sign in "-_" else "_" for sign in run)
