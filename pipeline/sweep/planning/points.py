"""The points of a sweep: a name and a recipe for each combination of values."""

import copy
import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from calib.errors import InputError
from pipeline.artifact import hash_of
from pipeline.recipe import Recipe, read_recipe, recipe_of
from pipeline.sweep.planning.file import POINT_NAME, SweepFile

_LONGEST = 24  # characters of a value in a name
_LONGEST_NAME = 100
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_SHOWN = 6  # points in a message


@dataclass(frozen=True)
class Point:
    """One run of the sweep. `values` are the recipe's keys that the sweep sets, `plain` is the whole recipe, as YAML has it."""

    name: str
    values: Mapping[str, Any]
    plain: Mapping[str, Any]
    recipe: Recipe


def make_points(sweep: SweepFile, path: Path) -> list[Point]:
    """Every point of the sweep in `path`, in order: the grid, whose last axis changes fastest, then the list.

    InputError where a point's recipe is wrong (the first few are named, each with its problems), or two points are equal.
    """
    base = read_recipe(sweep.recipe)
    if not isinstance(base, dict):
        raise InputError(
            f"the recipe {sweep.recipe} is not a mapping", got=type(base).__name__, allowed="keys and values"
        )
    given = [*_grid(sweep.axes), *sweep.points]
    names = _names(given, path)
    points, wrong = [], []
    for name, values in zip(names, given, strict=True):
        changed = {key: value for key, value in values.items() if key != POINT_NAME}
        plain = with_values(base, {**sweep.set, **changed})
        try:
            recipe = recipe_of(
                plain, f"point {name}", f"edit {path} or {sweep.recipe}; docs/recipe.md explains every key"
            )
        except InputError as error:
            wrong.append(error)
            continue
        points.append(Point(name, changed, plain, recipe))
    _refuse(wrong, len(given), path)
    _refuse_equal(points, path)
    return points


def with_values(base: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe's plain values with others in them; `model.name` is a key of a key, `build` a whole one."""
    changed: dict[str, Any] = copy.deepcopy(dict(base))
    for key, value in values.items():
        *parts, last = key.split(".")
        place = changed
        for part in parts:
            below = place.get(part)
            place[part] = place = dict(below) if isinstance(below, Mapping) else {}
        place[last] = copy.deepcopy(value)
    return changed


def axes_of(points: Sequence[Point]) -> dict[str, list[Any]]:
    """As `differing`, of points."""
    return differing([point.values for point in points])


def differing(given: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """The keys that differ between points, each with its values in order; where a point does not set one, it has none there."""
    found: dict[str, list[Any]] = {}
    for key in dict.fromkeys(key for values in given for key in values):
        held = [values[key] for values in given if key in values]
        unique = list({json.dumps(value, sort_keys=True, default=str): value for value in held}.values())
        if len(unique) > 1 or len(held) < len(given) or len(given) == 1:
            found[key] = unique
    return found


def _grid(axes: Mapping[str, Sequence[Any]]) -> Iterator[dict[str, Any]]:
    if axes:
        for values in itertools.product(*axes.values()):
            yield dict(zip(axes, values, strict=True))


def _names(given: Sequence[Mapping[str, Any]], path: Path) -> list[str]:
    """A plain folder name for each point, of the values that differ."""
    told = differing([{key: value for key, value in values.items() if key != POINT_NAME} for values in given])
    names = [str(values.get(POINT_NAME) or _made_of(values, list(told))) for values in given]
    for name in names:
        if not _NAME.fullmatch(name):
            raise InputError(
                "a point's name is a plain folder name", got=name,
                allowed="letters, digits, . _ -, of which the first is a letter or digit", next_step=f"edit {path}",
            )  # fmt: skip
    for name in names:
        if names.count(name) > 1:
            raise InputError(
                f"two points of {path} have the same name", got=name, allowed="each point once",
                next_step=f"give one of them a name, or leave it out: edit {path}",
            )  # fmt: skip
    return names


def _made_of(values: Mapping[str, Any], keys: Sequence[str]) -> str:
    name = "-".join(_in_a_name(values[key]) for key in keys if key in values) or "base"
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 9]}-{hash_of(dict(values))[:8]}"


def _in_a_name(value: Any) -> str:
    """`t2t_vit_7`, `64`, `256x128`; of what is long or has keys of its own, the beginning and a hash."""
    if isinstance(value, list) and all(isinstance(item, int | str) for item in value):
        value = "x".join(map(str, value))
    text = re.sub(r"[^A-Za-z0-9._]+", "_", str(value)).strip("_.") or "none"
    if isinstance(value, dict | list) or len(text) > _LONGEST:
        return f"{text[:_LONGEST].strip('_.')}_{hash_of(json.loads(json.dumps(value, default=str)))[:6]}"
    return text


def _refuse(wrong: Sequence[InputError], points: int, path: Path) -> None:
    """One message for all points that are no recipes."""
    if not wrong:
        return
    if len(wrong) == 1:
        raise wrong[0]
    lines = [f"\n    {error.what}: {' '.join(str(error.got).split())}" for error in wrong[:_SHOWN]]
    more = f"\n    and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
    raise InputError(
        f"{len(wrong)} of {points} points of {path} are wrong", got="".join(lines) + more, allowed=wrong[0].allowed,
        next_step=wrong[0].next_step,
    )  # fmt: skip


def _refuse_equal(points: Sequence[Point], path: Path) -> None:
    """Two points with the same recipe are one: a default that is written out makes no other point."""
    seen: dict[str, str] = {}
    for point in points:
        other = seen.setdefault(hash_of(point.recipe.model_dump(mode="json")), point.name)
        if other != point.name:
            raise InputError(
                f"two points of {path} are the same recipe", got=f"{other} and {point.name}", allowed="each point once",
                next_step=f"leave one of them out: edit {path}",
            )  # fmt: skip
