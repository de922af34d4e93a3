"""Build and load engines of any backend, chosen by a visible `if`.

ONNX Runtime's, OpenVINO's, ExecuTorch's and eager PyTorch's engines are graphs and run on any machine. TensorRT's and Inductor's
are machine code, tied to the version that made it and to the GPU, Inductor's on a CPU to its instructions: one for another
machine is refused before anything reads it.
"""

import os
import platform
import re
import shutil
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Literal, Protocol

from calib.preprocess import Preprocess
from export.cpu import compiled_instructions
from export.engines import onnxruntime_backend, openvino_backend
from export.engines.executorch import backend as executorch_backend
from export.engines.pytorch import eager_backend, inductor_backend
from export.engines.pytorch.inductor_backend import gpu_capability
from export.engines.sidecar import NOTHING, Expected, Refusal, Sidecar, read_sidecar, sha256_of, write_sidecar
from export.engines.spec import EngineSpec, in_bf16
from export.engines.tensorrt import backend as tensorrt_backend
from export.engines.tensorrt import rtx_backend as tensorrt_rtx_backend
from export.engines.tensorrt.cuda_device import compute_capability
from export.engines.tensorrt.options import BuildOptions
from export.engines.tensorrt.progress import Progress
from export.runner import DEFAULT_TASK, Engine, Runner, RunOptions, Unavailable

WEIGHTS = "weights.onnx"  # beside a weight-stripped engine
_PLAN = "engine.plan"
_RTX_MAGIC = b"vtrt"  # the first bytes of what TensorRT-RTX 1.7 builds


class BackendModule(Protocol):
    """What the file of each backend has, besides `build` and `load`, whose options are its own.

    `INSTALL` is how to get it on a host (a checkout), `INSTALL_ON_DEVICE` where there is no checkout.
    """

    INSTALL: str
    INSTALL_ON_DEVICE: str

    def version(self) -> str | None:
        """The installed version, None without one."""

    def check_available_to_build(self) -> None:
        """Raise Unavailable where engines cannot be built here."""

    def check_available_to_run(self) -> None:
        """Raise Unavailable where engines cannot run here."""


def backend_module(backend: str) -> BackendModule:
    """The file of a backend."""
    if backend == "onnxruntime":
        return onnxruntime_backend
    if backend == "openvino":
        return openvino_backend
    if backend == "executorch":
        return executorch_backend
    if backend == "inductor":
        return inductor_backend
    if backend == "pytorch":
        return eager_backend
    if backend == "tensorrt":
        return tensorrt_backend
    assert backend == "tensorrt_rtx", backend
    return tensorrt_rtx_backend


def unavailable(backends: Iterable[str], need: Literal["build", "run"]) -> dict[str, str]:
    """Those of the backends whose engines cannot be built or run here, and why."""
    reasons: dict[str, str] = {}
    for backend in backends:
        module = backend_module(backend)
        try:
            (module.check_available_to_build if need == "build" else module.check_available_to_run)()
        except Unavailable as reason:
            reasons[backend] = str(reason)
    return reasons


def backend_version(backend: str) -> str | None:
    """The installed version of a backend, None where it is missing."""
    return backend_module(backend).version()


def build_engine(
    spec: EngineSpec, onnx_path: Path, folder: Path, preprocess: Preprocess, classes: list[str],
    progress: Progress | None = None, task: str = DEFAULT_TASK,
) -> Sidecar:  # fmt: skip
    """Build `onnx_path` into `folder` and write its sidecar. Unavailable where the backend is not here."""
    folder.mkdir(parents=True)
    options = spec.build_options
    if spec.backend == "onnxruntime":
        engine = onnxruntime_backend.build(onnx_path, folder / onnxruntime_backend.ENGINE_NAME)
    elif spec.backend == "openvino":
        engine = openvino_backend.build(onnx_path, folder / openvino_backend.ENGINE_NAME, bf16=in_bf16(spec.precision))
    elif spec.backend == "executorch":
        engine = executorch_backend.build(onnx_path, folder / executorch_backend.ENGINE_NAME)
    elif spec.backend == "inductor":
        path, batch = folder / inductor_backend.ENGINE_NAME, spec.batch_sizes[1]
        engine = inductor_backend.build(onnx_path, path, batch=batch, bf16=in_bf16(spec.precision))
    elif spec.backend == "pytorch":
        engine = eager_backend.build(onnx_path, folder / eager_backend.ENGINE_NAME)
    else:
        assert options is not None
        engine = _build_tensorrt(spec, options, onnx_path, folder / _PLAN, progress)
        if options.strip_weights:
            _link_or_copy(onnx_path, folder / WEIGHTS)
    version = backend_version(spec.backend)
    assert version is not None
    capability = _built_for(spec)
    compiled = spec.backend == "inductor" and capability is None
    notes = engine.notes if spec.backend in ("executorch", "inductor") else {}
    sidecar = Sidecar(
        spec.backend, spec.precision, spec.target, version, machine(), engine.path.name,
        {path.name: sha256_of(path) for path in sorted(folder.iterdir())},
        None if options is None else spec.batch_sizes[2], sha256_of(onnx_path),
        preprocess.to_dict(), preprocess.sha256(), tuple(classes), engine.layers, capability,
        None if options is None else asdict(options), None if options is None else spec.batch_sizes, task,
        notes or None, compiled_instructions() if compiled else None,
    )  # fmt: skip
    write_sidecar(sidecar, folder)
    return sidecar


def _build_tensorrt(
    spec: EngineSpec, options: BuildOptions, onnx_path: Path, path: Path, progress: Progress | None
) -> Engine:
    if spec.backend == "tensorrt":
        return tensorrt_backend.build(onnx_path, path, batch_sizes=spec.batch_sizes, options=options, progress=progress)
    assert spec.target is not None
    return tensorrt_rtx_backend.build(
        onnx_path, path, batch_sizes=spec.batch_sizes, target=spec.target, options=options, progress=progress
    )


