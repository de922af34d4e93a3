"""The commands of a bundle, on the device. Exit status as of `t2t-edge`: 3 where no engine passes the accuracy gate."""

import argparse
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline.console.exit_status import DONE, FAILED, GATE_FAILED, exit_status, say
from pipeline.device.build import build, choose_backend
from pipeline.device.contents import DEVICE, DEVICE_BACKENDS, EVALUATION, GRAPHS, open_bundle
from pipeline.device.measure import benchmark, evaluate, report
from pipeline.device.state import DeviceState
from pipeline.device.triton import write_triton
from pipeline.machine.doctor import print_doctor
from pipeline.predict.command import load_predictor, predict_command
from pipeline.predict.find import find_engine
from pipeline.predict.options import add_predict_options
from pipeline.predict.predict import Predictor
from pipeline.report.values.format import DEVICE_COMMANDS, recommendation
from pipeline.report.values.markdown import markdown_table
from pipeline.report.values.rows import gate_failed

INTERRUPTED = "interrupted: finished engines are kept; the same command goes on from there"
_HELP = {
    "run": "build, evaluate, benchmark and report",
    "build": "build the engines; those already built and up to date are kept",
    "evaluate": "check every engine's accuracy against FP32's (the accuracy gate)",
    "benchmark": "measure every engine's latency and images per second",
    "report": "write report.json and report.md, and the recommended engine's Triton model",
    "check": "compare every file of the bundle with its manifest",
}


def run_command(folder: Path, arguments: list[str] | None = None) -> int:
    """Run one command of the bundle in `folder`; returns the exit status."""
    options = _parser().parse_args(arguments)
    return exit_status(lambda: _run(folder, options), INTERRUPTED)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="t2t", description="Build, check, measure and use a network on this machine. Start with: ./t2t run"
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    for name, text in _HELP.items():
        command = commands.add_parser(name, help=text, description=text)
        _add_work(command)
        if name in ("run", "build"):
            command.add_argument("--backend", choices=DEVICE_BACKENDS, help="default: TensorRT, else ONNX Runtime")
        if name == "build":
            command.add_argument("--engine", action="append", default=[], help="only this engine; may be repeated")
        if name in ("run", "evaluate", "benchmark"):
            command.add_argument("--threads", type=int, help="threads of CPU engines; default: as on the host")
    command = commands.add_parser("predict", help="classes of images, or of their pixels, with the recommended engine")
    add_predict_options(command)
    _add_work(command)
    command = commands.add_parser("doctor", help="what is here, what is missing and how to fix it")
    command.add_argument("--json", action="store_true", help="print the table as JSON")
    return parser


def _add_work(command: argparse.ArgumentParser) -> None:
    command.add_argument("--work", type=Path, help=f"where results go; default: {DEVICE}/ in the bundle")


def _run(folder: Path, options: argparse.Namespace) -> int:
    if options.command == "doctor":
        return DONE if print_doctor(options.json, device=True) else FAILED
    needed = {"run": (GRAPHS, EVALUATION), "build": (GRAPHS,), "evaluate": (EVALUATION,), "benchmark": (EVALUATION,),
              "check": ("all",)}  # fmt: skip
    bundle = open_bundle(folder, *needed.get(options.command, ()))
    if options.command == "check":
        print(f"{folder}: complete, every file is as the host wrote it")
        return DONE
    state = DeviceState(bundle, options.work or folder / DEVICE, _command(folder))
    if options.command == "predict":
        return _predict(state, options)
    status = DONE
    steps = ("build", "evaluate", "benchmark", "report") if options.command == "run" else (options.command,)
    for step in steps:
        status = _step(step, state, options)
        if status not in (DONE, GATE_FAILED):
            return status
    return status


def _command(folder: Path) -> str:
    """How to call the bundle from the current folder."""
    return "./t2t" if folder.resolve() == Path.cwd().resolve() else shlex.quote(str(folder / "t2t"))


def _step(step: str, state: DeviceState, options: argparse.Namespace) -> int:
    if step == "build":
        rows = build(state.bundle, state, choose_backend(state.bundle, options.backend), getattr(options, "engine", []))
        return DONE if any(row["status"] == "built" for row in rows) else say("no engine could be built", FAILED)
    if step == "report":
        found = report(state)
        triton = write_triton(state, found)
        print(markdown_table(found))
        conclusion, command = recommendation(found, DEVICE_COMMANDS)
        print(f"{conclusion}.\nNext: {command}\n{state.work / 'report' / 'report.md'}\n{triton}")
        return DONE if found["recommended"] else _without_pass(found["variants"])
    threads = options.threads or state.bundle.recipe.timing.threads
    if step == "benchmark":
        benchmark(state, threads)
        print(f"benchmark: {state.work / 'benchmark.json'}")
        return DONE
    assert step == "evaluate", step
    variants = evaluate(state, threads)
    for row in variants:
        score, words = row[state.bundle.task.words.score], state.bundle.task.words
        accuracy = "" if score is None else f"  {words.score_name} {score:.2f}, Δ {row[words.delta]:+.2f} pp"
        print(f"{row['name']}: {row['status']}{accuracy}{': ' + row['reason'] if row['reason'] else ''}")
    return DONE if any(row["status"] == "pass" for row in variants) else _without_pass(variants)


def _without_pass(variants: list[dict[str, Any]]) -> int:
    """The status where no engine passes: the gate's where it judged one, else that of a failure, as no engine ran to its end."""
    if gate_failed(variants):
        return say("no engine passes the gate", GATE_FAILED)
    return say("no engine ran to its end: the reasons are above", FAILED)


def _predict(state: DeviceState, options: argparse.Namespace) -> int:
    def load() -> Predictor:
        state.finished_rows()  # an error where the engines are of an earlier bundle in this folder
        engine, evaluated = find_engine(state.work, options.engine, f"{state.command} run")
        return load_predictor(options, engine, expected=replace(evaluated, rebuild=f"{state.command} run"))

    return predict_command(options, load, f"{state.command} predict")
