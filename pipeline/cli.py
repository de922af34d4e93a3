"""The command line. Exit status: 0 done, 1 failed, 2 wrong use or input, 3 the accuracy gate failed."""

import argparse
import sys

from pipeline.commands import bundle, completion, doctor, init, models, predict, recipe_schema, report, runs, stage
from pipeline.console.exit_status import exit_status
from pipeline.console.json_document import one_document, run_noted
from pipeline.console.parser import Parser
from pipeline.console.run_log import run_log
from pipeline.console.version import ShowVersion
from pipeline.devices import command as device
from pipeline.sweep import command as sweep

# In the order that --help lists them.
COMMANDS = (init, stage, report, sweep, predict, bundle, device, runs, doctor, models, recipe_schema, completion)
INTERRUPTED = "interrupted: finished stages are kept; the same command goes on from there"


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = make_parser()
    completion.complete_if_asked(parser)
    options = parser.parse_args(arguments)
    options.arguments = arguments
    with one_document(options) as document, run_log(arguments) as options.log:
        document["exit_status"] = status = exit_status(lambda: run_noted(options.call, options), INTERRUPTED)
    return status


def make_parser() -> argparse.ArgumentParser:
    """The parser of all commands; each command registers itself, with the function that runs it as `call`."""
    parser = Parser(
        prog="t2t-edge",
        description="A Tokens-to-Token ViT from training to an engine, with proof of what each precision costs.",
    )
    parser.add_argument("--version", action=ShowVersion)
    commands = parser.add_subparsers(
        dest="command", required=True, metavar="command", title="commands",
        description="From train to report they are stages: each runs every stage up to its own, and skips what is complete.",
    )  # fmt: skip
    for command in COMMANDS:
        command.register(commands)
    return parser
