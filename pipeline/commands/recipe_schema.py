"""`t2t-edge recipe-schema`: the JSON schema of a recipe, or of a sweep, which lets editors complete and explain its keys."""

import argparse
import json
from typing import TYPE_CHECKING

from pipeline.commands.command import add_command
from pipeline.console.exit_status import DONE

if TYPE_CHECKING:
    from pipeline.commands.command import Commands


def register(commands: "Commands") -> None:
    """Add the command; what it prints is JSON as it is."""
    command = add_command(
        commands, "recipe-schema", "the JSON schema of a recipe, with which editors complete and explain its keys", _print,
        ("t2t-edge recipe-schema > recipes/recipe.schema.json",), one_document=False,
    )  # fmt: skip
    command.add_argument("--sweep", action="store_true", help="the schema of a sweep file: recipes/sweep.schema.json")
    command.add_argument("--json", action="store_true", help="the same: what it prints is JSON")


def _print(options: argparse.Namespace) -> int:
    from pipeline.recipe import recipe_schema
    from pipeline.sweep.planning.file import sweep_schema

    print(json.dumps(sweep_schema() if options.sweep else recipe_schema(), indent=1, ensure_ascii=False))
    return DONE
