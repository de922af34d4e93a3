"""Runs by name: a misspelt one is never made, the message names those that are there, and a new one has its recipe's name."""

import errno
import os
import subprocess
from pathlib import Path

import pytest

from calib.errors import InputError
from pipeline import cli, stages
from pipeline.cli import main
from pipeline.commands.stage import STAGE_HELP
from pipeline.console.exit_status import FAILED, WRONG_INPUT
from pipeline.console.known_runs import command_for, finishing, is_run, runs_in
from pipeline.predict.find import find_engine
from pipeline.predict.predict import Predictor

ROOT = Path(__file__).parents[3]
Printed = pytest.CaptureFixture[str]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: runs demo (begun), emoji (copied in part) and old (of an earlier version), and what is no run."""
    for name in ("demo/recipe.path", "emoji/report/report.json", "old/train/manifest.json", "compare/compare.html"):
        (tmp_path / "runs" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "runs" / name).write_text("{}")
    (tmp_path / "runs" / ".demo.partial").mkdir()
    (tmp_path / "x.png").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(printed: Printed, *arguments: str) -> list[str]:
    """The lines of the message of a command that ends with status 2; nothing may have been made."""
    before = set(Path("runs").rglob("*"))
    assert main(list(arguments)) == WRONG_INPUT
    assert set(Path("runs").rglob("*")) == before
    return printed.readouterr().err.splitlines()


def test_what_is_a_run(here: Path) -> None:
    assert runs_in(here / "runs") == ["demo", "emoji", "old"] and runs_in(here / "nowhere") == []
    assert is_run(here / "runs" / "old") and not is_run(here / "runs" / "compare") and not is_run(here / "x.png")


@pytest.mark.parametrize(
    ("arguments", "again"),
    [
        (["predict", "x.png"], "t2t-edge predict --run demo IMAGE"),
        (["bundle"], "t2t-edge bundle --run demo"),
        (["report"], "t2t-edge report --run demo"),
        (["report", "--dry-run"], "t2t-edge report --run demo --dry-run"),
    ],
)
@pytest.mark.usefixtures("here")
def test_a_misspelt_run_that_is_read(capsys: Printed, arguments: list[str], again: str) -> None:
    assert refused(capsys, *arguments, "--run", "demoo") == [
        "error: there is no run demoo", "  got: runs/demoo: there is no such folder; did you mean demo?",
        "  allowed: the runs in runs: demo, emoji, old", f"  next: {again}",
    ]  # fmt: skip


@pytest.mark.parametrize("arguments", [["predict", "x.png"], ["bundle"], ["report"]])
@pytest.mark.usefixtures("here")
def test_what_would_train_is_never_proposed(capsys: Printed, arguments: list[str]) -> None:
    """Neither where nothing is near, nor where there is no run at all."""
    *_, allowed, following = refused(capsys, *arguments, "--run", "zz9")
    assert allowed == "  allowed: the runs in runs: demo, emoji, old"
    assert following.startswith(f"  next: t2t-edge {arguments[0]} --run NAME")
    *_, allowed, following = refused(capsys, *arguments, "--run", "zz9", "--runs", "nowhere")
    assert allowed == "  allowed: the runs in nowhere: none" and following.endswith(
        "t2t-edge run --help says how a run is made"
    )


@pytest.mark.parametrize("command", [*STAGE_HELP, "run"])
@pytest.mark.usefixtures("here")
def test_a_stage_makes_a_new_run_only_with_a_recipe(capsys: Printed, command: str) -> None:
    new = f"t2t-edge {command} --recipe FILE --run"
    *_, allowed, following = refused(capsys, command, "--run", "demoo")
    assert allowed == f"  allowed: the runs in runs: demo, emoji, old; for a new one: {new} demoo"
    assert following == f"  next: t2t-edge {command} --run demo"
    *_, following = refused(capsys, command, "--run", "zz9", "--dry-run")
    assert following == f"  next: {new} zz9 --dry-run"


@pytest.mark.usefixtures("here")
def test_the_demo_needs_no_recipe_and_a_recipe_makes_any_run(capsys: Printed, here: Path) -> None:
    """As far as the recipe, which is missing here."""
    for run in ([], ["--run", "demo"], ["--run", "new", "--recipe", "recipes/demo.yaml"]):
        assert refused(capsys, "run", *run, "--runs", "elsewhere")[0] == "error: no such recipe"


@pytest.mark.usefixtures("here")
def test_other_folders_are_no_runs_and_paths_no_names(capsys: Printed) -> None:
    assert refused(capsys, "bundle", "--run", "compare")[1] == "  got: runs/compare: it holds nothing of a run"
    assert (
        refused(capsys, "bundle", "--run", "runs/demo")[-1] == "  next: --run demo, and --runs where it is not in runs/"
    )


def test_of_many_runs_the_nearest_are_named(here: Path, capsys: Printed) -> None:
    for index in range(20):
        (here / "runs" / f"sweep-{index}").mkdir()
        (here / "runs" / f"sweep-{index}" / "recipe.path").write_text("recipe.yaml")
    *_, allowed, _ = refused(capsys, "bundle", "--run", "Sweep-1x")
    assert allowed.startswith("  allowed: the runs in runs: sweep-1") and allowed.endswith(" and 15 more")
    assert allowed.count(",") == 7


@pytest.mark.usefixtures("here")
def test_compare_and_python_say_it_too(capsys: Printed) -> None:
    lines = refused(capsys, "report", "--compare", "runs/emojy")
    assert lines[1] == "  got: no file runs/emojy; did you mean runs/emoji?"
    assert lines[2].endswith("; the runs in runs: emoji, demo, old")
    assert "did you mean" not in refused(capsys, "report", "--compare", "runs/demo")[1]  # it is there, without a report
    with pytest.raises(InputError, match="there is no run emojy") as caught:
        Predictor("runs/emojy")
    assert caught.value.next_step == "t2t-edge predict --run emoji IMAGE"


# --- the name of a run ----------------------------------------------------------------------------------------------


def made(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> tuple[str, str]:
    """The folder and the recipe of the run that a command would make or go on with."""
    folders: list[Path] = []

    def run_stages(recipe: object, folder: Path, last: str) -> None:
        folders.append(folder)
        raise InputError("enough")

    monkeypatch.setattr(stages, "run_stages", run_stages)
    assert main(list(arguments)) == WRONG_INPUT
    (folder,) = folders
    return str(folder), (folder / "recipe.path").read_text(encoding="utf-8")


@pytest.fixture
def recipes(here: Path) -> Path:
    """Recipes of several names in the current folder, and no runs."""
    (here / "recipes").mkdir()
    for name in ("demo", "other", "my.v2", "my recipe", "-x"):
        (here / "recipes" / f"{name}.yaml").write_text((ROOT / "recipes" / "demo.yaml").read_text(encoding="utf-8"))
    (here / "runs").rename(here / "earlier")
    return here


@pytest.mark.parametrize(
    ("arguments", "folder", "recipe"),
    [
        ([], "runs/demo", "recipes/demo.yaml"),
        (["--recipe", "recipes/other.yaml"], "runs/other", "recipes/other.yaml"),
        (["--recipe", "recipes/my.v2.yaml", "--runs", "elsewhere"], "elsewhere/my.v2", "recipes/my.v2.yaml"),
        (["--recipe", "recipes/other.yaml", "--run", "demo"], "runs/demo", "recipes/other.yaml"),
        (["--recipe", "recipes/my recipe.yaml", "--run", "mine"], "runs/mine", "recipes/my recipe.yaml"),
        (["--run", "demo"], "runs/demo", "recipes/demo.yaml"),
    ],
)
@pytest.mark.parametrize("command", ["train", "run", "report"])
@pytest.mark.usefixtures("recipes")
def test_a_new_run(
    monkeypatch: pytest.MonkeyPatch, command: str, arguments: list[str], folder: str, recipe: str
) -> None:
    assert made(monkeypatch, command, *arguments) == (folder, recipe)


@pytest.mark.usefixtures("recipes")
def test_a_run_that_is_there_goes_on_with_its_own_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    made(monkeypatch, "train", "--recipe", "recipes/other.yaml")
    assert made(monkeypatch, "export", "--run", "other") == ("runs/other", "recipes/other.yaml")
    made(monkeypatch, "train", "--recipe", "recipes/other.yaml", "--run", "demo")
    assert made(monkeypatch, "run") == ("runs/demo", "recipes/other.yaml")


def test_commands_for_runs_elsewhere_name_the_place(tmp_path: Path) -> None:
    """In `runs` the same name is another run, or one that would be trained."""
    assert finishing(Path("runs/demo")) == "make export RUN=demo"
    assert finishing(Path("my runs/demo")) == "t2t-edge run --run demo --runs 'my runs'"
    assert command_for(tmp_path / "demo", "report") == f"t2t-edge report --run demo --runs {tmp_path}"
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "recipe.path").write_text("recipes/demo.yaml")
    with pytest.raises(InputError) as caught:
        find_engine(tmp_path / "demo", None)
    assert caught.value.next_step == f"t2t-edge run --run demo --runs {tmp_path}"


@pytest.mark.usefixtures("recipes")
def test_on_a_full_disk_a_run_keeps_the_note_of_its_recipe(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made(monkeypatch, "train", "--recipe", "recipes/other.yaml")

    def full(path: Path, *_: object, **__: object) -> int:
        path.write_bytes(b"")
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", full)
        assert main(["train", "--recipe", "recipes/demo.yaml", "--run", "other"]) == FAILED
    assert (here / "runs/other/recipe.path").read_text(encoding="utf-8") == "recipes/other.yaml"


@pytest.mark.parametrize("name", ["my recipe", "-x"])
@pytest.mark.usefixtures("recipes")
def test_a_file_whose_name_is_none_for_a_run(capsys: Printed, name: str) -> None:
    assert refused(capsys, "train", f"--recipe=recipes/{name}.yaml") == [
        "error: no run can be named after this recipe's file", f"  got: recipes/{name}.yaml",
        "  allowed: letters, digits, . _ -, of which the first is a letter or digit",
        "  next: give the run a name: --run NAME",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("command", "line"),
    [
        ("export", "run"),
        ("export RECIPE=recipes/other.yaml", "run --recipe recipes/other.yaml"),
        ("export RECIPE=recipes/other.yaml RUN=x", "run --recipe recipes/other.yaml --run x"),
        ("train RECIPE=recipes/other.yaml", "train --recipe recipes/other.yaml"),
        ("report RUN=x", "report --run x"),
        ("predict IMAGES=photos", "predict --run demo photos"),
        ("predict RUN=x IMAGES=photos", "predict --run x photos"),
        ("bundle RECIPE=recipes/my.v2.yaml", "bundle --run my.v2"),
    ],
)
def test_make_names_the_same_runs(command: str, line: str) -> None:
    of_an_outer_make = ("RUN", "RECIPE", "IMAGES", "MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES")
    clean = {name: value for name, value in os.environ.items() if name not in of_an_outer_make}
    done = subprocess.run(
        ["make", "-n", "-o", "setup", *command.split()], cwd=ROOT, env=clean, capture_output=True, text=True, timeout=60,
        check=True,
    )  # fmt: skip
    assert done.stdout == f".venv/bin/python -m pipeline {line}\n"
    assert cli.make_parser().parse_args(line.split()).command == line.split()[0]
