"""The files of a bundle, for the host that writes it and the device that reads it; every file is checked before its use.

`manifest.json` is written last and lists every other file with its sha256, so that a manifest means *complete*.
"""

import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calib.errors import InputError
from calib.preprocess import Preprocess
from export.engines.sidecar import sha256_of
from export.engines.spec import EngineSpec
from export.engines.tensorrt.options import BuildOptions
from pipeline.artifact import hash_of
from pipeline.tasks.task import Answers, Labels, Task, task_named
from pipeline.tasks.words import CLASSIFICATION

SCHEMA = 1
MANIFEST, RECIPE, LABELS, PREPROCESS = "manifest.json", "recipe.json", "labels.txt", "preprocess.json"
GRAPHS, EVALUATION, LIBRARY, SAMPLES, TRITON, DEVICE = "graphs", "evaluation", "lib", "samples", "triton", "device"
ANDROID = "android"
IMAGES, REFERENCE = f"{EVALUATION}/images.npy", f"{EVALUATION}/reference.npz"
BIG = (f"{GRAPHS}/", f"{EVALUATION}/", f"{TRITON}/", f"{ANDROID}/")  # checked only by the commands that read them
DEVICE_BACKENDS = ("tensorrt", "tensorrt_rtx", "onnxruntime", "openvino")  # the first that works on the device is used


@dataclass(frozen=True)
class Timing:
    """The recipe's `benchmark`."""

    batch_sizes: tuple[int, ...]
    warmup: int
    rounds: int
    calls: int
    seconds: float
    threads: int
    warmup_ms: int
    cuda_graph: bool
    spin: bool
    energy_seconds: float

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Timing":
        """From the recipe's plain values, or from those that `asdict` gave. KeyError where one is missing."""
        named = {key.name: values[key.name] for key in fields(cls)}
        return cls(**named | {"batch_sizes": tuple(values["batch_sizes"])})


@dataclass(frozen=True)
class BackendPlan:
    """An entry of the recipe's `build`: an engine for each precision, for `batch_sizes` (smallest, typical, largest).

    `targets` are the GPUs that entries of `tensorrt_rtx` are for.
    """

    precisions: tuple[str, ...]
    batch_sizes: tuple[int, int, int]
    options: BuildOptions
    targets: tuple[str, ...] = ()


@dataclass(frozen=True)
class Sample:
    """An image file in the bundle and its row of the evaluation images, preprocessed on the host."""

    file: str
    row: int
    label: str


@dataclass(frozen=True)
class Recipe:
    """The part of a run that a device needs. `engines` by backend; `graphs` their sha256 and `host` their accuracy on the
    host, by name; `left_out` the reason for each that is not here; `triton_precision` the precision for the Triton server,
    None where a CPU can run none of them."""

    run: str
    model: str
    dataset: str
    calibration_images: int
    eval_images: int
    host_eval_images: int
    gate_share: float  # of FP32's score
    batch_size: int
    timing: Timing
    engines: dict[str, tuple[BackendPlan, ...]]
    graphs: dict[str, str]
    host: dict[str, dict[str, Any]]
    triton_precision: str | None
    left_out: dict[str, str]
    reference: str = "PyTorch FP32"  # whose logits the gate compares with
    fixed_batch: int | None = None  # the only batch size of the graphs; None where they take any
    task: str = CLASSIFICATION.task
    samples: tuple[Sample, ...] = field(default_factory=tuple)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Recipe":
        """Read what `to_dict` wrote. Raises KeyError or TypeError for anything else."""
        return cls(**values | {
            "timing": Timing.from_dict(values["timing"]),
            "engines": {name: tuple(_plan(plan) for plan in plans) for name, plans in values["engines"].items()},
            "samples": tuple(Sample(**sample) for sample in values["samples"]),
        })  # fmt: skip


def _plan(values: dict[str, Any]) -> BackendPlan:
    low, typical, high = values["batch_sizes"]
    options = BuildOptions(**values["options"])
    return BackendPlan(tuple(values["precisions"]), (low, typical, high), options, tuple(values["targets"]))


