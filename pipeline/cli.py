"""The command line. Exit status: 0 done, 1 failed, 2 wrong use or input, 3 the accuracy gate failed."""

import argparse
import json
import os
import re
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from calib.errors import InputError
from export.engines.engine import RECIPE_PATH
from pipeline.commands.completion import SHELLS, print_completion
from pipeline.commands.examples import finish_parser
from pipeline.console.exit_status import DONE, FAILED, GATE_FAILED, exit_status
from pipeline.console.json_document import one_document, run_noted
from pipeline.predict.options import add_predict_options
from pipeline.report.options import add_report_options

if TYPE_CHECKING:
    from pipeline.recipe import Recipe

NEW_RUN = Path("recipes/demo.yaml")
INTERRUPTED = "interrupted: finished stages are kept; the same command goes on from there"
STAGE_HELP = {
    "train": "train the network, or take over model.checkpoint",
    "export": "… and export it to ONNX, simplified and compared with PyTorch",
    "calibrate": "… and draw the calibration set",
    "sensitivity": "… and measure what each layer and group loses when it alone is quantized",
    "search": "… and find the fastest mix of precisions that passes the gate",
    "qat": "… and train on with fake quantization, for the precision int8-qat",
    "quantize": "… and make the FP16 and INT8 graphs",
    "build": "… and build the engines",
    "evaluate": "… and check every engine's accuracy",
    "visualize": "… and draw feature maps of FP32 beside an engine's",
    "benchmark": "… and measure every engine's latency",
    "report": "… and write the report",
    "run": "all stages, the same as report",
}


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = _parser().parse_args(arguments)
    options.arguments = arguments
    with one_document(options) as document:
        document["exit_status"] = status = exit_status(lambda: run_noted(_run, options), INTERRUPTED)
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="t2t-edge",
        description="A Tokens-to-Token ViT from training to an engine, with proof of what each precision costs.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    for name, text in STAGE_HELP.items():
        command = commands.add_parser(name, help=text, description=f"{text}. Complete stages are skipped.")
        command.add_argument(
            "--recipe", type=Path, help=f"default: the one that the run was last made from, {NEW_RUN} for a new one"
        )
        command.add_argument("--run", default="demo", help="name of the folder under runs/; default: %(default)s")
        command.add_argument("--runs", type=Path, default=Path("runs"), help="default: %(default)s")
        if name == "quantize":
            command.add_argument(
                "--explain", action="store_true", help="list every layer: precision, why, scale, range"
            )
        if name == "report":
            add_report_options(command)
    command = commands.add_parser(
        "predict", help="class and probability of images, videos and streams, with a run's recommended engine"
    )
    command.add_argument("--run", default="demo", help="default: %(default)s")
    command.add_argument("--runs", type=Path, default=Path("runs"), help="default: %(default)s")
    add_predict_options(command)
    command = commands.add_parser(
        "bundle", help="one folder for a Jetson or GPU: builds, checks, measures and predicts there"
    )
    command.add_argument("--run", default="demo", help="default: %(default)s")
    command.add_argument("--runs", type=Path, default=Path("runs"), help="default: %(default)s")
    command.add_argument("--output", type=Path, help="default: runs/RUN/bundle")
    command.add_argument("--engine", help="only this engine's precision, by the engine's name in the report")
    command.add_argument(
        "--images",
        type=int,
        default=1000,
        help="evaluation images that go along, for the gate there; default: %(default)s",
    )
    command = commands.add_parser(
        "doctor", help="what is installed, what this machine can build and run, and how to mend the rest"
    )
    command.add_argument("--json", action="store_true", help="print the table as JSON")
    command = commands.add_parser("models", help="every network: parameters and MACs, beside what papers print")
    command.add_argument("--markdown", action="store_true", help="print the table as docs/models.md holds it")
    command = commands.add_parser(
        "completion", help="a script that lets Tab complete commands, options, runs and engines"
    )
    command.add_argument("shell", choices=SHELLS)
    command.set_defaults(commands=commands.choices)
    finish_parser(commands.choices)
    return parser


