"""`t2t-edge train … benchmark`: everything up to one stage. The report has a file of its own."""

import argparse
import os
import shlex
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.commands.command import add_command, add_run_options, command_line, run_to_make
from pipeline.console.completers import complete_recipes
from pipeline.console.exit_status import DONE
from pipeline.console.known_runs import NEW_RUN

if TYPE_CHECKING:
    from pipeline.artifact import Artifact
    from pipeline.commands.command import Commands
    from pipeline.recipe import Recipe

EXAMPLE = "t2t-edge {name} --recipe recipes/demo.yaml --run demo"
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
}
_MORE_EXAMPLES = {
    "train": ("torchrun --nproc-per-node 8 -m -- pipeline train --recipe my.yaml --run mine     on eight GPUs",),
    "quantize": (f"{EXAMPLE} --explain     every layer: precision, why, scale, range",),
}


def register(commands: "Commands") -> None:
    """Add the commands."""
    for name, text in STAGE_HELP.items():
        call = _quantize if name == "quantize" else _run_up_to
        command = add_stage_command(commands, name, text, call, (EXAMPLE, *_MORE_EXAMPLES.get(name, ())))
        if name == "quantize":
            command.add_argument(
                "--explain", action="store_true", help="list every layer: precision, why, scale, range"
            )


def add_stage_command(
    commands: "Commands",
    name: str,
    text: str,
    call: Callable[[argparse.Namespace], int],
    examples: tuple[str, ...],
) -> argparse.ArgumentParser:
    """Add a command that runs stages of a recipe; `{name}` in its examples is its own name."""
    command = add_command(
        commands, name, text, call, [example.format(name=name) for example in examples],
        description=f"{text}. Complete stages are skipped.",
    )  # fmt: skip
    recipe = command.add_argument(
        "--recipe", type=Path, help=f"default: the one that the run was last made from, {NEW_RUN} for the demo"
    )
    recipe.completer = complete_recipes  # type: ignore[attr-defined]
    add_run_options(command, makes_runs=True)
    command.add_argument(
        "--dry-run", action="store_true", help="only say which stages would run and why; nothing is written"
    )
    return command


def _run_up_to(options: argparse.Namespace) -> int:
    artifact = make(options, options.command)
    if artifact is not None:
        tell_outcome(options, options.command, artifact)
    return DONE


def _quantize(options: argparse.Namespace) -> int:
    artifact = make(options, "quantize")
    if artifact is not None:
        if options.explain:
            from pipeline.quantize.decisions import print_explanation

            print_explanation(artifact)
        tell_outcome(options, "quantize", artifact)
    return DONE


def make(options: argparse.Namespace, last: str) -> "Artifact | None":
    """Run every stage up to `last`.

    None where there is nothing to tell: with --dry-run, which runs no stage, and on ranks above 0 under torchrun.
    """
    from pipeline.recipe import load_recipe
    from pipeline.run.lock import hold
    from pipeline.run.made_from import note_recipe, recipe_noted
    from pipeline.stages import run_stages

    folder = run_to_make(options)
    # What it was made from before: another recipe would make the run again, over what it has.
    options.recipe = options.recipe or recipe_noted(folder) or NEW_RUN
    recipe = load_recipe(options.recipe)
    if options.dry_run:
        if int(os.environ.get("RANK", 0)) == 0:
            _dry_run(options, recipe, folder, last)
        return None
    with hold(folder, command_line(options)):
        note_recipe(folder, options.recipe)
        options.log.begin(folder)
        artifact = run_stages(recipe, folder, last)
    return None if int(os.environ.get("RANK", 0)) > 0 else artifact


def tell_outcome(options: argparse.Namespace, last: str, artifact: "Artifact") -> None:
    """Say, as text and in the JSON document, what the last stage left and what comes next."""
    from pipeline.commands.outcome import print_outcome, stage_outcome

    outcome = stage_outcome(options, last, artifact)
    options.document |= outcome
    print_outcome(outcome)


def _dry_run(options: argparse.Namespace, recipe: "Recipe", folder: Path, last: str) -> None:
    from pipeline.commands.dry_run import check_plan, plan_stages, print_plan
    from pipeline.commands.outcome import where
    from pipeline.resolve.resolve import resolve

    resolved = resolve(recipe, unpack=False)
    planned = plan_stages(resolved.recipe, folder, last, resolved.look)
    check_plan(resolved.recipe, planned, resolved.look)
    print_plan(planned)
    for line in resolved.lines:
        print(f"{'':>2}{line}")
    command = f"t2t-edge {options.command} --recipe {shlex.quote(str(options.recipe))} {where(options)}"
    print(f"  nothing was written; next: {command}")
    options.document |= {"dry_run": True, "stages": [asdict(row) for row in planned], "next": command}
