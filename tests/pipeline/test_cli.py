"""What all commands share: --json, --dry-run, examples, completion, and what is said at the end."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from chain_run import copy_run

from export.engines import engine as engines
from pipeline import cli, stages
from pipeline.cli import main
from pipeline.commands import models
from pipeline.commands.completion import SHELLS
from pipeline.console.exit_status import DONE, FAILED, WRONG_INPUT

pytestmark = pytest.mark.slow

Printed = pytest.CaptureFixture[str]
COMMANDS = cli.make_parser()._subparsers._group_actions[0].choices  # type: ignore[union-attr]


@pytest.fixture
def finished(tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the finished run to change, and the current folder."""
    folder = copy_run(tiny_run, tmp_path / "work")
    monkeypatch.chdir(folder)
    return folder


def change(folder: Path, part: str, **values: object) -> None:
    path = folder / "recipes" / "demo.yaml"
    recipe = yaml.safe_load(path.read_text())
    recipe[part] = recipe.get(part, {}) | values
    path.write_text(yaml.safe_dump(recipe))


def plan(printed: Printed, *arguments: str) -> dict[str, dict]:
    printed.readouterr()
    assert main(["run", "--dry-run", "--json", *arguments]) == DONE
    return {row["stage"]: row for row in json.loads(printed.readouterr().out)["stages"]}


def files(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


# --- --dry-run ------------------------------------------------------------------------------------------------------


def test_dry_run_of_a_finished_run(finished: Path, capsys: Printed) -> None:
    before = files(finished)
    rows = plan(capsys)
    assert list(rows) == [stage.name for stage in stages.STAGES if stage.name not in ("sensitivity", "search", "qat")]
    assert {row["plan"] for row in rows.values()} == {"unchanged"}
    assert files(finished) == before


def test_dry_run_of_a_new_run_writes_nothing(finished: Path, capsys: Printed) -> None:
    before = files(finished)
    rows = plan(capsys, "--recipe", "recipes/demo.yaml", "--run", "other")
    assert {(row["plan"], *row["reasons"]) for row in rows.values()} == {("runs", "it has not run yet")}
    assert files(finished) == before


@pytest.mark.parametrize(
    ("part", "values", "stage", "reason"),
    [
        ("train", {"epochs": 2}, "train", "recipe: train.epochs 1 → 2"),
        ("calibrate", {"images": 20}, "calibrate", "recipe: calibrate.images 24 → 20"),
        ("quantize", {"policy": "full"}, "quantize", 'recipe: quantize.policy "best" → "full"'),
        ("gate", {"min_relative_top1": 0.5}, "evaluate", "recipe: gate.min_relative_top1 0.0 → 0.5"),
    ],
)
def test_dry_run_names_the_key_and_real_runs_agree(
    finished: Path, capsys: Printed, part: str, values: dict, stage: str, reason: str
) -> None:
    change(finished, part, **values)
    rows = plan(capsys)
    order = list(rows)
    first = order.index(stage)
    first_reason, *others = rows[stage]["reasons"]
    assert rows[stage]["plan"] == "runs" and first_reason == reason
    assert len(others) == (2 if stage == "train" else 0)
    assert {rows[name]["plan"] for name in order[:first]} <= {"unchanged"}
    after = {name: row["plan"] for name, row in rows.items() if row["plan"] != "unchanged"}
    if part != "gate":  # its stages are quick, and really run
        return
    assert main(["run"]) == DONE
    ran = re.findall(r"^ *(\w+): running$", capsys.readouterr().out, re.MULTILINE)
    assert ran == list(after)
    assert after["report"] == "runs"  # it reads the gate itself


def test_dry_run_follows_inputs_images_versions_and_damage(
    finished: Path, capsys: Printed, monkeypatch: pytest.MonkeyPatch
) -> None:
    (finished / "runs" / "demo" / "quantize" / "int8.onnx").unlink()
    rows = plan(capsys)
    assert rows["quantize"]["reasons"] == ["its output int8.onnx is missing or was changed"]
    assert rows["build"] == {
        "stage": "build", "plan": "depends", "reasons": ["unless quantize makes what it made before"],
    }  # fmt: skip
    assert rows["calibrate"]["plan"] == "unchanged"

    photo = finished / "images" / "val" / "class_0" / "000.png"
    os.utime(photo, (1, 1))
    assert plan(capsys)["train"]["plan"] == "unchanged", "when it was written decides nothing"
    pixels = cv2.imread(str(photo))
    pixels[3, 4] ^= 1
    cv2.imwrite(str(photo), pixels)
    changed, trained, stays = plan(capsys)["train"]["reasons"]
    assert changed == "images: val has changed (1 of 30 changed)"
    assert trained.startswith("now t2t_vit_mini is trained for 1 epoch on 60 images; the earlier one took ")
    assert "would stay in runs/demo/.kept/train/" in stays

    monkeypatch.setattr("pipeline.run.identify.backend_version", lambda backend: "99.0")
    version = f"version: onnxruntime {engines.backend_version('onnxruntime')} → 99.0"
    assert plan(capsys)["benchmark"]["reasons"] == [changed, version]


def test_dry_run_believes_no_manifest_that_was_changed(finished: Path, capsys: Printed) -> None:
    path = finished / "runs" / "demo" / "export" / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"key": "0" * 64}))
    assert plan(capsys)["export"]["reasons"] == ["its key is not that of what its manifest lists"]


