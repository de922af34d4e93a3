"""What `--help` shows below the options of each command, and the option --json of those that print one document."""

import argparse
from collections.abc import Mapping

_STAGE = "t2t-edge {name} --recipe recipes/demo.yaml --run demo"
EXAMPLES: Mapping[str, tuple[str, ...]] = {
    "train": (
        _STAGE,
        "torchrun --nproc-per-node 8 -m -- pipeline train --recipe my.yaml --run mine     on eight GPUs",
    ),
    "quantize": (_STAGE, f"{_STAGE} --explain     every layer: precision, why, scale, range"),
    "run": (
        _STAGE,
        f"{_STAGE} --dry-run     which stages would run, and why",
        f"{_STAGE} --json > result.json",
    ),
    "predict": (
        "t2t-edge predict --run demo photo.jpg",
        "t2t-edge predict --run demo --top 3 --csv classes.csv photos/",
        "t2t-edge predict --run demo --json 'photos/**/*.jpg' > classes.jsonl",
        "t2t-edge predict --run demo --save annotated clip.mp4",
        "t2t-edge predict --run demo --show 0     the first camera",
        "t2t-edge predict --run demo --json rtsp://user:password@10.0.0.2:554/live",
    ),
    "doctor": ("t2t-edge doctor",),
    "models": ("t2t-edge models", "t2t-edge models --json"),
    "bundle": ("t2t-edge bundle --run demo",),
    "completion": (
        'eval "$(t2t-edge completion bash)"     in this shell; or as a line of ~/.bashrc',
        'eval "$(t2t-edge completion zsh)"      as a line of ~/.zshrc',
    ),
}
STAGES = (
    "train", "export", "calibrate", "sensitivity", "search", "qat", "quantize", "build", "evaluate", "visualize",
    "benchmark", "report", "run",
)  # fmt: skip


def finish_parser(commands: Mapping[str, argparse.ArgumentParser]) -> None:
    """Add to each command what is the same for all: examples, and --json where the command has none of its own."""
    for name, command in commands.items():
        examples = EXAMPLES.get(name, (_STAGE,) if name in STAGES else ())
        if examples:
            command.formatter_class = argparse.RawDescriptionHelpFormatter
            command.epilog = "\n".join(["examples:", *(f"  {example.format(name=name)}" for example in examples)])
        if name in STAGES:
            command.add_argument(
                "--dry-run", action="store_true", help="only say which stages would run and why; nothing is written"
            )
        if name != "completion" and "--json" not in command._option_string_actions:
            command.add_argument("--json", action="store_true", help="print one JSON document; all else goes to stderr")
            command.set_defaults(one_document=True)
