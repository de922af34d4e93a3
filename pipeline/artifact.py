"""What a stage leaves behind: a folder with a manifest that is written last, so that a manifest means *complete*."""

import hashlib
import json
import os
import shutil
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from export.engines.sidecar import sha256_of

MANIFEST = "manifest.json"
_MAPPINGS = (
    "recipe",
    "inputs",
    "images",
    "versions",
    "places",
    "notes",
    "outputs",
    "sizes",
)  # of a manifest, as far as it has them


@dataclass(frozen=True)
class Artifact:
    """A finished stage. `outputs` maps relative names to sha256, `notes` holds what the stage measured."""

    folder: Path
    key: str
    outputs: dict[str, str]
    sizes: dict[str, int]
    notes: dict[str, Any]
    seconds: float

    def path(self, name: str) -> Path:
        """The path of one output; a name the manifest does not list is a bug."""
        assert name in self.outputs, f"{self.folder} has no output {name}"
        return self.folder / name


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest in `folder`, as `write_manifest` wrote it; None where there is none, or no whole one."""
    try:
        manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: no JSON, or no text at all
        return None
    whole = isinstance(manifest, dict) and all(isinstance(manifest.get(name, {}), dict) for name in _MAPPINGS)
    return manifest if whole else None


def read_artifact(folder: Path) -> Artifact | None:
    """The finished stage in `folder`; None where there is none, or where its files are not those the manifest lists."""
    values = read_manifest(folder)
    try:
        artifact = values and Artifact(
            folder, values["key"], values["outputs"], values["sizes"], values["notes"], values["seconds"]
        )
    except KeyError:
        return None
    if not artifact:
        return None
    return artifact if all(size_of_file(folder / name) == size for name, size in artifact.sizes.items()) else None


def size_of_file(path: Path) -> int | None:
    """Bytes of a file; None where there is none. Asked once: a command that writes the run may move it at any moment."""
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return found.st_size if stat.S_ISREG(found.st_mode) else None


def write_manifest(folder: Path, identity: Mapping[str, Any], *, notes: dict[str, Any], seconds: float) -> None:
    """List every file of `folder` and write the manifest, in one move. Hidden files are work, not outputs.

    `identity` is what the result depends on, as `pipeline.run.identity.Identity.recorded` gives it: `stage`, `key`, `recipe`,
    `inputs`, `images`, `versions`, `code` and `places`.
    """
    files = sorted(
        path for path in folder.rglob("*")
        if path.is_file() and path.name != MANIFEST and not path.name.startswith(".")
    )  # fmt: skip
    names = [path.relative_to(folder).as_posix() for path in files]
    manifest = {
        "schema": 2, **identity, "finished": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "seconds": round(seconds, 1), "notes": notes,
        "outputs": {name: sha256_of(path) for name, path in zip(names, files, strict=True)},
        "sizes": {name: path.stat().st_size for name, path in zip(names, files, strict=True)},
    }  # fmt: skip
    write_json(folder / MANIFEST, manifest)


def note_places(folder: Path, manifest: Mapping[str, Any], places: Mapping[str, Any]) -> None:
    """Correct where a finished stage's images lie, if they lie elsewhere now; a run that is only read is left as it is."""
    if manifest.get("places") != places and os.access(folder, os.W_OK):
        write_json(folder / MANIFEST, {**manifest, "places": places})


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file, whole or not at all, also where the power fails."""
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("w", encoding="utf-8") as file:
        json.dump(value, file, indent=1, ensure_ascii=False)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


def swap_folder(partial: Path, folder: Path) -> None:
    """Put the finished folder in place; the earlier one goes only when the new one stands."""
    old = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        os.rename(folder, old)
    os.rename(partial, folder)
    shutil.rmtree(old, ignore_errors=True)


def hash_of(value: Any) -> str:
    """sha256 of a JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
