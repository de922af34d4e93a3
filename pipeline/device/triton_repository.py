"""A model repository for Triton Inference Server: one model, its configuration and its labels.

The fields are those of the server's model_config.proto. Batch sizes and waiting times follow from measured rates by the rule
of `batching`. There is one instance, because one was measured.
"""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from calib.preprocess import Preprocess
from export.runner import INPUT, OUTPUT

PLATFORMS = {"onnxruntime": ("onnxruntime_onnx", "model.onnx"), "tensorrt": ("tensorrt_plan", "model.plan")}
# The processor on which the report's numbers were measured: the CPU for ONNX Runtime, the GPU for TensorRT.
_KINDS = {"onnxruntime": "KIND_CPU", "tensorrt": "KIND_GPU"}
VERSION_COMPATIBLE = "--backend-config=tensorrt,version-compatible=true"  # lets the server run code inside a plan
_UNMEASURED_MICROSECONDS = 1000  # longest wait in the queue where no batch was measured
_SHARE_OF_BATCH = 0.5  # longest wait in the queue over the time that the batch itself takes


@dataclass(frozen=True)
class TritonModel:
    """A network for the server: uint8 images (N, H, W, 3) in, FP32 logits (N, *output) out; `output` is (classes,) where empty.

    With a `fixed_batch` the server takes requests of exactly so many images, and gathers none. `images_per_s` is the report's:
    the rate by batch size, None where it was not measured; empty where none was.
    """

    name: str
    backend: str
    spec: Preprocess
    classes: tuple[str, ...]
    max_batch: int
    images_per_s: Mapping[str, float | None] = field(default_factory=dict)
    version_compatible: bool = False
    fixed_batch: int | None = None
    output: tuple[int, ...] = ()

    def config(self) -> str:
        """The text of config.pbtxt."""
        platform, file = PLATFORMS[self.backend]
        batch, first = (self.max_batch, "") if self.fixed_batch is None else (0, f"{self.fixed_batch}, ")
        preferred, wait = batching(self.images_per_s, self.max_batch) if batch else ([], 0)
        gather = (
            f"dynamic_batching {{ preferred_batch_size: {preferred} max_queue_delay_microseconds: {wait} }}\n"
            if preferred else ""
        )  # fmt: skip
        results = ", ".join(map(str, self.output or (len(self.classes),)))
        sizes = f"{first}{self.spec.height}, {self.spec.width}, 3"
        return (
            f"{self._comments()}"
            f'name: "{self.name}"\n'
            f'platform: "{platform}"\n'
            f'default_model_filename: "{file}"\n'
            f"max_batch_size: {batch}\n"
            f'input [ {{ name: "{INPUT}" data_type: TYPE_UINT8 dims: [ {sizes} ] }} ]\n'
            f'output [ {{ name: "{OUTPUT}" data_type: TYPE_FP32 dims: [ {first}{results} ] '
            f'label_filename: "labels.txt" }} ]\n'
            f"instance_group [ {{ count: 1 kind: {_KINDS[self.backend]} }} ]\n"
            f"{gather}"
        )

    def _comments(self) -> str:
        measured = ", ".join(f"{size}: {rate:.4g}" for size, rate in self.images_per_s.items() if rate)
        lines = [f"images a second by batch size: {measured or 'not measured, so batching is a default'}"]
        if self.version_compatible:
            lines.append(f"the plan brings code of its own: the server needs {VERSION_COMPATIBLE}")
        return "".join(f"# {line}\n" for line in lines)


def batching(images_per_s: Mapping[str, float | None], max_batch: int) -> tuple[list[int], int]:
    """Preferred batch sizes, rising, and the microseconds that an image may wait for a batch to fill.

    Preferred are the measured sizes from 2 to `max_batch` whose rate is at least that of every smaller size; the wait is
    half the time that the largest of them takes. Where no batch is as fast as single images there are none, and the wait
    is 0. Where no batch was measured, the answer is `max_batch` and 1 ms.
    """
    rates = {int(size): rate for size, rate in images_per_s.items() if rate and int(size) <= max_batch}
    if max_batch == 1:
        return [], 0
    if max(rates, default=1) == 1:
        return [max_batch], _UNMEASURED_MICROSECONDS
    preferred = [
        size for size, rate in sorted(rates.items())
        if size > 1 and all(rate >= slower for smaller, slower in rates.items() if smaller < size)
    ]  # fmt: skip
    if not preferred:
        return [], 0
    best = preferred[-1]
    return preferred, max(round(1e6 * _SHARE_OF_BATCH * best / rates[best]), 1)


def write_model(model: TritonModel, file: Path, repository: Path) -> Path:
    """Write `repository/<name>/` with `config.pbtxt`, `labels.txt` and `1/<file>`; returns that folder.

    FileExistsError where it exists already: a file of another backend would stay in it.
    """
    folder = repository / model.name
    (folder / "1").mkdir(parents=True)
    shutil.copyfile(file, folder / "1" / PLATFORMS[model.backend][1])
    (folder / "labels.txt").write_text("".join(f"{name}\n" for name in model.classes), encoding="utf-8")
    (folder / "config.pbtxt").write_text(model.config(), encoding="utf-8")
    return folder


def model_name(run: str) -> str:
    """A run's name as a model name, with the characters that a folder of the server may have."""
    return "".join(sign if sign.isalnum() or sign in "-_" else "_" for sign in run)
