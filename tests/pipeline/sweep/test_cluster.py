"""A sweep on a cluster, and one that is interrupted: machines and processes die, results do not."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from swept import sweep, write_sweep

from pipeline.artifact import read_manifest
from pipeline.cli import main

pytestmark = pytest.mark.slow
NODE = {"num_cpus": 1, "resources": {"machine": 1}, "object_store_memory": 80_000_000}
# Long enough for both networks to be in training when a machine dies.
POINTS: list[dict[str, Any]] = [
    {"name": "t2t", "train.epochs": 16, "train.save_every": 1},
    {"name": "vit", "model.name": "test_vit", "train.epochs": 60},
]
SECONDS = 300


@pytest.fixture
def two_machines() -> Iterator[Any]:
    """A Ray cluster of two machines, both this one."""
    from ray.cluster_utils import Cluster

    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}
    found = Cluster(initialize_head=True, head_node_args=NODE | {"include_dashboard": False})
    found.second = found.add_node(**NODE)
    yield found
    found.shutdown()


def wait_for(there: Callable[[], bool], process: "subprocess.Popen[str]", what: str) -> None:
    end = time.monotonic() + SECONDS
    while not there():
        assert process.poll() is None, f"it ended before {what}: {process.communicate()[0]}"
        assert time.monotonic() < end, f"{what} was waited for"
        time.sleep(0.05)


def start(path: Path, *options: str) -> "subprocess.Popen[str]":
    """The command, as a process; its output is one text."""
    command = [sys.executable, "-m", "pipeline", "sweep", str(path), "--runs", str(path.parent / "runs"), *options]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # a background shell's ignore it
    )  # fmt: skip


def results(folder: Path) -> dict[tuple[str, str], Any]:
    """By run and stage the hash of what does not depend on time: weights, graphs, logits."""
    found: dict[tuple[str, str], Any] = {}
    for stage, name in (("train", "checkpoint.pt"), ("export", "fp32.onnx"), ("quantize", "int8.onnx")):
        for manifest in folder.glob(f"*/{stage}/manifest.json"):
            found[manifest.parent.parent.name, stage] = (read_manifest(manifest.parent) or {})["outputs"][name]
    return found


def test_a_machine_dies_in_mid_training_and_the_results_are_equal(
    image_root: Path, tmp_path: Path, two_machines: Any
) -> None:
    (tmp_path / "cluster").mkdir()
    path = write_sweep(tmp_path / "cluster", image_root, "two", points=POINTS)
    running = start(path, "--address", two_machines.address)
    runs = tmp_path / "cluster" / "runs" / "two"
    works = [runs / name / "train" for name in ("t2t", "vit")]
    wait_for(
        lambda: all((work.with_name(".train.partial") / "metrics.csv").is_file() for work in works), running, "training"
    )
    two_machines.remove_node(two_machines.second, allow_graceful=False)
    said, _ = running.communicate(timeout=SECONDS)
    assert running.returncode == 0, said
    logs = {name: (runs / name / "log.txt").read_text() for name in ("t2t", "vit")}
    assert sorted(log.count("train: running") for log in logs.values()) == [1, 2], "one of them was begun again"
    assert all(log.count("epoch 1/") == 1 for log in logs.values()), "and went on where it was"

    for name in ("t2t", "vit"):
        again = ["--recipe", str(runs / "recipes" / f"{name}.yaml"), "--runs", str(tmp_path / "alone"), "--run", name]
        assert main(["quantize", *again]) == 0
    expected = results(tmp_path / "alone")
    assert len(expected) == 6 and results(runs) == expected


def test_ctrl_c_ends_all_of_it_and_the_same_command_goes_on(image_root: Path, tmp_path: Path) -> None:
    path = write_sweep(tmp_path, image_root, "one", points=POINTS[:1])
    running = start(path)
    work = tmp_path / "runs" / "one" / "t2t" / ".train.partial"
    wait_for(lambda: (work / "metrics.csv").is_file(), running, "training")
    second = subprocess.run(
        [sys.executable, "-m", "pipeline", "sweep", str(path), "--runs", str(tmp_path / "runs")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert second.returncode == 2 and f"process {running.pid}, since" in second.stderr
    running.send_signal(signal.SIGINT)
    said, _ = running.communicate(timeout=SECONDS)
    assert running.returncode == 1, said
    assert "interrupted: finished stages are kept; the same command goes on from there" in said
    assert "Traceback" not in said
    time.sleep(1)
    assert processes_with(str(tmp_path)) == [], "nothing is left running"
    assert sweep(path) == 0
    assert "train: running" in (log := (tmp_path / "runs" / "one" / "t2t" / "log.txt").read_text())
    assert log.count("train: running") == 2


def processes_with(text: str) -> list[str]:
    """The command lines of processes that name `text`."""
    found = []
    for place in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = place.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:  # it has just ended
            continue
        if text in line:
            found.append(line)
    return found


def test_trainings_that_fall_behind_are_stopped_and_stay_so(
    image_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    points = [{"name": f"lr{rate}", "train.lr": rate, "train.epochs": 9} for rate in (1e-3, 1e-9, 2e-9, 3e-9)]
    path = write_sweep(tmp_path, image_root, "rates", points=points)
    assert sweep(path, "--halving") == 0
    said = capsys.readouterr().out
    assert "4 trainings by successive halving: at least 1 epoch each, and at most 9" in said
    stopped = [
        f"lr{rate}" for rate in (1e-9, 2e-9, 3e-9) if not (tmp_path / "runs" / "rates" / f"lr{rate}" / "train").exists()
    ]
    assert stopped and (tmp_path / "runs" / "rates" / "lr0.001" / "report" / "report.json").is_file()
    assert "others were better by then (--halving)" in said
    assert sweep(path, "--halving") == 0
    assert "successive halving:" not in capsys.readouterr().out, "what was stopped is not begun again"
    assert not any((tmp_path / "runs" / "rates" / name / "train").exists() for name in stopped)
