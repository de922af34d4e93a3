"""`t2t-edge sweep`: many runs of one recipe with other values, and which of their engines to take."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from calib.errors import InputError
from pipeline.commands.command import add_command, command_line, run_folder
from pipeline.console.completers import complete_recipes
from pipeline.console.exit_status import DONE, FAILED, GATE_FAILED
from pipeline.console.known_runs import is_run

if TYPE_CHECKING:
    from pipeline.commands.command import Commands
    from pipeline.sweep.outcome.outcome import SweepOutcome


def register(commands: "Commands") -> None:
    """Add the command."""
    command = add_command(
        commands, "sweep", "many networks, sizes and policies: a run each, and the engine to take", _sweep,
        (
            "t2t-edge sweep recipes/sweep.yaml",
            "t2t-edge sweep recipes/sweep.yaml --budget-ms 10 --min-top1 75     what cannot meet these is not made",
            "t2t-edge sweep recipes/sweep.yaml --address auto     on a Ray cluster",
            "t2t-edge sweep recipes/sweep.yaml --dry-run     the points, and what would have to be made",
        ),
        description="Makes a run for each point of a sweep file; what is equal in several is made once. The same command goes\n"
        "on where it was interrupted. The page, sweep.json and sweep.csv are in runs/SWEEP/.",
    )  # fmt: skip
    file = command.add_argument("file", type=Path, help="the sweep: a base recipe, and axes or points (docs/sweep.md)")
    file.completer = complete_recipes  # type: ignore[attr-defined]
    command.add_argument(
        "--run", help="name of the sweep's folder under runs/; default: the name of FILE without its ending"
    )
    command.add_argument("--runs", type=Path, default=Path("runs"), help="default: %(default)s")
    command.add_argument(
        "--budget-ms",
        type=_positive,
        metavar="MS",
        help="latency at batch 1, measured with random weights before training",
    )
    command.add_argument(
        "--min-top1",
        type=_percent,
        metavar="PERCENT",
        help="of FP32 (mIoU for segmentation); below it no engine is built",
    )
    command.add_argument(
        "--halving", action="store_true", help="stop trainings that fall behind the others (ASHA: successive halving)"
    )
    command.add_argument("--address", help="HOST:PORT of a Ray cluster, or auto; default: this machine alone")
    command.add_argument("--jobs", type=_count, help="CPUs of this machine to use; default: all")
    command.add_argument(
        "--dry-run", action="store_true", help="only say which points there are and what would be made"
    )


def _sweep(options: argparse.Namespace) -> int:
    from pipeline.sweep.dry_run import tell_plan
    from pipeline.sweep.options import Options
    from pipeline.sweep.outcome.terminal import print_outcome
    from pipeline.sweep.outcome.write import write_outcome
    from pipeline.sweep.planning.file import load_sweep
    from pipeline.sweep.sweep import run_sweep

    load_sweep(options.file)  # what is no sweep is said before its name is judged
    folder = _folder(options)
    chosen = Options(
        folder, options.budget_ms, options.min_top1, options.halving, options.address, options.jobs,
    )  # fmt: skip
    if options.dry_run:
        options.document |= tell_plan(options.file, chosen, command_line(options))
        return DONE
    outcome = run_sweep(options.file, chosen, command_line(options), lambda line: print(f"  {line}", flush=True))
    written = write_outcome(outcome, folder)
    print_outcome(outcome)
    options.document |= {"folder": str(folder), "outputs": written, "next": _next(options, folder)}
    return status_of(outcome)


def status_of(outcome: "SweepOutcome") -> int:
    """0 where an engine can be taken; 3 where points are done, and none can; 1 where no point is."""
    from pipeline.sweep.outcome.engines import best_under

    if best_under(outcome, outcome.budget_ms, outcome.min_score) is not None:
        return DONE
    return GATE_FAILED if any(point.status == "done" for point in outcome.points) else FAILED


def _folder(options: argparse.Namespace) -> Path:
    """The sweep's folder; InputError where an ordinary run has it."""
    if options.run is None:
        options.recipe = options.file  # the sweep is named after its file, as a run is after its recipe
    folder = run_folder(options)
    if is_run(folder):
        raise InputError(
            "a run has this name", got=folder, allowed="a name for the sweep's folder that no run has",
            next_step=f"t2t-edge sweep {options.file} --run {folder.name}-sweep",
        )  # fmt: skip
    return folder


def _next(options: argparse.Namespace, folder: Path) -> str:
    return f"open {folder / 'sweep.html'}"


def _positive(text: str) -> float:
    return _number(text, lambda value: 0 < value < float("inf"), "a number above 0")


def _percent(text: str) -> float:
    return _number(text, lambda value: 0 <= value <= 100, "a percentage, 0 to 100")


def _count(text: str) -> int:
    return int(_number(text, lambda value: value >= 1 and value == int(value), "a whole number above 0"))


def _number(text: str, allowed: Callable[[float], bool], words: str) -> float:
    try:
        value = float(text)
        fits = allowed(value)
    except (ValueError, OverflowError):  # no number, or infinity where a whole one is asked for
        fits = False
    if not fits:
        raise argparse.ArgumentTypeError(f"{text}: {words}")
    return value
