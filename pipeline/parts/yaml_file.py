"""A recipe's YAML as plain values. A key given twice is refused: YAML's own readers keep the last one in silence."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from yaml.nodes import MappingNode, Node, SequenceNode

from calib.errors import InputError

_MERGE = "tag:yaml.org,2002:merge"  # `<<`, which takes over the keys of another mapping


def read_yaml(path: Path) -> Any:
    """The one document of a YAML file, as plain values; None for an empty file.

    InputError for a key given twice, at any depth. yaml.YAMLError, UnicodeDecodeError and OSError come through.
    """
    loader = yaml.SafeLoader(path.read_text(encoding="utf-8"))
    try:
        document = loader.get_single_node()
        if document is None:
            return None
        twice = list(_given_twice(document, "", set()))
        if twice:
            raise InputError(
                f"the recipe {path} gives a key more than once", got="; ".join(twice), allowed="each key once",
                next_step=f"keep one of them: edit {path}",
            )  # fmt: skip
        return loader.construct_document(document)
    finally:
        loader.dispose()


def _given_twice(node: Node, place: str, seen: set[int]) -> Iterator[str]:
    """`train.lr in lines 5 and 9` for every such key in or below `node`, which is at `place`.

    Looked for before `<<` is resolved: a key beside it replaces the one that it takes over, as it should. What an alias names
    a second time is looked at once: `seen` are the nodes that were.
    """
    if id(node) in seen:
        return
    seen.add(id(node))
    if isinstance(node, SequenceNode):
        for index, item in enumerate(node.value):
            yield from _given_twice(item, f"{place}{index}.", seen)
    if not isinstance(node, MappingNode):
        return
    lines: dict[str, list[int]] = {}
    for key, value in node.value:
        if isinstance(key.value, str) and key.tag != _MERGE:
            lines.setdefault(key.value, []).append(key.start_mark.line + 1)
        name = "" if key.tag == _MERGE else f"{key.value}."
        yield from _given_twice(value, f"{place}{name}", seen)
    for name, found in lines.items():
        if len(found) > 1:
            *first, last = dict.fromkeys(map(str, found))
            before = f"s {', '.join(first)} and" if first else ""
            yield f"{place}{name} in line{before} {last}"
