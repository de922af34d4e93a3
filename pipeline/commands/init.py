"""`t2t-edge init`: a recipe for a folder of images."""

import argparse
import re
import shlex
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.commands.command import add_command
from pipeline.console.completers import complete_folders, complete_recipes
from pipeline.console.exit_status import DONE

if TYPE_CHECKING:
    from pipeline.commands.command import Commands


def register(commands: "Commands") -> None:
    """Add the command."""
    command = add_command(
        commands, "init", "write a recipe for a folder of images, by what it holds and what this machine can", _init,
        ("t2t-edge init photos", "t2t-edge init photos --recipe recipes/photos.yaml"),
        description="Looks at images and machine, asks nothing, and writes a commented recipe that runs as it is.\n"
        "Splits that are not there are made as a folder of links beside the images, which are never moved, changed or deleted.",
    )  # fmt: skip
    folder = command.add_argument("folder", type=Path, help="<class>/*.jpg|png, or train/<class>/* and val/<class>/*")
    folder.completer = complete_folders  # type: ignore[attr-defined]
    recipe = command.add_argument(
        "--recipe", type=Path, help="the file to write; default: FOLDER's name with .yaml, here"
    )
    recipe.completer = complete_recipes  # type: ignore[attr-defined]
    split = command.add_argument(
        "--split", type=Path, help="where train and val are written, if they have to be; default: FOLDER-split"
    )
    split.completer = complete_folders  # type: ignore[attr-defined]


def _init(options: argparse.Namespace) -> int:
    from pipeline.init.init import init

    name = _fitting(options.folder.resolve().name)
    recipe = options.recipe or Path(f"{name}.yaml")
    written = init(options.folder, recipe, options.split or _beside(options.folder))
    width = max(len(what) for what, _ in written.lines)
    for what, why in written.lines:
        print(f"  {what:<{width}}  {why}")
    run = _fitting(recipe.stem)
    command = f"t2t-edge run --recipe {shlex.quote(str(recipe))} --run {run}"
    options.document |= {
        "recipe": str(recipe), "root": str(written.root), "classes": list(written.classes), "images": written.images,
        "model": {"name": written.choice.network, "image_size": written.choice.side}, "epochs": written.choice.epochs,
        "engines": [asdict(one) for one in written.engines], "remarks": [list(line) for line in written.lines],
        "next": command,
    }  # fmt: skip
    print(f"  written: {recipe}; change in it what you like")
    print(f"  next: {command}, or: make export RECIPE={shlex.quote(str(recipe))} RUN={run}")
    return DONE


def _fitting(name: str) -> str:
    """`name` in the characters that the name of a run may have."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-._") or "images"


def _beside(folder: Path) -> Path:
    """`photos-split` of `photos`, spelt as the person spelt it where that has a name."""
    named = folder if folder.name not in ("", "..") else folder.resolve()
    return named.with_name(f"{named.name}-split")
