"""What is wrong with a recipe, in words: every problem with its key, and what is allowed there."""

from collections.abc import Iterator, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from pipeline.parts.allowed import Schema, choices_at, describe_key, keys_at
from pipeline.parts.nearest import did_you_mean, nearest

_SHOWN = 12  # problems in a message


def problems_in_words(error: ValidationError, recipe: type[BaseModel]) -> tuple[str, str | None]:
    """`got` and `allowed` of the message, a line for each problem where there are several.

    `allowed` is None where the problem itself says it: keys that do not fit together.
    """
    root = recipe.model_json_schema()
    found = error.errors()
    got = [_problem(problem, root) for problem in found[:_SHOWN]]
    allowed = [line for problem in found[:_SHOWN] for line in _allowed(problem, root)]
    if len(found) == 1:
        return got[0], allowed[0][1] if allowed else None
    if len(found) > _SHOWN:
        got.append(f"and {len(found) - _SHOWN} more")
    lines = dict.fromkeys(f"{key}: {text}" for key, text in allowed)
    return _indented(got), _indented(lines) if lines else None


def _indented(lines: Sequence[str] | dict[str, None]) -> str:
    return "".join(f"\n    {line}" for line in lines)


def _problem(problem: Any, root: Schema) -> str:
    """`train.lr = -1: Input should be greater than 0`."""
    where: tuple[str | int, ...] = problem["loc"]
    key = _dotted(where) or "recipe"
    if problem["type"] == "extra_forbidden":
        return f"{key}: no such key{did_you_mean(_near_keys(where, root))}"
    if problem["type"] == "missing":
        return f"{key}: missing"
    shown = "" if isinstance(problem["input"], dict) else f" = {problem['input']!r}"
    if problem["type"] == "literal_error" and choices_at(where, root):
        near = nearest(str(problem["input"]), choices_at(where, root))
        return f"{key}{shown}: none of its values{did_you_mean(near)}"
    if problem["type"] == "model_type":
        return f"{key}{shown}: not keys and values"
    return f"{key}{shown}: {problem['msg'].removeprefix('Value error, ')}"


def _allowed(problem: Any, root: Schema) -> Iterator[tuple[str, str]]:
    """(key, what is allowed there) of a problem; nothing where our own check names it."""
    where: tuple[str | int, ...] = problem["loc"]
    if problem["type"] == "extra_forbidden":
        yield f"keys of {_dotted(where[:-1]) or 'a recipe'}", ", ".join(keys_at(where[:-1], root))
    elif problem["type"] != "value_error" and (text := describe_key(where, root)):
        yield _dotted(where), text


def _near_keys(where: tuple[str | int, ...], root: Schema) -> list[str]:
    """What may have been meant by the last key of `where`: one of its part that looks much like it, else those of other parts
    with exactly this name, else one of its part that looks somewhat like it."""
    *part, last = where
    name, keys = str(last), keys_at(part, root)
    return (
        nearest(name, keys, cutoff=0.8)
        or [f"{other}.{name}" for other in keys_at((), root) if name in keys_at((other,), root)]
        or nearest(name, keys)
    )


def _dotted(where: Sequence[str | int]) -> str:
    return ".".join(map(str, where))
