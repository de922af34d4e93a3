"""Build and load engines of any backend, chosen by a visible `if`; every engine has a sidecar, checked before loading.

An engine is a folder: its file(s) and `engine.json`, written last. An engine file can run code when it is loaded, so
one whose sidecar is missing, does not match, or was made by another version or for another machine is refused, with the
command that builds it again. ONNX Runtime's and OpenVINO's engines are graphs and run on any machine; TensorRT's are not.
"""

import hashlib
import json
import os
import platform
import re
import shlex
import shutil
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from calib.errors import InputError
from calib.preprocess import Preprocess
from export.engines import onnxruntime_backend, openvino_backend
from export.engines.tensorrt import backend as tensorrt_backend
from export.engines.tensorrt import rtx_backend as tensorrt_rtx_backend
from export.engines.tensorrt.cuda_device import compute_capability
from export.engines.tensorrt.options import BuildOptions
from export.engines.tensorrt.progress import Progress
from export.runner import Engine, Runner, RunOptions, Unavailable

SIDECAR = "engine.json"
RECIPE_PATH = "recipe.path"  # in a run's folder: the recipe it was made from
WEIGHTS = "weights.onnx"  # beside a weight-stripped engine
BACKENDS = ("onnxruntime", "openvino", "tensorrt", "tensorrt_rtx")
_PLAN = "engine.plan"
_RTX_MAGIC = b"vtrt"  # the first bytes of what TensorRT-RTX 1.7 builds


@dataclass(frozen=True)
class EngineSpec:
    """What to build: `target` is a GPU architecture (`sm86`) for `tensorrt_rtx`, None elsewhere."""

    backend: str
    precision: str
    target: str | None
    batch_sizes: tuple[int, int, int]
    options: BuildOptions = field(default_factory=BuildOptions)  # of the TensorRT backends

    @property
    def build_options(self) -> BuildOptions | None:
        """The options it is built with, None of other backends than TensorRT's; sparse precisions add theirs."""
        if "tensorrt" not in self.backend:
            return None
        return replace(self.options, sparse_weights="sparse" in self.precision)

    @property
    def name(self) -> str:
        """`openvino-int8`, `tensorrt_rtx-int8-fp16-sm86`: also the name of its folder."""
        return "-".join(part for part in (self.backend, self.precision, self.target) if part)


@dataclass(frozen=True)
class Sidecar:
    """What travels with an engine. `files` maps each file's name to its sha256; `max_batch` is None where any will do.

    `backend` is the flavour, `machine` operating system and architecture. `compute_capability` is that of the GPU it
    was built for, `options` and `batch_sizes` (smallest, typical, largest) those a TensorRT engine was built with; all
    None of other backends, and `batch_sizes` of engines of earlier releases.
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
    compute_capability: str | None = None
    options: dict[str, Any] | None = None
    batch_sizes: tuple[int, int, int] | None = None

    def build_options(self) -> BuildOptions | None:
        """The options a TensorRT engine was built with, None of other backends."""
        return None if self.options is None else BuildOptions(**self.options)

    def preprocess_spec(self) -> Preprocess:
        """The preprocessing this engine's network was trained with."""
        return Preprocess.from_dict(self.preprocess)


@dataclass(frozen=True)
class Expected:
    """What the caller knows of an engine from elsewhere, each None where it does not; `rebuild` is the command to name."""

    onnx_sha256: str | None = None
    preprocess_sha256: str | None = None
    engine_sha256: str | None = None
    rebuild: str | None = None