def _run(options: argparse.Namespace) -> int:
    if options.command == "doctor":
        from pipeline.machine.doctor import print_doctor

        return DONE if print_doctor(options.json) else FAILED
    if options.command == "models":
        from pipeline.commands.models import print_models, table_rows

        if options.json:
            options.document["models"] = table_rows()
        else:
            print_models(options.markdown)
        return DONE
    if options.command == "completion":
        print_completion(options.shell, options.commands)
        return DONE
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", options.run):
        raise InputError("a run's name is a plain folder name", got=options.run, allowed="letters, digits, . _ -")
    if options.command == "report" and options.compare:
        from pipeline.report.compare import compare_reports

        compare_reports(options)
        return DONE
    folder = options.runs / options.run
    if options.command == "predict":
        from pipeline.commands.outcome import where
        from pipeline.predict.command import predict_command
        from pipeline.predict.predict import find_engine

        engine = f" --engine {shlex.quote(options.engine)}" if options.engine else ""
        program = f"t2t-edge predict {where(options)}{engine}"
        return predict_command(options, lambda: find_engine(folder, options.engine), program)
    if options.command == "bundle":
        return _bundle(options, folder)
    from pipeline.commands.outcome import print_outcome, stage_outcome
    from pipeline.recipe import load_recipe
    from pipeline.stages import run_stages

    options.recipe = options.recipe or _own_recipe(folder)
    recipe = load_recipe(options.recipe)
    last = "report" if options.command == "run" else options.command
    if options.dry_run:
        return _dry_run(options, recipe, folder, last)
    _remember(folder, options.recipe)
    artifact = run_stages(recipe, folder, last)
    if last == "quantize" and options.explain and int(os.environ.get("RANK", 0)) == 0:
        from pipeline.quantize.decisions import print_explanation

        print_explanation(artifact)
    if int(os.environ.get("RANK", 0)) > 0:
        return DONE
    outcome = stage_outcome(options, last, artifact)
    options.document |= outcome
    print_outcome(outcome)
    if last != "report":
        return DONE
    from pipeline.report.terminal import print_table
    from pipeline.report.values.rows import gate_failed

    report = json.loads(artifact.path("report.json").read_text(encoding="utf-8"))
    options.document["report"] = report
    print_table(report)
    if options.command == "report" and (options.save or options.table):
        from pipeline.report.compare import keep_reports
        from pipeline.report.values.compared import read_compared

        keep_reports(read_compared([folder]), options)
    return DONE if report["recommended"] else GATE_FAILED if gate_failed(report["variants"]) else FAILED


def _dry_run(options: argparse.Namespace, recipe: "Recipe", folder: Path, last: str) -> int:
    from dataclasses import asdict

    from pipeline.commands.dry_run import plan_stages, print_plan
    from pipeline.commands.outcome import where

    planned = plan_stages(recipe, folder, last)
    print_plan(planned)
    command = f"t2t-edge {options.command} --recipe {shlex.quote(str(options.recipe))} {where(options)}"
    print(f"  nothing was written; next: {command}")
    options.document |= {"dry_run": True, "stages": [asdict(row) for row in planned], "next": command}
    return DONE


def _own_recipe(run_folder: Path) -> Path:
    """What `_remember` noted: with another recipe a run would be made anew, over what it has."""
    path = run_folder / RECIPE_PATH
    return Path(path.read_text(encoding="utf-8")) if path.is_file() else NEW_RUN


def _remember(run_folder: Path, recipe: Path) -> None:
    """Note which recipe the run is made from, for messages that name the command to run again."""
    path = run_folder / RECIPE_PATH
    if int(os.environ.get("RANK", 0)) == 0 and not (path.is_file() and path.read_text(encoding="utf-8") == str(recipe)):
        run_folder.mkdir(parents=True, exist_ok=True)
        path.write_text(str(recipe), encoding="utf-8")


def _bundle(options: argparse.Namespace, folder: Path) -> int:
    from pipeline.device.bundle import write_bundle

    command = "t2t-edge bundle " + shlex.join(options.arguments[1:])
    bundle = write_bundle(folder, options.output or folder / "bundle", options.engine, options.images, command.strip())
    options.document |= {"folder": str(bundle), "next": "./t2t run"}
    print(f"{bundle}: copy this folder to the device, then there: ./t2t run")
    return DONE
