"""`t2t-edge init`: look, choose, write, and what is said of it."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from calib.errors import InputError
from calib.findings import MIN_IMAGES
from calib.images import ImageSplit
from pipeline.console.figures import counted, first_names, without_images
from pipeline.data.overlap import check_no_overlap
from pipeline.init.choose import Choice, choose
from pipeline.init.engines import Engines, engines_here, why_these
from pipeline.init.layout import Classes, Layout, read_layout
from pipeline.init.link import how, is_there, plan_links, write_links
from pipeline.init.photos import Photo, colours, look_at, median_size
from pipeline.init.split import SEED, Split, make_split
from pipeline.init.text import Data, recipe_text
from pipeline.recipe import Recipe

_SAMPLE = 2000  # images of splits that are there already which are looked at here: training decodes them all
Lines = list[tuple[str, str]]  # what, and what is said of it


@dataclass(frozen=True)
class Images:
    """Train and val by class, the train photos that were looked at, and what is said of them."""

    train: Classes
    val: Classes
    photos: Sequence[Photo]
    lines: Lines


@dataclass(frozen=True)
class Written:
    """What was written and chosen: `root` is what the recipe names as data.root."""

    root: Path
    images: dict[str, int]
    classes: tuple[str, ...]
    choice: Choice
    engines: list[Engines]
    lines: Lines


def init(folder: Path, recipe: Path, target: Path) -> Written:
    """Write `recipe` for the images of `folder`, and `target`, a folder of links, where a recipe cannot name `folder` itself.

    InputError for images that no recipe can be written for: then nothing is written. Nothing that is there is changed.
    """
    _refuse_existing(recipe)
    layout = read_layout(folder)
    images = _find_splits(layout) if layout.val is None else _take_splits(layout, layout.val)
    counts = {"train": _count(images.train), "val": _count(images.val)}
    _refuse_few(folder, counts["train"], images.photos)
    built, missing = engines_here()
    if not built:
        raise InputError("no engine can be built on this machine", got=missing, next_step="t2t-edge doctor")
    width, height = median_size(images.photos)
    choice = choose(counts["train"], width, height)
    root = folder if layout.ready else target
    classes = tuple(sorted(images.train))
    shown = f"{counted(sum(counts.values()), 'image')} in {counted(len(classes), 'class')} ({first_names(classes)})"
    comment = f"{shown}, {counts['train']:,} to train on and {counts['val']:,} for evaluation, from {folder}."
    name = folder.resolve().name or "images"
    text = recipe_text(recipe, Data(name, root, comment, *colours(images.photos)), choice, built, missing)
    Recipe.model_validate(yaml.safe_load(text))
    lines: Lines = [("images", f"{shown}, median {width}×{height} pixels"), *images.lines]
    if not layout.ready:
        lines.append(("links", _write_links(layout, images, target)))
    lines += [*choice.reasons, *(("engines", line) for line in why_these(built, missing))]
    with recipe.open("x", encoding="utf-8") as file:
        file.write(text)
    return Written(root, counts, classes, choice, built, lines)


def _refuse_existing(recipe: Path) -> None:
    if recipe.exists() or recipe.is_symlink():
        raise InputError(
            "the recipe is there already", got=recipe, allowed="a name that is free: nothing is overwritten",
            next_step=f"use it: t2t-edge run --recipe '{recipe}'; for a new one: --recipe OTHER.yaml",
        )  # fmt: skip
    if not recipe.parent.is_dir():
        raise InputError(
            "there is no folder for the recipe", got=recipe.parent, allowed="a folder that is there",
            next_step=f"mkdir -p '{recipe.parent}'",
        )  # fmt: skip


def _find_splits(layout: Layout) -> Images:
    """Train and val made of all images, each of them looked at."""
    paths = [path for found in layout.train.values() for path in found]
    photos = {photo.path: photo for photo in look_at(paths, f"looking at {layout.folder}")}
    split = make_split({name: [photos[path] for path in found] for name, found in layout.train.items()})
    train = [photos[path] for found in split.train.values() for path in found]
    lines = [
        ("split", f"made: {_count(split.train):,} train and {_count(split.val):,} val, by content with seed {SEED}")
    ]
    return Images(split.train, split.val, train, lines + _remarks(layout, split.val) + _of_copies(split))


def _of_copies(split: Split) -> Lines:
    lines: Lines = []
    if split.copies:
        lines.append(
            ("copies", f"{counted(split.copies, 'image')} with the pixels of another one: both on the same side")
        )
    if split.torn:
        classes = "; ".join(" and ".join(names) for names in split.torn[:3])
        lines.append(
            ("warning", f"the same picture is in several classes, of which one is wrong, and goes to train: {classes}")
        )
    return lines


def _take_splits(layout: Layout, val: Classes) -> Images:
    """The person's own train and val; a sample of train is looked at. InputError where an image is in both."""
    check_no_overlap(
        *(_as_split(root, classes) for root, classes in zip(layout.roots, (layout.train, val), strict=True))
    )
    paths = [path for found in layout.train.values() for path in found]
    sample = random.Random(SEED).sample(paths, min(len(paths), _SAMPLE))
    photos = look_at(sample, f"looking at {layout.roots[0]}")
    lines = [("split", f"found: {layout.roots[0]} to train on, {layout.roots[1]} for evaluation")]
    return Images(layout.train, val, photos, lines + _remarks(layout, val))


def _as_split(root: Path, classes: Classes) -> ImageSplit:
    found = [(path.relative_to(root).as_posix(), label) for label, name in enumerate(classes) for path in classes[name]]
    return ImageSplit(root, tuple(classes), tuple(name for name, _ in found), tuple(label for _, label in found))


def _remarks(layout: Layout, val: Classes) -> Lines:
    lines = [("note", remark) for remark in layout.remarks]
    if missing := sorted(name for name in layout.train if not val.get(name)):
        lines.append(("warning", without_images(missing, len(layout.train))))
    return lines


def _refuse_few(folder: Path, train: int, photos: Sequence[Photo]) -> None:
    """InputError where a calibration set could not be drawn after training."""
    different = len({photo.pixels for photo in photos})
    if different < MIN_IMAGES:
        raise InputError(
            f"{folder} has too few images", got=f"{counted(train, 'image')} to train on, {different} of them different",
            allowed=f"at least {MIN_IMAGES} different ones, or INT8 cannot be calibrated; some hundreds make a useful network",
            next_step="add images",
        )  # fmt: skip


def _write_links(layout: Layout, images: Images, target: Path) -> str:
    train_root, val_root = layout.roots
    plan = plan_links(images.train, train_root, images.val, val_root)
    if is_there(target, plan):
        return f"{target}: as an earlier init made it"
    return f"{target}: {how(write_links(target, plan))}; {layout.folder} stays as it is"


def _count(classes: Classes) -> int:
    return sum(map(len, classes.values()))
