"""kill -9 at ten moments of a whole run: the same command goes on each time, to the same results to the last bit."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]
# What a clock has written is another each time: when a stage ran, how long, how fast.
TIMED = ("tensorboard", "metrics.csv", "last.pt", "benchmark.json", "report.", "tradeoff.png", "evaluation.json")


def outputs(run: Path) -> dict[str, str]:
    """The sha256 of every output that does not depend on a clock."""
    found = {}
    for path in sorted(run.glob("*/manifest.json")):
        for name, digest in json.loads(path.read_text())["outputs"].items():
            if not name.startswith(TIMED):
                found[f"{path.parent.name}/{name}"] = arrays_of(path.parent / name) if name.endswith(".npz") else digest
    return found


def arrays_of(path: Path) -> str:
    """Hash of an archive's arrays: its directory holds times."""
    with np.load(path, allow_pickle=False) as stored:
        return hashlib.sha256(
            b"".join(name.encode() + stored[name].tobytes() for name in sorted(stored.files))
        ).hexdigest()


def test_ten_kills_lose_nothing(tiny_run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "work"
    folder.mkdir()
    for name in ("images", "recipes"):
        shutil.copytree(tiny_run / name, folder / name)
    environment = os.environ | {"PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("kill_at.py"), "3", "10"], cwd=folder, env=environment, capture_output=True,
        text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "killed 10 times" in done.stdout, done.stdout
    expected = outputs(tiny_run / "runs" / "demo")
    assert outputs(folder / "runs" / "demo") == expected and len(expected) > 12
    left = [
        path for path in (folder / "runs" / "demo").rglob("*") if path.name.startswith(".") and "partial" in path.name
    ]
    assert not left and not (folder / "runs/demo/.kept").exists(), left
