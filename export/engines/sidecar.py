"""An engine's sidecar, `engine.json`: what it was built from, by what and for what; checked before the engine is loaded.

An engine is a folder: its file(s) and the sidecar, written last. An engine file can run code when it is loaded, so one whose
sidecar is missing or does not match is refused, with the command that builds it again.
"""

import hashlib
import json
import os
import shlex
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from calib.errors import InputError
from calib.preprocess import Preprocess
from export.engines.spec import BACKENDS
from export.engines.tensorrt.options import BuildOptions
from export.runner import DEFAULT_TASK

SIDECAR = "engine.json"
RECIPE_PATH = "recipe.path"  # in a run's folder: the recipe it was made from
LOCK_NOTE = ".lock.json"  # in a run's folder: the command that is writing it


@dataclass(frozen=True)
class Sidecar:
    """What travels with an engine. `files` maps each file's name to its sha256; `max_batch` is None where any will do.

    `backend` is the flavour, `machine` operating system and architecture. `compute_capability` is that of the GPU it
    was built for, `options` and `batch_sizes` (smallest, typical, largest) those a TensorRT engine was built with; all
    None of other backends. `instructions` are the CPU's that an engine of Inductor was compiled for, None of other engines.
    `task` is the recipe's `data.task`. `notes` says where operators run that XNNPACK does not take
    (`export.engines.executorch.placed`), or how many products Inductor has no INT8 kernels for; None without any.
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
    task: str = DEFAULT_TASK
    notes: dict[str, Any] | None = None
    instructions: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; task, notes and instructions only where they are not the default."""
        left_out = (("task", DEFAULT_TASK), ("notes", None), ("instructions", None))
        return {name: value for name, value in asdict(self).items() if (name, value) not in left_out}

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


NOTHING = Expected()


def write_sidecar(sidecar: Sidecar, folder: Path) -> None:
    """Write it into the engine's folder, whole or not at all."""
    partial = folder / f"{SIDECAR}.partial"
    partial.write_text(json.dumps(sidecar.to_dict(), indent=1), encoding="utf-8")
    os.replace(partial, folder / SIDECAR)


def read_sidecar(folder: Path, expected: Expected = NOTHING) -> Sidecar:
    """Read `folder/engine.json` and check it, its files and what is `expected`; what does not match is an InputError."""
    refused = Refusal(folder, expected)
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
    task = values.get("task") or DEFAULT_TASK
    return Sidecar(**values | {"classes": tuple(values["classes"]), "batch_sizes": sizes, "task": task})


_KINDS: dict[str, type] = {
    "backend": str, "precision": str, "version": str, "machine": str, "engine": str, "files": dict, "onnx_sha256": str,
    "preprocess": dict, "preprocess_sha256": str, "classes": list,
}  # fmt: skip
_OPTIONAL_KINDS: dict[str, type] = {
    "target": str, "max_batch": int, "layers": dict, "compute_capability": str, "options": dict, "batch_sizes": list,
    "task": str, "notes": dict, "instructions": str,
}  # fmt: skip


def sha256_of(path: Path) -> str:
    """Hash of a file, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


@dataclass(frozen=True)
class Refusal:
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
        recipe = "RECIPE"  # a run that was copied in part
    names = {"--recipe": recipe, "--runs": str(run_folder.parent), "--run": run_folder.name}
    options = " ".join(f"{option} {shlex.quote(value)}" for option, value in names.items())
    return f"rm -r {shlex.quote(str(build))} && t2t-edge build {options}"
