"""The JSON schema of the recipe: the committed file is the command's output, explains every key, and takes every recipe."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from schema_check import violations

from pipeline.cli import main
from pipeline.console.exit_status import DONE
from pipeline.recipe import recipe_schema
from pipeline.sweep.planning.file import sweep_schema

ROOT = Path(__file__).parents[3]
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))
FILE, SWEEPS_FILE = (ROOT / "recipes" / f"{name}.schema.json" for name in ("recipe", "sweep"))


def found_in(values: Any, file: Path = FILE) -> list[str]:
    schema = json.loads(file.read_text(encoding="utf-8"))
    return list(violations(values, schema, schema))


@pytest.mark.parametrize(("options", "file"), [((), FILE), (("--sweep",), SWEEPS_FILE)], ids=["recipe", "sweep"])
def test_the_committed_file_is_what_the_command_prints(
    options: tuple[str, ...], file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["recipe-schema", *options]) == DONE
    assert capsys.readouterr().out == file.read_text(encoding="utf-8"), (
        f"t2t-edge recipe-schema {' '.join(options)} > recipes/{file.name}"
    )


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_names_the_schema_and_fits_it(path: Path) -> None:
    file = SWEEPS_FILE if path.stem == "sweep" else FILE
    first = path.read_text(encoding="utf-8").splitlines()[0]
    prefix = "# yaml-language-server: $schema="
    assert first.startswith(prefix) and (path.parent / first.removeprefix(prefix)).samefile(file)
    assert found_in(yaml.safe_load(path.read_text(encoding="utf-8")), file) == []


@pytest.mark.parametrize(("schema", "title"), [(recipe_schema(), "Recipe"), (sweep_schema(), "SweepFile")])
def test_every_key_has_a_description(schema: dict[str, Any], title: str) -> None:
    parts = {title: schema} | schema["$defs"]
    without = [
        f"{part}.{key}"
        for part, values in parts.items()
        for key, one in values["properties"].items()
        if not one.get("description", "").endswith((".", "…"))
    ]
    assert not without, f"a text below the key, in pipeline/parts: {without}"


def test_what_is_wrong_does_not_fit() -> None:
    recipe: dict[str, Any] = yaml.safe_load((ROOT / "recipes" / "demo.yaml").read_text(encoding="utf-8"))
    for part, wrong in {
        "train": {"epoch": 3}, "model": {"name": "t2t_vit_7", "image_size": 0}, "data": {"name": "", "root": "images"},
        "preprocess": {"mean": [0.5, 0.5]}, "schema": 2, "gate": {"min_relative_top1": 1.5},
        "build": [{"backend": "onnx", "precisions": ["fp32"]}],
    }.items():  # fmt: skip
        found = found_in(recipe | {part: wrong})
        assert len(found) == 1 and part in found[0], found