def test_dry_run_unpacks_no_images(finished: Path, capsys: Printed) -> None:
    shutil.move(finished / "images", finished / "elsewhere")
    np.savez(finished / "images.npz", classes=["class_0", "class_1", "class_2"], train_labels=[0, 1, 2] * 20)
    rows = plan(capsys)
    assert rows["train"]["plan"] == "depends" and "not unpacked yet" in rows["train"]["reasons"][0]
    assert not (finished / "images").exists()


def test_a_run_goes_on_with_its_own_recipe(finished: Path, capsys: Printed) -> None:
    """`make export RUN=mine` without RECIPE must not make the demo in place of a run."""
    shutil.copy(finished / "recipes" / "demo.yaml", finished / "recipes" / "mine.yaml")
    assert main(["run", "--recipe", "recipes/mine.yaml", "--run", "demo"]) == DONE
    change(finished, "train", epochs=3)  # in recipes/demo.yaml
    assert {row["plan"] for row in plan(capsys).values()} == {"unchanged"}
    assert main(["run"]) == DONE
    assert "running" not in capsys.readouterr().out
    assert main(["run", "--dry-run", "--run", "new"]) == WRONG_INPUT  # with which recipe?
    assert "for a new one: t2t-edge run --recipe FILE --run new" in capsys.readouterr().err
    (finished / "recipes" / "mine.yaml").unlink()
    assert main(["run"]) == WRONG_INPUT
    assert "mine.yaml" in capsys.readouterr().err


def test_a_run_is_named_after_its_recipe(finished: Path, capsys: Printed) -> None:
    """`train --recipe other.yaml` must not write over the demo's checkpoint."""
    shutil.copy(finished / "recipes" / "demo.yaml", finished / "recipes" / "other.yaml")
    before = files(finished / "runs" / "demo")
    assert main(["train", "--recipe", "recipes/other.yaml"]) == DONE
    assert "next: t2t-edge export --recipe recipes/other.yaml --run other\n" in capsys.readouterr().out
    assert (finished / "runs/other/train/checkpoint.pt").is_file() and files(finished / "runs" / "demo") == before
    rows = plan(capsys, "--recipe", "recipes/other.yaml")
    assert (rows["train"]["plan"], rows["export"]["plan"]) == ("unchanged", "runs")


def test_dry_run_as_text(finished: Path, capsys: Printed) -> None:
    change(finished, "quantize", method="percentile")
    assert main(["build", "--dry-run"]) == DONE
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].strip() == "train: unchanged"
    assert lines[3].strip() == 'quantize: would run: recipe: quantize.method "max" → "percentile"'
    assert lines[4].strip().startswith("build: may run: unless quantize")
    assert "next: t2t-edge build --recipe recipes/demo.yaml --run demo" in lines[-1]


# --- what is said at the end ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["train", "export", "calibrate", "quantize", "build", "evaluate", "benchmark", "visualize"]
)
def test_each_stage_says_where_it_is_and_a_next_command_that_parses(finished: Path, capsys: Printed, name: str) -> None:
    assert main([name]) == DONE
    *_, where, following = capsys.readouterr().out.splitlines()
    assert where.startswith(f"  written: runs/demo/{name}: ")
    program, *arguments = shlex.split(following.removeprefix("  next: "))
    assert program == "t2t-edge" and cli.make_parser().parse_args(arguments).command in [
        stage.name for stage in stages.STAGES
    ]


def test_json_is_one_document_and_the_rest_goes_to_stderr(finished: Path, capsys: Printed) -> None:
    assert main(["report", "--json"]) == DONE
    printed = capsys.readouterr()
    document = json.loads(printed.out)
    assert document["command"] == "report" and document["exit_status"] == DONE
    assert document["report"] == json.loads((finished / "runs/demo/report/report.json").read_text())
    assert document["next"] == "t2t-edge predict --run demo IMAGE"
    assert "unchanged" in printed.err and "Recommended" in printed.err