def _link_or_copy(source: Path, target: Path) -> None:
    """The same file under another name where the file system allows it, so that weights take no room twice."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _built_for(spec: EngineSpec) -> str | None:
    """`8.6` for the target `sm86`, this machine's GPU for TensorRT and for Inductor, None for a CPU."""
    if spec.backend == "tensorrt_rtx":
        assert spec.target is not None
        digits = spec.target.removeprefix("sm")
        return f"{digits[:-1]}.{digits[-1]}"
    if spec.backend == "inductor":
        return gpu_capability()
    return compute_capability() if spec.backend == "tensorrt" else None


def load_engine(
    folder: Path, threads: int, run: RunOptions | None = None, expected: Expected = NOTHING
) -> tuple[Sidecar, Runner]:
    """Check an engine against its sidecar and what is `expected`, and load it. Unavailable where this machine cannot run it.

    `threads` is for backends of the CPU, `run` for those of the GPU.
    """
    sidecar = read_sidecar(folder, expected)
    path = folder / sidecar.engine
    options = sidecar.build_options() or BuildOptions()
    if sidecar.backend.startswith("tensorrt"):
        _check_made_here(sidecar, options, path, Refusal(folder, expected))
    if sidecar.backend == "inductor":
        _check_compiled_here(sidecar, Refusal(folder, expected))
    if backend_version(sidecar.backend) is None:
        raise Unavailable(f"{sidecar.backend} is not installed: {backend_module(sidecar.backend).INSTALL}")
    weights = folder / WEIGHTS if options.strip_weights else None
    if sidecar.backend == "onnxruntime":
        return sidecar, onnxruntime_backend.load(path, threads)
    if sidecar.backend == "openvino":
        return sidecar, openvino_backend.load(path, threads, bf16=in_bf16(sidecar.precision))
    if sidecar.backend == "executorch":
        return sidecar, executorch_backend.load(path, threads)
    if sidecar.backend == "inductor":
        return sidecar, inductor_backend.load(path, threads)
    if sidecar.backend == "pytorch":
        return sidecar, eager_backend.load(path, threads)
    if sidecar.backend == "tensorrt":
        return sidecar, tensorrt_backend.load(path, run, weights=weights, host_code=options.version_compatible)
    return sidecar, tensorrt_rtx_backend.load(path, run, weights=weights)


def _check_made_here(sidecar: Sidecar, options: BuildOptions, path: Path, refused: "Refusal") -> None:
    """Of a plan, which is machine code: flavour, operating system, version and GPU, before anything reads it.

    TensorRT-RTX's are made on other machines than they run on: its `load` asks the runtime for the GPU.
    """
    with path.open("rb") as file:
        rtx = file.read(len(_RTX_MAGIC)) == _RTX_MAGIC
    if rtx != (sidecar.backend == "tensorrt_rtx"):
        raise refused(
            f"its sidecar says {sidecar.backend}", f"a plan of {'TensorRT-RTX' if rtx else 'another flavour'}"
        )
    if sidecar.machine != machine():
        raise refused(f"it was built on {sidecar.machine}", f"this machine is {machine()}")
    installed = backend_version(sidecar.backend)
    if installed is not None and not _runs_on(installed, sidecar.version, options):
        raise refused(f"it was built by {sidecar.backend} {sidecar.version}", f"{installed} is installed")
    if sidecar.backend == "tensorrt" and installed is not None:
        here = compute_capability()
        if not _fits(here, sidecar.compute_capability, options):
            built_for = sidecar.compute_capability or "a GPU it does not name"
            raise refused(f"it was built for compute capability {built_for}", f"this GPU has {here}")


def _check_compiled_here(sidecar: Sidecar, refused: "Refusal") -> None:
    """Of Inductor's package, which is machine code: operating system, PyTorch, and the GPU or the CPU's instructions."""
    if sidecar.machine != machine():
        raise refused(f"it was compiled on {sidecar.machine}", f"this machine is {machine()}")
    installed = backend_version(sidecar.backend)
    if installed is None:
        return
    if installed != sidecar.version:
        raise refused(f"it was compiled by PyTorch {sidecar.version}", f"{installed} is installed")
    if sidecar.compute_capability is not None:
        here = gpu_capability()
        if here != sidecar.compute_capability:
            got = "PyTorch has no GPU here" if here is None else f"this GPU has {here}"
            raise refused(f"it was compiled for compute capability {sidecar.compute_capability}", got)
    elif sidecar.instructions != compiled_instructions():
        ours, its = set(compiled_instructions().split()), set((sidecar.instructions or "").split())
        apart = ", ".join(
            [f"without {name}" for name in sorted(its - ours)] + [f"with {name}" for name in sorted(ours - its)]
        )
        raise refused("it was compiled for another CPU's instructions", f"this CPU is {apart}")


def _runs_on(installed: str, built: str, options: BuildOptions) -> bool:
    """The same release, or for a version-compatible engine a later one of the same major version."""
    if installed == built:
        return True
    here, there = ([int(number) for number in re.findall(r"\d+", text)[:3]] for text in (installed, built))
    return options.version_compatible and here[:1] == there[:1] and here > there


def _fits(here: str, built_for: str | None, options: BuildOptions) -> bool:
    """The same compute capability, or for an engine of `ampere_plus` any from 8.0 on."""
    if options.hardware == "ampere_plus" and built_for is not None:
        return int(here.split(".")[0]) >= 8
    return here == built_for


def machine() -> str:
    """Operating system and architecture, `Linux-x86_64`."""
    return f"{platform.system()}-{platform.machine()}"
