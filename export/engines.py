"""Build and load engines of any backend, chosen by a visible `if`; every engine has a sidecar, checked before loading.

An engine is a folder: its file(s) and `engine.json`, written last. An engine file can run code when it is loaded, so
one whose sidecar is missing, does not match, or was made by another version or for another machine is refused.
"""

import hashlib
import json
import os
import platform
import shutil
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from calib.errors import InputError
from calib.preprocess import Preprocess
from export import onnxruntime_backend, openvino_backend, tensorrt_backend, tensorrt_rtx_backend
from export.runner import Engine, Runner, RunOptions, Unavailable
from export.tensorrt_options import BuildOptions
from export.tensorrt_progress import Progress

SIDECAR = "engine.json"
WEIGHTS = "weights.onnx"  # beside a weight-stripped engine


@dataclass(frozen=True)
class EngineSpec:
    """What to build: `target` is a GPU architecture (`sm86`) for `tensorrt_rtx`, None elsewhere."""

    backend: str
    precision: str
    target: str | None
    batch_sizes: tuple[int, int, int]
    options: BuildOptions = field(default_factory=BuildOptions)  # of the TensorRT backends

    @property
    def name(self) -> str:
        """`openvino-int8`, `tensorrt_rtx-int8-fp16-sm86`: also the name of its folder."""
        return "-".join(part for part in (self.backend, self.precision, self.target) if part)


@dataclass(frozen=True)
class Sidecar:
    """What travels with an engine. `files` maps each file's name to its sha256; `max_batch` is None where any will do.

    `options` are those a TensorRT engine was built with, None of other backends.
    """

    backend: str
    precision: str
    target: str | None
    version: str
    machine: str
    engine: str
    files: dict[str, str]
    max_batch: int | None
    onnx_sha256: str
    preprocess: dict[str, Any]
    preprocess_sha256: str
    classes: tuple[str, ...]
    layers: dict[str, int] | None
    options: dict[str, Any] | None = None

    def preprocess_spec(self) -> Preprocess:
        """The preprocessing this engine's network was trained with."""
        return Preprocess.from_dict(self.preprocess)


def backend_version(backend: str) -> str | None:
    """The installed version of a backend, None where it is missing."""
    if backend == "onnxruntime":
        return onnxruntime_backend.version()
    if backend == "openvino":
        return openvino_backend.version()
    if backend == "tensorrt":
        return tensorrt_backend.version()
    assert backend == "tensorrt_rtx", backend
    return tensorrt_rtx_backend.version()


def build_engine(
    spec: EngineSpec, onnx_path: Path, folder: Path, preprocess: Preprocess, classes: list[str],
    progress: Progress | None = None,
) -> Sidecar:  # fmt: skip
    """Build `onnx_path` into `folder` and write its sidecar. Unavailable where the backend is not here."""
    folder.mkdir(parents=True)
    max_batch: int | None = None
    options: BuildOptions | None = None
    if spec.backend == "onnxruntime":
        engine = onnxruntime_backend.build(onnx_path, folder / onnxruntime_backend.ENGINE_NAME)
    elif spec.backend == "openvino":
        engine = openvino_backend.build(onnx_path, folder / openvino_backend.ENGINE_NAME)
    else:
        max_batch = spec.batch_sizes[2]
        options = replace(spec.options, sparse_weights="sparse" in spec.precision)
        engine = _build_tensorrt(spec, options, onnx_path, folder / "engine.plan", progress)
        if options.strip_weights:
            _link_or_copy(onnx_path, folder / WEIGHTS)
    version = backend_version(spec.backend)
    assert version is not None
    sidecar = Sidecar(
        spec.backend, spec.precision, spec.target, version, machine(), engine.path.name,
        {path.name: sha256_of(path) for path in sorted(folder.iterdir())}, max_batch, sha256_of(onnx_path),
        preprocess.to_dict(), preprocess.sha256(), tuple(classes), engine.layers,
        None if options is None else asdict(options),
    )  # fmt: skip
    partial = folder / f"{SIDECAR}.partial"
    partial.write_text(json.dumps(asdict(sidecar), indent=1), encoding="utf-8")
    os.replace(partial, folder / SIDECAR)
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


def read_sidecar(folder: Path) -> Sidecar:
    """Read `folder/engine.json` and check every file against it; anything that does not match is an InputError."""
    try:
        values = json.loads((folder / SIDECAR).read_text(encoding="utf-8"))
        sidecar = Sidecar(**values | {"classes": tuple(values["classes"])})
    except FileNotFoundError as error:
        raise _refused(folder, "it has no sidecar", f"{folder / SIDECAR} is missing") from error
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, TypeError, KeyError) as error:
        raise _refused(folder, "its sidecar cannot be read", str(error)) from error
    if sidecar.engine not in sidecar.files or any(Path(name).name != name for name in sidecar.files):
        raise _refused(folder, "its sidecar names files outside its folder", str(list(sidecar.files)))
    for name, digest in sidecar.files.items():
        path = folder / name
        if not path.is_file():
            raise _refused(folder, "a file is missing", name)
        if sha256_of(path) != digest:
            raise _refused(folder, "a file was changed or cut off", name)
    if sidecar.preprocess_spec().sha256() != sidecar.preprocess_sha256:
        raise _refused(folder, "its preprocessing does not match its hash", sidecar.preprocess_sha256)
    return sidecar


def load_engine(folder: Path, threads: int, run: RunOptions | None = None) -> tuple[Sidecar, Runner]:
    """Check an engine against its sidecar and load it. Unavailable where this machine cannot run it.

    `threads` is for backends of the CPU, `run` for those of the GPU.
    """
    sidecar = read_sidecar(folder)
    installed = backend_version(sidecar.backend)
    if installed is None:
        raise Unavailable(f"{sidecar.backend} is not installed: pip install 't2t-edge[{sidecar.backend}]'")
    options = BuildOptions(**sidecar.options or {})
    if sidecar.backend.startswith("tensorrt") and not _runs_on(installed, sidecar.version, options):
        raise _refused(folder, f"it was built by {sidecar.backend} {sidecar.version}", f"{installed} is installed")
    path = folder / sidecar.engine
    weights = folder / WEIGHTS if options.strip_weights else None
    if sidecar.backend == "onnxruntime":
        return sidecar, onnxruntime_backend.load(path, threads)
    if sidecar.backend == "openvino":
        return sidecar, openvino_backend.load(path, threads)
    if sidecar.backend == "tensorrt":
        tensorrt_backend.check_available_to_run()
        return sidecar, tensorrt_backend.load(path, run, weights=weights, host_code=options.version_compatible)
    tensorrt_rtx_backend.check_available_to_run()
    return sidecar, tensorrt_rtx_backend.load(path, run, weights=weights)


def _runs_on(installed: str, built: str, options: BuildOptions) -> bool:
    """The same release, or for a version-compatible engine a later one of the same major version."""
    if installed == built:
        return True
    here, there = (tuple(int(part) for part in text.split(".")[:3]) for text in (installed, built))
    return options.version_compatible and here[0] == there[0] and here > there


def machine() -> str:
    """Operating system and architecture, `Linux-x86_64`."""
    return f"{platform.system()}-{platform.machine()}"


def sha256_of(path: Path) -> str:
    """Hash of a file, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def _refused(folder: Path, what: str, got: str) -> InputError:
    return InputError(
        f"the engine in {folder} is refused: {what}",
        got=got,
        allowed="an engine as `t2t-edge build` wrote it, on this machine",
        next_step=f"rm -r '{folder.parent}' && t2t-edge build",
    )
