"""The modules that an ONNX file's nodes came from, read without the onnx package, which a device does not have.

Only the few fields needed, by their numbers in onnx.proto: ModelProto.graph 7, GraphProto.node 1, NodeProto.name 3 and
metadata_props 9, StringStringEntryProto.key 1 and value 2.
"""

import re
from collections.abc import Iterator
from pathlib import Path

MODULE_KEY = "t2t_edge.module"  # as export.onnx_export writes it
_GRAPH, _NODE, _NAME, _METADATA, _KEY, _VALUE = 7, 1, 3, 9, 1, 2
_VARINT, _EIGHT_BYTES, _LENGTH, _FOUR_BYTES = 0, 1, 2, 5


def read_modules(path: Path) -> dict[str, str]:
    """Node name → module, such as `blocks.3.attn.qkv`; of a file that is no ONNX, what could be read of it."""
    modules: dict[str, str] = {}
    try:
        for graph in _fields(memoryview(path.read_bytes()), _GRAPH):
            for node in _fields(graph, _NODE):
                name, module = _text(node, _NAME), _module(node)
                if name and module:
                    modules[name] = module
    except (IndexError, ValueError):  # cut off or no protobuf: TensorRT's own message says that better
        return modules
    return modules


def name_modules(text: str, modules: dict[str, str]) -> str:
    """`text` with ` of module …` behind every node it names, once each."""
    said: set[str] = set()

    def add(match: re.Match[str]) -> str:
        name = match[0]
        if name not in modules or name in said:
            return name
        said.add(name)
        return f"{name} of module {modules[name]}"

    return re.sub(r"\w+", add, text)


def _module(node: memoryview) -> str:
    for entry in _fields(node, _METADATA):
        if _text(entry, _KEY) == MODULE_KEY:
            return _text(entry, _VALUE).removeprefix("model.")
    return ""


def _text(message: memoryview, number: int) -> str:
    return next((bytes(value).decode("utf-8") for value in _fields(message, number)), "")


def _fields(message: memoryview, wanted: int) -> Iterator[memoryview]:
    """Every field `wanted` of a message that has a length: messages and texts."""
    position = 0
    while position < len(message):
        key, position = _varint(message, position)
        number, kind = key >> 3, key & 7
        if kind == _VARINT:
            _, position = _varint(message, position)
        elif kind == _LENGTH:
            length, position = _varint(message, position)
            if position + length > len(message):
                raise ValueError("cut off")
            if number == wanted:
                yield message[position : position + length]
            position += length
        elif kind in (_EIGHT_BYTES, _FOUR_BYTES):
            position += 8 if kind == _EIGHT_BYTES else 4
        else:
            raise ValueError(f"field of kind {kind}")


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[position]
        value |= (byte & 0x7F) << shift
        position, shift = position + 1, shift + 7
        if byte < 0x80:
            return value, position