@pytest.mark.parametrize(
    ("arguments", "status", "what"),
    [
        (["export", "--recipe", "nowhere.yaml"], WRONG_INPUT, "no such recipe"),
        (["export", "--run", "../x"], WRONG_INPUT, "a run's name is a plain folder name"),
    ],
)
def test_json_of_an_error(finished: Path, capsys: Printed, arguments: list[str], status: int, what: str) -> None:
    assert main([*arguments, "--json"]) == status
    printed = capsys.readouterr()
    document = json.loads(printed.out)
    assert document["exit_status"] == status and document["error"]["what"] == what
    assert f"error: {what}" in printed.err


def test_json_of_an_interruption(capsys: Printed, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(models, "_models", interrupted)
    assert main(["models", "--json"]) == FAILED
    assert json.loads(capsys.readouterr().out) == {
        "command": "models", "exit_status": FAILED,
        "error": {"what": "interrupted", "got": None, "allowed": None, "next": None},
    }  # fmt: skip


def test_every_command_has_json_and_examples_that_parse(capsys: Printed) -> None:
    of_device = COMMANDS["device"]._subparsers._group_actions[0].choices  # type: ignore[union-attr]
    for name, command in [*COMMANDS.items(), *(("device", action) for action in of_device.values())]:
        text = command.format_help()
        assert "examples:" in text, name
        assert "--json" in text or name == "completion" or command is COMMANDS["device"], name
        for line in text[text.index("examples:") :].splitlines()[1:]:
            example = re.split(r" {3,}", line.strip())[0].partition(" > ")[0]
            words = shlex.split(example)
            if words[0] == "t2t-edge":
                assert cli.make_parser().parse_args(words[1:]).command == name
            else:
                assert words[0] in ("torchrun", "eval"), line


# --- completion -----------------------------------------------------------------------------------------------------


def complete(folder: Path, script: str, *words: str) -> list[str]:
    """What bash offers for the last of `words`, once `script` is evaluated."""
    line = " ".join(words)
    asked = f"{script}\nCOMP_LINE={shlex.quote(line)}\nCOMP_POINT={len(line)}\nCOMP_TYPE=9\n"
    asked += '_python_argcomplete t2t-edge\n[ ${#COMPREPLY[@]} -eq 0 ] || printf "%s\\n" "${COMPREPLY[@]}"'
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", asked], cwd=folder, env=os.environ | {"PATH": path}, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0 and done.stderr == "", done.stderr
    return [word.strip() for word in done.stdout.splitlines()]


@pytest.fixture
def script(capsys: Printed) -> str:
    """What `t2t-edge completion bash` prints."""
    assert main(["completion", "bash"]) == DONE
    return capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["t2t-edge", "pre"], ["predict"]),
        (["t2t-edge", ""], list(COMMANDS)),
        (["t2t-edge", "quantize", "--ex"], ["--explain"]),
        (["t2t-edge", "predict", "--run", ""], ["demo"]),
        (["t2t-edge", "predict", "--run", "demo", "--engine", "onnx"], ["onnxruntime-fp32", "onnxruntime-int8"]),
        (["t2t-edge", "predict", "--engine", "openvino"], []),  # of the demo
        (["t2t-edge", "bundle", "--engine", "onnxruntime-i"], ["onnxruntime-int8"]),
        (["t2t-edge", "run", "--recipe", "recipes/"], ["recipes/demo.yaml"]),
        (["t2t-edge", "completion", ""], list(SHELLS)),
        (["t2t-edge", "init", ""], ["images/", "recipes/", "runs/"]),
        (["t2t-edge", "predict", "imag"], ["images/"]),
        (["t2t-edge", "predict", "--csv", "imag"], ["images/"]),
    ],
)
def test_bash_completes(tiny_run: Path, script: str, words: list[str], expected: list[str]) -> None:
    offered = [word for word in complete(tiny_run, script, *words) if not word.startswith("-") or "-" in words[-1]]
    assert sorted(offered) == sorted(expected)


def test_runs_are_looked_up_where_the_line_says(tiny_run: Path, script: str) -> None:
    assert complete(tiny_run, script, "t2t-edge", "predict", "--runs", "nowhere", "--run", "") == []
    found = complete(tiny_run.parent, script, "t2t-edge", "predict", "--runs", f"{tiny_run.name}/runs", "--run", "")
    assert found == ["demo"]


def test_zsh_gets_a_script_of_its_own(capsys: Printed) -> None:
    assert main(["completion", "zsh"]) == DONE
    assert "compdef _python_argcomplete t2t-edge" in capsys.readouterr().out


def test_completion_without_argcomplete_says_what_to_do(capsys: Printed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "argcomplete.shell_integration", None)
    assert main(["completion", "bash"]) == WRONG_INPUT
    assert "make setup" in capsys.readouterr().err
