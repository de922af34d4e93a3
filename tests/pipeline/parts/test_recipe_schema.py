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

ROOT = Path(__file__).parents[3]
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))
FILE = ROOT / "recipes" / "recipe.schema.json"


def found_in(values: Any) -> list[str]:
    schema = json.loads(FILE.read_text(encoding="utf-8"))
    return list(violations(values, schema, schema))


def test_the_committed_file_is_what_the_command_prints(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipe-schema"]) == DONE
    assert capsys.readouterr().out == FILE.read_text(encoding="utf-8"), (
        "t2t-edge recipe-schema > recipes/recipe.schema.json"
    )


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_names_the_schema_and_fits_it(path: Path) -> None:
    first = path.read_text(encoding="utf-8").splitlines()[0]
    prefix = "# yaml-language-server: $schema="
    assert first.startswith(prefix) and (path.parent / first.removeprefix(prefix)).samefile(FILE)
    assert found_in(yaml.safe_load(path.read_text(encoding="utf-8"))) == []


def test_every_key_has_a_description() -> None:
    schema = recipe_schema()
    parts = {"Recipe": schema} | schema["$defs"]
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
