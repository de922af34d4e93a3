"""A bundle of a small finished run, for tests of what is written and of what a device does with it, and the device's Python."""

import json
import subprocess
import venv
from importlib import metadata
from pathlib import Path

from small_run import write_run

from calib.preprocess import Preprocess
from export.engines.sidecar import sha256_of
from pipeline.artifact import write_json
from pipeline.cli import main
from pipeline.console.exit_status import DONE
from pipeline.device.contents import MANIFEST

BARE = ("numpy", "opencv-python-headless", "onnxruntime")  # distributions, and what they bring along with them
RECIPE = {
    "schema": 1,
    "model": {"name": "t2t_vit_mini", "image_size": 32},
    "evaluate": {"batch_size": 10},
    "benchmark": {
        "batch_sizes": [1, 8], "warmup": 1, "warmup_ms": 0, "rounds": 2, "calls": 2, "threads": 1, "energy_seconds": 0,
    },
    "gate": {"min_relative_top1": 0.9},
}  # fmt: skip


def write_bundle_of_run(folder: Path, image_root: Path, spec: Preprocess) -> Path:
    """Make a finished run `runs/small` in `folder`, and its bundle; returns `folder`."""
    values = RECIPE | {
        "data": {"name": "three classes", "root": str(image_root)},
        "quantize": {"precisions": ["fp32", "int8", "int8-fp16"]},
        "build": [
            {"backend": "onnxruntime", "precisions": ["fp32", "int8"]},
            {"backend": "tensorrt", "precisions": ["int8-fp16"], "batch_sizes": [1, 2, 4]},
        ],
    }
    write_run(folder / "runs" / "small", values, spec)
    assert main(["bundle", "--runs", str(folder / "runs"), "--run", "small", "--images", "24"]) == DONE
    return folder


def reseal(bundle_folder: Path) -> None:
    """Write the hashes of what is there now, as if the host had written it."""
    recipe = json.loads((bundle_folder / "recipe.json").read_text())
    recipe["graphs"] = {name: sha256_of(bundle_folder / "graphs" / f"{name}.onnx") for name in recipe["graphs"]}
    write_json(bundle_folder / "recipe.json", recipe)
    manifest = json.loads((bundle_folder / MANIFEST).read_text())
    manifest["files"] = {name: sha256_of(bundle_folder / name) for name in manifest["files"]}
    write_json(bundle_folder / MANIFEST, manifest)


def make_bare_python(folder: Path) -> None:
    """`bin/python` of a new environment in `folder`, whose packages are links to just three of this one's: no network, no pip.

    An environment of its own, not this one with names blocked, so that nothing is found that nobody thought of blocking.
    """
    venv.EnvBuilder(with_pip=False, symlinks=True).create(folder)
    (packages,) = folder.glob("lib/python*/site-packages")
    for name in BARE:
        files = metadata.distribution(name).files
        assert files is not None
        for top in {file.parts[0] for file in files if file.parts[0] not in ("..", "__pycache__")}:
            (packages / top).symlink_to(Path(str(metadata.distribution(name).locate_file(top))).resolve())


def on_device(python: Path, bundle_folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """`./t2t …` with an empty environment, from the bundle's folder."""
    command = [str(python), "t2t", *arguments]
    return subprocess.run(command, cwd=bundle_folder, env={}, capture_output=True, text=True, timeout=120)
