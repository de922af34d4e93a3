"""What is said before a finished training, or QAT, gives way to another one: days of work are never replaced in silence."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.artifact import MANIFEST, read_artifact
from pipeline.console.figures import counted, duration
from pipeline.recipe import Recipe
from pipeline.run.identity import when
from pipeline.run.kept import place_aside
from pipeline.run.stage import Stage

_SHOWN = 6  # reasons


def say_replaced(
    stage: Stage, folder: Path, manifest: Mapping[str, Any], reasons: Sequence[str], recipe: Recipe, images: int,
    say: Callable[[str], None],
) -> None:  # fmt: skip
    """Say what changed since the result in `folder` was made, what is trained now on how many `images`, and where the earlier
    one stays."""
    indent, call = f"{'':>11}", "QAT" if stage.name == "qat" else "training"
    say(f"{stage.name:>9}: the finished {call} of {when(manifest)} is not of this recipe and these images any more:")
    whole = read_artifact(folder) is not None
    if not whole:
        reasons = ["its files were changed" if manifest else f"its {MANIFEST} is missing or damaged"]
    for reason in reasons[:_SHOWN]:
        say(f"{indent}  {reason}")
    if len(reasons) > _SHOWN:
        say(f"{indent}  and {len(reasons) - _SHOWN} more")
    comes_back = "is taken back with what it was made from" if whole else "is not taken back, as it is damaged"
    say(f"{indent}{what_is_trained(stage, manifest, recipe, images)}")
    say(f"{indent}the earlier one stays, and {comes_back}:")
    say(f"{indent}  {place_aside(folder)}")


def what_is_trained(stage: Stage, manifest: Mapping[str, Any], recipe: Recipe, images: int) -> str:
    """What takes the place of the result of `manifest`, and how long that one took, which is all that is known beforehand."""
    size = f"{counted(getattr(recipe, stage.name).epochs, 'epoch')} on {counted(images, 'image')}"
    took = f"; the earlier one took {duration(manifest['seconds'])}" if "seconds" in manifest else ""
    epochs = manifest.get("recipe", {}).get(stage.name, {}).get("epochs")
    of = f" for {counted(epochs, 'epoch')}" if took and epochs is not None else ""
    return f"now {recipe.model.label} is trained for {size}{took}{of}"
