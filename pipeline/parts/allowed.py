"""What a key of a recipe may hold, in words: `a whole number from 17 to 22`. Read off the JSON schema of the parts."""

from collections.abc import Mapping, Sequence
from typing import Any

Schema = Mapping[str, Any]
_NULL = {"type": "null"}


def find_key(where: Sequence[str | int], root: Schema) -> Schema:
    """The schema of a key such as ("build", 0, "backend") in that of the recipe, `root`; {} where there is no such key.

    `null`, which many keys may also be, is left out where a key below is asked for, and kept at the last one.
    """
    schema: Schema = root
    for step in where:
        schema = _resolved(schema, root)
        if isinstance(step, int):
            schema = _list_of(schema)
            items = schema.get("prefixItems", ())
            schema = items[step] if step < len(items) else schema.get("items", {})
        else:
            schema = _without_null(schema).get("properties", {}).get(step, {})
    return _resolved(schema, root)


def keys_at(where: Sequence[str | int], root: Schema) -> list[str]:
    """The keys of the part at `where`; [] where there is none."""
    return list(_without_null(find_key(where, root)).get("properties", ()))


def choices_at(where: Sequence[str | int], root: Schema) -> list[str]:
    """The values that the key at `where` chooses from; [] where it is no such key."""
    return [str(value) for value in _without_null(find_key(where, root)).get("enum", ())]


def describe_key(where: Sequence[str | int], root: Schema) -> str:
    """What the key at `where` may hold; "" where it is not known."""
    return _describe(find_key(where, root), root)


def _resolved(schema: Schema, root: Schema) -> Schema:
    """What a reference stands for."""
    name = schema.get("$ref", "").removeprefix("#/$defs/")
    return root["$defs"][name] if name else schema


def _without_null(schema: Schema) -> Schema:
    return next((one for one in schema.get("anyOf", ()) if one != _NULL), schema)


def _list_of(schema: Schema) -> Schema:
    """Of what a key may be, the list."""
    lists = [one for one in schema.get("anyOf", ()) if one.get("type") == "array"]
    return lists[0] if lists else _without_null(schema)


def _describe(schema: Schema, root: Schema) -> str:
    schema = _resolved(schema, root)
    if "anyOf" in schema:
        return " or ".join(_describe(one, root) for one in schema["anyOf"])
    if "enum" in schema:
        return ", ".join(map(str, schema["enum"]))
    if "const" in schema:
        return str(schema["const"])
    match schema.get("type"):
        case "integer":
            return f"a whole number{_range(schema, whole=True)}"
        case "number":
            return f"a number{_range(schema, whole=False)}"
        case "boolean":
            return "true or false"
        case "null":
            return "null"
        case "string":
            return _describe_text(schema)
        case "array":
            return _describe_list(schema, root)
        case "object":
            keys = ", ".join(schema.get("properties", ()))
            return f"keys and values{', of ' if keys else ''}{keys}"
    return ""


def _range(schema: Schema, *, whole: bool) -> str:
    """` from 0 to 1`, ` above 0`, ` of at least 16`; whole numbers below a limit are those up to the one before it."""
    low, above = schema.get("minimum"), schema.get("exclusiveMinimum")
    high, below = schema.get("maximum"), schema.get("exclusiveMaximum")
    if whole and above is not None:
        low, above = above + 1, None
    if whole and below is not None:
        high, below = below - 1, None
    if low is not None and high is not None:
        return f" from {low} to {high}"
    limits = [
        f"{word} {value}"
        for word, value in (("of at least", low), ("above", above), ("at most", high), ("below", below))
        if value is not None
    ]
    return f" {' and '.join(limits)}" if limits else ""


def _describe_text(schema: Schema) -> str:
    if schema.get("format") == "path":
        return "a path"
    if "pattern" in schema:
        return f"text that matches {schema['pattern']}"
    return "text that is not empty" if schema.get("minLength") else "text"


def _describe_list(schema: Schema, root: Schema) -> str:
    each = [_describe(item, root) for item in schema.get("prefixItems", ())]
    if each:
        return f"a list of {len(each)}, {'each ' if len(set(each)) == 1 else ''}{', '.join(dict.fromkeys(each))}"
    count = schema.get("minItems")
    of = f" of {count}" if count is not None and count == schema.get("maxItems") else ""
    return f"a list{of}, each {_describe(schema.get('items', {}), root)}"
