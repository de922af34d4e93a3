"""A sweep on this machine: what is equal is made once, each run is an ordinary one, a failed point is a row."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from once import Once
from swept import AXES, make_swept, sweep, write_sweep

from pipeline.cli import main
from pipeline.sweep.running import cluster

pytestmark = pytest.mark.slow
NAMES = [
    f"{name}-{policy}-{method}"
    for name in AXES["model.name"] for policy in AXES["quantize.policy"] for method in AXES["quantize.method"]
]  # fmt: skip
Printed = pytest.CaptureFixture[str]


@pytest.fixture(scope="session")
def swept(image_root: Path, once: Once) -> Path:
    """A folder with `grid.yaml`, two networks × two policies × two methods, and its eight runs in `runs/grid`."""
    return once("swept", lambda folder: make_swept(folder, image_root))


def outcome_of(folder: Path, name: str = "grid") -> dict[str, Any]:
    return json.loads((folder / "runs" / name / "sweep.json").read_text())


def made(sweep_folder: Path, stage: str) -> int:
    """How often a stage has run, by the logs of all runs."""
    return sum(log.read_text().count(f"{stage}: running") for log in sweep_folder.glob("*/log.txt"))


def test_what_is_equal_is_made_once(swept: Path) -> None:
    folder = swept / "runs" / "grid"
    for stage, expected in {"train": 2, "export": 2, "calibrate": 2, "quantize": 8, "build": 8, "report": 8}.items():
        assert made(folder, stage) == expected, stage
    assert len({path.stat().st_ino for path in folder.glob("*/train/checkpoint.pt")}) == 2
    assert outcome_of(swept)["stages"]["train"] == {"made": 2, "shared": 6}


def test_every_point_is_done_and_every_run_is_whole(swept: Path) -> None:
    outcome = outcome_of(swept)
    assert [point["name"] for point in outcome["points"]] == NAMES
    assert {point["status"] for point in outcome["points"]} == {"done"}
    stages = {"train", "export", "calibrate", "quantize", "build", "evaluate", "visualize", "benchmark", "report"}
    for name in NAMES:
        run = swept / "runs" / "grid" / name
        assert stages <= {path.parent.name for path in run.glob("*/manifest.json")}, name
    command = outcome["best"]["command"]
    assert f"--runs {swept / 'runs' / 'grid'}" in command and f"--run {outcome['best']['point']}" in command
    for name in ("sweep.html", "sweep.csv", "sweep.png"):
        assert (swept / "runs" / "grid" / name).stat().st_size > 1000


def test_a_point_is_an_ordinary_run(swept: Path, tmp_path: Path, capsys: Printed) -> None:
    runs = shutil.copytree(swept / "runs" / "grid", tmp_path / "grid", ignore=shutil.ignore_patterns("*.lock*"))
    run = ["--runs", str(runs), "--run", NAMES[0]]
    recipe = swept / "runs" / "grid" / "recipes" / f"{NAMES[0]}.yaml"
    assert main(["report", "--recipe", str(recipe), *run]) == 0
    said = capsys.readouterr().out
    assert said.count("unchanged") == 9 and "running" not in said
    image = next((swept / "images" / "val" / "class_1").iterdir())
    assert main(["predict", *run, "--engine", "onnxruntime-int8", str(image)]) == 0
    assert "class_" in capsys.readouterr().out


def test_a_second_time_nothing_runs_and_ray_is_not_started(
    swept: Path, monkeypatch: pytest.MonkeyPatch, capsys: Printed
) -> None:
    monkeypatch.setattr(cluster, "_environment", lambda: pytest.fail("Ray is started"))
    assert sweep(swept / "grid.yaml") == 0
    assert "8 points, 54 results of stages: none to make" in capsys.readouterr().out
    assert sweep(swept / "grid.yaml", "--dry-run") == 0
    said = capsys.readouterr().out
    assert "train:   2 for 8 points, none to make" in said and said.count("none to make") == 9


def test_another_value_makes_only_what_is_new(swept: Path, tmp_path: Path, capsys: Printed) -> None:
    shutil.copytree(swept / "runs", tmp_path / "runs", ignore=shutil.ignore_patterns("*.lock*"))
    axes = AXES | {"quantize.policy": ["weights", "full", "best"]}
    path = write_sweep(tmp_path, swept / "images", axes=axes)
    assert sweep(path, "--dry-run") == 0
    said = capsys.readouterr().out
    assert "train:   2 for 12 points, none to make" in said
    assert "quantize:  12 for 12 points, 4 to make" in said
    # a name is made of what differs: with one value less they change, and the results are found all the same
    path = write_sweep(tmp_path, swept / "images", axes=AXES | {"quantize.method": ["max"]})
    assert sweep(path) == 0
    assert "4 points, 30 results of stages: 4 to make" in capsys.readouterr().out, "the reports, which name their run"
    assert (tmp_path / "runs" / "grid" / "test_vit-full" / "train" / "checkpoint.pt").is_file()


def test_what_fails_is_a_row_with_its_reason_and_the_others_go_on(swept: Path, tmp_path: Path, capsys: Printed) -> None:
    points = [{"name": "good"}, {"name": "wrong", "train.batch_size": 4000}, {"name": "low", "train.epochs": 1}]
    path = write_sweep(tmp_path, swept / "images", "mixed", points=points)
    assert sweep(path) == 0
    rows = {point["name"]: point for point in outcome_of(tmp_path, "mixed")["points"]}
    assert (rows["wrong"]["status"], rows["wrong"]["stage"]) == ("failed", "train")
    assert "train.batch_size is larger than a process's share of the training images: 4000" in rows["wrong"]["reason"]
    assert rows["good"]["status"] == rows["low"]["status"] == "done"
    assert "wrong: train failed" in capsys.readouterr().out

    # of an engine that cannot be fast enough, or of weights that are not good enough, nothing is made
    again = write_sweep(tmp_path, swept / "images", "slow", points=[{"name": "a"}, {"name": "b", "train.epochs": 1}])
    assert sweep(again, "--budget-ms", "0.0001") == 1
    rows = {point["name"]: point for point in outcome_of(tmp_path, "slow")["points"]}
    assert {row["status"] for row in rows.values()} == {"skipped"}
    assert "over the budget of 0.0001 ms" in rows["a"]["reason"] and set(rows["a"]["probe_ms"]) == {
        "onnxruntime-fp32", "onnxruntime-int8",
    }  # fmt: skip
    assert made(tmp_path / "runs" / "slow" / ".probes", "benchmark") == 1, "both have the same network"
    assert not list((tmp_path / "runs" / "slow").glob("*/train"))
    assert sweep(path, "--min-top1", "100", "--run", "mixed") == 1
    rows = {point["name"]: point for point in outcome_of(tmp_path, "mixed")["points"]}
    assert (rows["good"]["status"], rows["good"]["stage"]) == ("skipped", "export")
    assert "100 % are asked for" in rows["good"]["reason"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--address", "127.0.0.1:1"], "no Ray cluster answers"),
        (["--run", "../x"], "a run's name is a plain folder name"),
    ],
)
def test_wrong_use_is_said(swept: Path, options: list[str], message: str, tmp_path: Path, capsys: Printed) -> None:
    path = write_sweep(tmp_path, swept / "images", points=[{"train.epochs": 1}])
    assert sweep(path, *options) == 2
    assert message in capsys.readouterr().err


def test_a_run_is_not_taken_for_a_sweep(swept: Path, tmp_path: Path, capsys: Printed) -> None:
    (tmp_path / "runs" / "grid").mkdir(parents=True)
    (tmp_path / "runs" / "grid" / "recipe.path").write_text("recipes/demo.yaml")
    assert sweep(write_sweep(tmp_path, swept / "images")) == 2
    assert "a run has this name" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--budget-ms", "-1"], "--budget-ms: -1: a number above 0"),
        (["--budget-ms", "ten"], "--budget-ms: ten: a number above 0"),
        (["--min-top1", "101"], "--min-top1: 101: a percentage, 0 to 100"),
        (["--min-top1", "nan"], "--min-top1: nan: a percentage, 0 to 100"),
        (["--jobs", "1.5"], "--jobs: 1.5: a whole number above 0"),
        (["--jobs", "inf"], "--jobs: inf: a whole number above 0"),
    ],
)
def test_wrong_numbers_are_said(options: list[str], message: str, capsys: Printed) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["sweep", "grid.yaml", *options])
    assert ended.value.code == 2 and message in capsys.readouterr().err


def test_a_recipe_is_no_sweep(capsys: Printed) -> None:
    assert main(["sweep", str(Path(__file__).parents[3] / "recipes" / "demo.yaml")]) == 2
    assert "this is a recipe, not a sweep" in capsys.readouterr().err
