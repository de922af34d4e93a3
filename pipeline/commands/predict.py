"""`t2t-edge predict`: classes of images, videos and streams, or of their pixels, with the engine that a report recommends."""

import argparse
import shlex
from typing import TYPE_CHECKING

from pipeline.commands.command import add_command, add_run_options, run_to_read
from pipeline.console.completers import complete_engines
from pipeline.predict.options import add_predict_options

if TYPE_CHECKING:
    from pipeline.commands.command import Commands


def register(commands: "Commands") -> None:
    """Add the command; its --json is of its own kind, an object a line."""
    command = add_command(
        commands, "predict", "classes of images, videos and streams, or of their pixels, with the recommended engine", _predict,
        (
            "t2t-edge predict --run demo photo.jpg",
            "t2t-edge predict --run demo --top 3 --csv classes.csv photos/",
            "t2t-edge predict --run demo --json 'photos/**/*.jpg' > classes.jsonl",
            "t2t-edge predict --run demo --save annotated clip.mp4",
            "t2t-edge predict --run demo --show 0     the first camera",
            "t2t-edge predict --run demo --json rtsp://user:password@10.0.0.2:554/live",
        ),
        one_document=False,
    )  # fmt: skip
    add_run_options(command)
    add_predict_options(command)
    command._option_string_actions["--engine"].completer = complete_engines  # type: ignore[attr-defined]


def _predict(options: argparse.Namespace) -> int:
    from pipeline.commands.outcome import where
    from pipeline.predict.command import load_predictor, predict_command

    folder = run_to_read(options, " IMAGE")
    engine = f" --engine {shlex.quote(options.engine)}" if options.engine else ""
    program = f"t2t-edge predict {where(options)}{engine}"
    return predict_command(options, lambda: load_predictor(options, folder, engine=options.engine), program)
