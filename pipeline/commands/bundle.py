"""`t2t-edge bundle`: one folder for a Jetson or any other device."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.commands.command import add_command, add_run_options, command_line, run_to_read
from pipeline.console.completers import complete_engines
from pipeline.console.exit_status import DONE

if TYPE_CHECKING:
    from pipeline.commands.command import Commands


def register(commands: "Commands") -> None:
    """Add the command."""
    command = add_command(
        commands, "bundle", "one folder for a Jetson or GPU: builds, checks, measures and predicts there", _bundle,
        ("t2t-edge bundle --run demo",),
    )  # fmt: skip
    add_run_options(command)
    command.add_argument("--output", type=Path, help="default: runs/RUN/bundle")
    engine = command.add_argument("--engine", help="only this engine's precision, by the engine's name in the report")
    engine.completer = complete_engines  # type: ignore[attr-defined]
    command.add_argument(
        "--images", type=int, default=1000,
        help="evaluation images that go along, for the gate there; default: %(default)s",
    )  # fmt: skip


def _bundle(options: argparse.Namespace) -> int:
    from pipeline.device.bundle import write_bundle
    from pipeline.run.lock import hold

    folder, command = run_to_read(options), command_line(options)
    with hold(folder, command):
        bundle = write_bundle(folder, options.output or folder / "bundle", options.engine, options.images, command)
    options.document |= {"folder": str(bundle), "next": "./t2t run"}
    print(f"{bundle}: copy this folder to the device, then there: ./t2t run")
    return DONE
