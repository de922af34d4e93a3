"""The recipe as text, with a comment for what was chosen."""

import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from pipeline.console.figures import one_line
from pipeline.init.choose import Choice
from pipeline.init.engines import Engines

SCHEMA = Path(__file__).parents[2] / "recipes" / "recipe.schema.json"
_WIDTH = 130


@dataclass(frozen=True)
class Data:
    """The images, as a recipe names them; `comment` says which they are."""

    name: str
    root: Path
    comment: str
    mean: Sequence[float]
    std: Sequence[float]


def recipe_text(place: Path, data: Data, choice: Choice, built: Sequence[Engines], missing: dict[str, str]) -> str:
    """The text for the file `place`."""
    schema = os.path.relpath(SCHEMA, place.resolve().parent)
    return "\n".join(
        [
            f"# yaml-language-server: $schema={schema}",
            *_comment(f"Written by t2t-edge init. {data.comment}"),
            "# Paths are relative to the folder that commands run in. All keys: docs/recipe.md.",
            "schema: 1",
            f"data: {{name: {_quoted(data.name)}, root: {_quoted(str(data.root))}}}",
            *_model(choice),
            *_comment(
                "Mean and standard deviation of these images; crop_pct 1.0: of an image that is not square, the middle is used."
            ),
            f"preprocess: {{crop_pct: 1.0, interpolation: bicubic, mean: {list(data.mean)}, std: {list(data.std)}}}",
            *_train(choice),
            *_build(built, missing),
            f"benchmark: {{batch_sizes: [1, 8], threads: {choice.threads}}}",
            "",
        ]
    )


def _model(choice: Choice) -> list[str]:
    reasons = dict(choice.reasons)
    size, network = f"input {choice.side}×{choice.side}", choice.network
    return [
        *_comment(f"{network}: {reasons[network]}. {size}: {reasons[size]}."),
        f"model: {{name: {network}, image_size: {choice.side}}}",
        *_comment(
            "With weights of ImageNet fewer images are enough. They bring their own size, mean and std, and how to train them "
            "follows from the number of images: leave preprocess and train out (docs/models.md). In place of the line above:"
        ),
        f"# {PRETRAINED}",
    ]  # fmt: skip


PRETRAINED = "model: {name: resnet18.a1_in1k, pretrained: true}"


def _train(choice: Choice) -> list[str]:
    epochs = f"{choice.epochs} epoch{'' if choice.epochs == 1 else 's'}"
    why = dict(choice.reasons)[epochs]
    scale = [0.08, 1.0] if choice.large_data else [0.5, 1.0] if choice.side > 32 else [0.7, 1.0]
    return [
        *_comment(f"{epochs}: {why}. Augmentation is mild: random crops and mirror images."),
        "train:",
        f"  epochs: {choice.epochs}",
        f"  batch_size: {choice.batch}",
        "  lr: 1.0e-3",
        "  weight_decay: 0.05",
        f"  warmup_epochs: {choice.epochs // 10 if choice.epochs > 1 else 0}",
        "  label_smoothing: 0.1",
        f"  mixup: {0.8 if choice.large_data else 0.0}",
        f"  cutmix: {1.0 if choice.large_data else 0.0}",
        f"  auto_augment: {'rand-m9-mstd0.5-inc1' if choice.large_data else 'null'}",
        f"  random_erasing: {0.25 if choice.large_data else 0.0}",
        f"  random_resize_scale: {scale}",
        "  horizontal_flip: 0.5  # 0.0 where left and right have a meaning, as in text and digits",
        f"  drop_path: {0.1 if choice.large_data else 0.0}",
        "  clip_grad: 1.0",
        "  ema_decay: 0.99",
        f"  workers: {choice.workers}",
        f"  eval_every: {max(1, choice.epochs // 6)}",
    ]  # fmt: skip


def _build(built: Sequence[Engines], missing: dict[str, str]) -> list[str]:
    made = list(dict.fromkeys(["fp32", *(name for one in built for name in one.precisions if name != "bf16")]))
    lines = [f"quantize: {{precisions: [{', '.join(made + (['bf16'] if _bf16(built) else []))}]}}",
             "# The engines that can be built on this machine (t2t-edge doctor).", "build:"]  # fmt: skip
    for one in built:
        targets = f", targets: [{', '.join(one.targets)}]" if one.targets else ""
        lines.append(f"  - {{backend: {one.backend}, precisions: [{', '.join(one.precisions)}]{targets}}}")
    for backend, reason in missing.items():
        lines += _comment(f"Not here: {backend}: {reason}", "  # ")
    return lines


def _bf16(built: Sequence[Engines]) -> bool:
    return any("bf16" in one.precisions for one in built)


def _comment(text: str, start: str = "# ") -> list[str]:
    """`text` in comment lines of at most `_WIDTH` characters."""
    lines, line = [], start.rstrip()
    for word in one_line(text).split():
        if len(line) + 1 + len(word) > _WIDTH:
            lines.append(line)
            line = start.rstrip()
        line += f" {word}"
    return [*lines, line]


def _quoted(text: str) -> str:
    """As YAML takes it: in quotes where it would be no text (`yes`, `2023`) or has signs of YAML in it."""
    plain = re.fullmatch(r"[A-Za-z0-9._/-]+", text) and yaml.safe_load(text) == text
    return text if plain else json.dumps(text, ensure_ascii=False)
