"""A check of plain values against a JSON schema, as far as the recipe's uses it: what an editor would underline."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

Schema = Mapping[str, Any]
TYPES: dict[str, type | tuple[type, ...]] = {
    "array": list, "boolean": bool, "integer": int, "null": type(None), "number": (int, float), "object": dict,
    "string": str,
}  # fmt: skip
# Every word that this check knows: a schema with another one is refused, so that nothing is left unchecked.
SAYS_NOTHING = {"$schema", "$defs", "title", "description", "default", "format"}
KNOWN = SAYS_NOTHING | {
    "$ref", "additionalProperties", "anyOf", "const", "enum", "exclusiveMaximum", "exclusiveMinimum", "items", "maxItems",
    "maximum", "minItems", "minLength", "minimum", "pattern", "prefixItems", "properties", "required", "type",
}  # fmt: skip


def violations(value: Any, schema: Schema, root: Schema, place: str = "") -> Iterator[str]:
    """Where `value` is not what `schema` allows."""
    assert set(schema) <= KNOWN, f"this check does not know {set(schema) - KNOWN}"
    if "$ref" in schema:
        yield from violations(value, root["$defs"][schema["$ref"].removeprefix("#/$defs/")], root, place)
    if "anyOf" in schema and all(list(violations(value, one, root, place)) for one in schema["anyOf"]):
        yield f"{place}: none of anyOf takes {value!r}"
    if "enum" in schema and value not in schema["enum"]:
        yield f"{place}: {value!r} is not in enum"
    if "const" in schema and value != schema["const"]:
        yield f"{place}: {value!r} is not the const"
    if "type" in schema and not is_a(value, schema["type"]):
        yield f"{place}: {value!r} is no {schema['type']}"
    elif isinstance(value, dict):
        yield from object_violations(value, schema, root, place)
    elif isinstance(value, list):
        yield from list_violations(value, schema, root, place)
    elif isinstance(value, str):
        fits = len(value) >= schema.get("minLength", 0) and re.search(schema.get("pattern", ""), value)
        yield from () if fits else (f"{place}: {value!r} does not fit",)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield from () if in_range(value, schema) else (f"{place}: {value!r} is out of range",)


def is_a(value: Any, name: str) -> bool:
    return isinstance(value, TYPES[name]) and not (isinstance(value, bool) and name in ("integer", "number"))


def in_range(value: float, schema: Schema) -> bool:
    infinite = float("inf")
    closed = schema.get("minimum", -infinite) <= value <= schema.get("maximum", infinite)
    return closed and schema.get("exclusiveMinimum", -infinite) < value < schema.get("exclusiveMaximum", infinite)


def object_violations(value: dict[str, Any], schema: Schema, root: Schema, place: str) -> Iterator[str]:
    properties = schema.get("properties", {})
    yield from (f"{place}.{name} is missing" for name in schema.get("required", ()) if name not in value)
    for name, one in value.items():
        if name in properties:
            yield from violations(one, properties[name], root, f"{place}.{name}")
        elif schema.get("additionalProperties") is False:
            yield f"{place}.{name}: no such key"


def list_violations(value: list[Any], schema: Schema, root: Schema, place: str) -> Iterator[str]:
    if not schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", len(value)):
        yield f"{place}: {len(value)} items"
    first = schema.get("prefixItems", ())
    for index, one in enumerate(value):
        each = first[index] if index < len(first) else schema.get("items", {})
        yield from violations(one, each, root, f"{place}[{index}]")
