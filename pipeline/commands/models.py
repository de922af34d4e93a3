"""`t2t-edge models`: every network with its parameters and MACs, beside what papers print."""

import argparse
from typing import TYPE_CHECKING

from pipeline.commands.command import add_command
from pipeline.console.exit_status import DONE

if TYPE_CHECKING:
    from pipeline.commands.command import Commands


def register(commands: "Commands") -> None:
    """Add the command."""
    command = add_command(
        commands, "models", "every network: parameters and MACs, beside what papers print", _models,
        ("t2t-edge models", "t2t-edge models --json"),
    )  # fmt: skip
    command.add_argument("--markdown", action="store_true", help="print the table as docs/models.md holds it")


def _models(options: argparse.Namespace) -> int:
    from pipeline.commands.model_table import print_models, table_rows

    if options.json:
        options.document["models"] = table_rows()
    else:
        print_models(options.markdown)
    return DONE
