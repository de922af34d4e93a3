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
    epochs = getattr(recipe, stage.name).epochs
    before = manifest.get("recipe", {}).get(stage.name, {}).get("epochs")
    took = f"; the earlier one took {duration(manifest['seconds'])}" if "seconds" in manifest else ""
    of = f" for {counted(before, 'epoch')}" if took and before is not None else ""
    size = f"{counted(epochs, 'epoch')} on {counted(images, 'image')}"
    say(f"{indent}now {recipe.model.label} is trained for {size}{took}{of}")
    comes_back = "is taken back with what it was made from" if whole else "is not taken back, as it is damaged"
    say(f"{indent}the earlier one stays, and {comes_back}:")
    say(f"{indent}  {place_aside(folder)}")