_NOTHING = Expected()


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
    options = spec.build_options
    if spec.backend == "onnxruntime":
        engine = onnxruntime_backend.build(onnx_path, folder / onnxruntime_backend.ENGINE_NAME)
    elif spec.backend == "openvino":
        engine = openvino_backend.build(onnx_path, folder / openvino_backend.ENGINE_NAME)
    else:
        assert options is not None
        engine = _build_tensorrt(spec, options, onnx_path, folder / _PLAN, progress)
        if options.strip_weights:
            _link_or_copy(onnx_path, folder / WEIGHTS)
    version = backend_version(spec.backend)
    assert version is not None
    sidecar = Sidecar(
        spec.backend, spec.precision, spec.target, version, machine(), engine.path.name,
        {path.name: sha256_of(path) for path in sorted(folder.iterdir())},
        None if options is None else spec.batch_sizes[2], sha256_of(onnx_path),
        preprocess.to_dict(), preprocess.sha256(), tuple(classes), engine.layers, _built_for(spec),
        None if options is None else asdict(options), None if options is None else spec.batch_sizes,
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


def _built_for(spec: EngineSpec) -> str | None:
    """`8.6` for the target `sm86`, this machine's GPU for TensorRT, None for a CPU."""
    if spec.backend == "tensorrt_rtx":
        assert spec.target is not None
        digits = spec.target.removeprefix("sm")
        return f"{digits[:-1]}.{digits[-1]}"
    return compute_capability() if spec.backend == "tensorrt" else None


def read_sidecar(folder: Path, expected: Expected = _NOTHING) -> Sidecar:
    """Read `folder/engine.json` and check it, its files and what is `expected`; what does not match is an InputError."""
    refused = _Refusal(folder, expected)
    try:
        sidecar = _parse_sidecar(json.loads((folder / SIDECAR).read_text(encoding="utf-8")))
        spec = sidecar.preprocess_spec()
    except FileNotFoundError as error:
        raise refused("it has no sidecar", f"{folder / SIDECAR} is missing") from error
    except (OSError, ValueError, TypeError, KeyError, InputError) as error:
        # cut off, changed by hand, or of another release that knows more
        got = f"no key {error}" if isinstance(error, KeyError) else " ".join(str(error).split())
        raise refused("its sidecar cannot be read", got) from error
    if sidecar.backend not in BACKENDS:
        raise refused("its sidecar names no flavour of engine that is known here", sidecar.backend)
    if sidecar.engine not in sidecar.files or any(Path(name).name != name for name in sidecar.files):
        raise refused("its sidecar names files outside its folder", str(list(sidecar.files)))
    for name, digest in sidecar.files.items():
        path = folder / name
        if not path.is_file():
            raise refused("a file is missing", name)
        if sha256_of(path) != digest:
            raise refused("a file was changed or cut off", name)
    if spec.sha256() != sidecar.preprocess_sha256:
        raise refused("its preprocessing does not match its hash", sidecar.preprocess_sha256)
    for what, got, wanted in (
        ("it was built from another graph", sidecar.onnx_sha256, expected.onnx_sha256),
        ("it was built for another preprocessing", sidecar.preprocess_sha256, expected.preprocess_sha256),
        ("it is not the engine that was evaluated", sidecar.files[sidecar.engine], expected.engine_sha256),
    ):
        if wanted is not None and got != wanted:
            raise refused(what, f"sha256 {got[:12]}…, not {wanted[:12]}…")
    return sidecar


def _parse_sidecar(values: Any) -> Sidecar:
    """A sidecar of JSON values. Raises KeyError, TypeError or ValueError for any other than `build_engine` writes."""
    if not isinstance(values, dict):
        raise TypeError(f"a {type(values).__name__} in place of an object")
    for name, kind in _KINDS.items():
        if not isinstance(values[name], kind):
            raise TypeError(f"{name}: {values[name]!r}")
    for name, kind in _OPTIONAL_KINDS.items():
        if not isinstance(values.get(name), kind | None):
            raise TypeError(f"{name}: {values[name]!r}")
    sizes = values.get("batch_sizes")
    if sizes is not None:
        low, typical, high = sizes
        sizes = (low, typical, high)
    defaults = asdict(BuildOptions())
    for name, value in (values.get("options") or {}).items():
        if type(value) is not type(defaults[name]):
            raise TypeError(f"options.{name}: {value!r}")
    return Sidecar(**values | {"classes": tuple(values["classes"]), "batch_sizes": sizes})


_KINDS: dict[str, type] = {
    "backend": str, "precision": str, "version": str, "machine": str, "engine": str, "files": dict, "onnx_sha256": str,
    "preprocess": dict, "preprocess_sha256": str, "classes": list,
}  # fmt: skip
_OPTIONAL_KINDS: dict[str, type] = {
    "target": str, "max_batch": int, "layers": dict, "compute_capability": str, "options": dict, "batch_sizes": list,
}  # fmt: skip


def load_engine(
    folder: Path, threads: int, run: RunOptions | None = None, expected: Expected = _NOTHING
) -> tuple[Sidecar, Runner]:
    """Check an engine against its sidecar and what is `expected`, and load it. Unavailable where this machine cannot run it.

    `threads` is for backends of the CPU, `run` for those of the GPU.
    """
    sidecar = read_sidecar(folder, expected)
    path = folder / sidecar.engine
    options = sidecar.build_options() or BuildOptions()
    if sidecar.backend.startswith("tensorrt"):
        _check_made_here(sidecar, options, path, _Refusal(folder, expected))
    if backend_version(sidecar.backend) is None:
        raise Unavailable(f"{sidecar.backend} is not installed: pip install 't2t-edge[{sidecar.backend}]'")
    weights = folder / WEIGHTS if options.strip_weights else None
    if sidecar.backend == "onnxruntime":
        return sidecar, onnxruntime_backend.load(path, threads)
    if sidecar.backend == "openvino":
        return sidecar, openvino_backend.load(path, threads)
    if sidecar.backend == "tensorrt":
        return sidecar, tensorrt_backend.load(path, run, weights=weights, host_code=options.version_compatible)
    return sidecar, tensorrt_rtx_backend.load(path, run, weights=weights)


def _check_made_here(sidecar: Sidecar, options: BuildOptions, path: Path, refused: "_Refusal") -> None:
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


def sha256_of(path: Path) -> str:
    """Hash of a file, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


@dataclass(frozen=True)
class _Refusal:
    """Makes the error for an engine: what is wrong, and the command that builds this very engine again."""

    folder: Path
    expected: Expected

    def __call__(self, what: str, got: str) -> InputError:
        return InputError(
            f"the engine in {self.folder} is refused: {what}", got=got,
            allowed="an engine as `build` wrote it, for this machine",
            next_step=self.expected.rebuild or rebuild_command(self.folder),
        )  # fmt: skip


def rebuild_command(folder: Path) -> str:
    """What builds the engine `runs/<run>/build/<engine>` again. The recipe is the one the run was last made from."""
    build = folder.parent
    run_folder = build.parent
    try:
        recipe = (run_folder / RECIPE_PATH).read_text(encoding="utf-8")
    except FileNotFoundError:
        recipe = "RECIPE"  # a run of an earlier release, or one copied in part
    names = {"--recipe": recipe, "--runs": str(run_folder.parent), "--run": run_folder.name}
    options = " ".join(f"{option} {shlex.quote(value)}" for option, value in names.items())
    return f"rm -r {shlex.quote(str(build))} && t2t-edge build {options}"
