"""BF16 on OpenVINO: the operations that stay in FP32 all the same, and whether they did in the graph that is executed.

OpenVINO computes every floating-point operation in the precision of its hint, except one that has the attribute `precise` in the
IR. Its own passes drop that where they write an operation in another way: see `openvino_as_executed.py`.
"""

import json
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Set
from pathlib import Path
from typing import Any

from export.engines.openvino_as_executed import AsExecuted
from export.runner import FP32_TENSORS

_LISTED = ["framework", FP32_TENSORS]  # where OpenVINO has the metadata of an ONNX graph
_HELD = ["t2t_edge", "fp32_operations"]  # in a model and in its IR: names in JSON
_LOW = {"bf16", "f16"}
_FOLDED = ("Multiply", "Add", "Reshape", "Transpose")


def hold_in_fp32(model: Any) -> None:
    """Write what a graph's model computes in FP32 as the CPU's graph has it, in place, and note the operations.

    RuntimeError where the graph does not list it, or OpenVINO has no such tensor.
    """
    wanted = json.loads(_read(model, _LISTED))
    operations = {
        name: node for node in model.get_ordered_ops() for value in node.outputs() for name in value.get_names()
    }
    if missing := [name for name in wanted if name not in operations]:
        raise RuntimeError(f"OpenVINO has not {len(missing)} of the tensors that stay in FP32: {missing[:5]}")
    writer = AsExecuted()
    written = [part for name in wanted for operation in writer.write(operations[name]) for part in _parts(operation)]
    left = {operation.get_friendly_name() for operation in model.get_ordered_ops()}
    names = dict.fromkeys(operation.get_friendly_name() for operation in written)
    model.set_rt_info(json.dumps([name for name in names if name in left]), _HELD)


def held_names(model: Any) -> list[str]:
    """The operations that stay in FP32, in a model after `hold_in_fp32` or from its IR. RuntimeError in any other."""
    names: list[str] = json.loads(_read(model, _HELD))
    return names


def _read(model: Any, place: list[str]) -> str:
    if not model.has_rt_info(place):
        raise RuntimeError("this graph does not list what stays in FP32 where an engine computes in BF16")
    return str(model.get_rt_info(place).value)


def _parts(operation: Any) -> Iterator[Any]:
    """An operation, and those in front of it that OpenVINO made of the same ONNX node: they are called after their type."""
    yield operation
    for value in operation.input_values():
        source = value.get_node()
        kind = source.get_type_name()
        real = value.get_element_type().is_real() and kind not in ("Constant", "Parameter")
        if real and source.get_friendly_name().startswith(f"{kind}_"):
            yield from _parts(source)


def mark_ir(path: Path, names: list[str]) -> None:
    """Give the operations called `names` in an IR (xml) the attribute that keeps their precision."""
    tree = ET.parse(path)
    pinned = set(names)
    for layer in tree.iter("layer"):
        if layer.get("name") in pinned:
            info = layer.find("rt_info")
            if info is None:
                info = ET.Element("rt_info")
                layer.insert(0 if layer.find("data") is None else 1, info)  # where OpenVINO writes it
            ET.SubElement(info, "attribute", name="precise", version="0")
    tree.write(path, encoding="utf-8", xml_declaration=True)


def check_pins(executed: Any, model: Any) -> None:
    """RuntimeError unless what stays in FP32 of an IR's `model` is so in the `executed` graph (`get_runtime_model`).

    Every such operation that is left there computes in FP32, and gets in FP32 what others of them compute. Only what OpenVINO
    folds into its neighbours may be gone, a factor of 1 for instance.
    """
    held = set(held_names(model))
    kinds = {operation.get_friendly_name(): operation.get_type_name() for operation in model.get_ordered_ops()}
    wrong, seen = list[str](), set[str]()
    for node in executed.get_ordered_ops():
        own = held & set(_told(node, "originalLayersNames"))
        seen |= own
        if own and (_told(node, "runtimePrecision")[0] in _LOW or _gets_rounded(node, held, kinds.keys())):
            wrong += sorted(own)
    if wrong:
        raise RuntimeError(f"OpenVINO computes {len(wrong)} operations in BF16 that stay in FP32: {wrong[:5]}")
    if gone := sorted(name for name in held - seen if kinds.get(name) not in _FOLDED):
        raise RuntimeError(f"OpenVINO executes {len(gone)} operations that stay in FP32 as something else: {gone[:5]}")


def _gets_rounded(node: Any, held: Set[str], known: Set[str]) -> bool:
    """Whether an executed node takes, in 16 bits, what one of those in FP32 computes.

    Between the two may be reorders, and what OpenVINO made itself of an operation: `known` are the names of the IR.
    """
    todo = [(value.get_node(), False) for value in node.input_values()]
    while todo:
        source, rounded = todo.pop()
        rounded |= not _LOW.isdisjoint(_told(source, "outputPrecisions"))
        names = set(_told(source, "originalLayersNames"))
        if rounded and names & held:
            return True
        if not names & known:
            todo += [(value.get_node(), rounded) for value in source.input_values()]
    return False


def _told(node: Any, key: str) -> list[str]:
    """What an executed node tells of itself: one string, or one for each original operation or kind of output."""
    info = node.get_rt_info()
    return str(info[key].astype(str)).split(",") if key in info else [""]