@dataclass(frozen=True)
class Bundle:
    """A bundle that was checked: its small files, and the big ones that were asked for, are as the host wrote them."""

    folder: Path
    recipe: Recipe
    spec: Preprocess
    classes: tuple[str, ...]
    key: str

    def graph(self, name: str) -> Path:
        """The ONNX file of a graph."""
        return self.folder / GRAPHS / f"{name}.onnx"

    def engine_specs(self, backend: str, target: str | None) -> list[EngineSpec]:
        """The bundle's engines of a backend; `target` is for `tensorrt_rtx`.

        Where two entries have the same precision, the one for this target is used, otherwise the first.
        """
        specs: dict[str, EngineSpec] = {}
        for plan in sorted(self.recipe.engines.get(backend, ()), key=lambda plan: target not in plan.targets):
            for name in plan.precisions:
                specs.setdefault(name, EngineSpec(backend, name, target, plan.batch_sizes, plan.options))
        return list(specs.values())

    def images(self) -> NDArray[np.uint8]:
        """Preprocessed evaluation images, (N, H, W, 3), read from disk as they are used."""
        return np.asarray(np.load(self.folder / IMAGES, mmap_mode="r", allow_pickle=False))

    @property
    def task(self) -> Task:
        """What the network is for."""
        return task_named(self.recipe.task)

    def reference(self) -> tuple[Answers, Labels, dict[str, Answers]]:
        """PyTorch's FP32 answers, the labels, and ONNX Runtime's answers on each graph as `graph:<name>`; a row an image."""
        with np.load(self.folder / REFERENCE, allow_pickle=False) as stored:
            graphs = {name: stored[name] for name in stored.files if name.startswith("graph:")}
            return stored[self.task.words.kept], stored["labels"], graphs


def open_bundle(folder: Path, *big: str) -> Bundle:
    """Read a bundle after checking its small files and those in the `big` folders ("all" for every one).

    InputError where a file is missing or was changed.
    """
    manifest = read_manifest(folder)
    for name, digest in manifest["files"].items():
        if not name.startswith(BIG) or "all" in big or name.split("/")[0] in big:
            _check_file(folder, name, digest, manifest["rebuild"])
    try:
        recipe = Recipe.from_dict(json.loads((folder / RECIPE).read_text(encoding="utf-8")))
        spec = Preprocess.from_dict(json.loads((folder / PREPROCESS).read_text(encoding="utf-8")))
    except (ValueError, KeyError, TypeError) as error:
        raise refused(folder, "its recipe cannot be read", str(error), manifest["rebuild"]) from error
    classes = tuple((folder / LABELS).read_text(encoding="utf-8").splitlines())
    return Bundle(folder, recipe, spec, classes, hash_of(manifest["files"]))


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest alone. InputError where there is none, or where it is of another release."""
    if not folder.is_dir():
        raise refused(folder, "there is no such folder", str(folder), None)
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        schema, files, rebuild = manifest["schema"], manifest["files"], manifest["rebuild"]
        whole = isinstance(files, dict) and {RECIPE, LABELS, PREPROCESS, IMAGES, REFERENCE} <= set(files)
    except FileNotFoundError as error:
        raise refused(folder, "it was not written to its end", f"{folder / MANIFEST} is missing", None) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise refused(folder, "its manifest cannot be read", str(error), None) from error
    if schema != SCHEMA or not whole or any(".." in name.split("/") or name.startswith("/") for name in files):
        raise refused(folder, "its manifest is not one of this release", f"schema {schema}", rebuild)
    return dict(manifest)


def _check_file(folder: Path, name: str, digest: str, rebuild: str | None) -> None:
    path = folder / name
    if not path.is_file():
        raise refused(folder, "a file is missing", name, rebuild)
    if sha256_of(path) != digest:
        raise refused(folder, "a file was changed or cut off", name, rebuild)


def refused(folder: Path, what: str, got: str, rebuild: str | None) -> InputError:
    """The error for a bundle that is not as the host wrote it."""
    return InputError(
        f"the bundle {folder} is refused: {what}", got=got, allowed="a bundle as `t2t-edge bundle` wrote it",
        next_step=f"copy it again from the host, or make it there: {rebuild or 't2t-edge bundle --run RUN'}",
    )  # fmt: skip
