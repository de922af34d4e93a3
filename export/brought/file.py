"""Read an ONNX file that somebody brings, and refuse what the later stages cannot take, with a message that says why."""

from collections.abc import Iterator
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import TensorProto, external_data_helper, inliner

from calib.errors import InputError

NETWORK = "network.onnx"  # a brought network in a run's folder, in one file
MAX_BYTES = 2**31 - 1  # of a protobuf message
_OWN_DOMAINS = ("", "ai.onnx")
_QUANTIZED = ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "QLinearMatMul", "ConvInteger",
              "MatMulInteger")  # fmt: skip
_HALF = {TensorProto.FLOAT16: "FP16", TensorProto.BFLOAT16: "BF16", TensorProto.FLOAT8E4M3FN: "FP8"}
_SHOWN = 4


def read_file(path: Path) -> onnx.ModelProto:
    """The model in `path`, whole: weights that lie in files beside it are read in. InputError where it cannot be taken."""
    proto = read_graph(path)
    _read_external(proto, path)
    if proto.ByteSize() > MAX_BYTES:
        raise InputError(
            f"{path} is too large", got=f"{proto.ByteSize() / 2**30:.1f} GiB with its weights", allowed="under 2 GiB"
        )
    proto = inliner.inline_local_functions(proto) if proto.functions else proto
    _refuse_operators(proto, path)
    try:
        onnx.checker.check_model(proto)
    except onnx.checker.ValidationError as error:
        raise InputError(
            f"{path} is not valid ONNX", got=_first_line(error), next_step="export the network again"
        ) from error
    return proto


def read_graph(path: Path) -> onnx.ModelProto:
    """The model in `path`, without weights that lie in files beside it. InputError where it is none."""
    if not path.is_file():
        raise InputError("no such ONNX file", got=path, next_step="check the path (model.onnx in the recipe)")
    try:
        proto = onnx.load(path, load_external_data=False)
    except (DecodeError, ValueError) as error:
        raise _no_onnx(path, f"{path.stat().st_size:,} bytes that cannot be read: {error}") from error
    if not proto.graph.node:
        raise _no_onnx(path, "a model without operators")
    return proto


def _no_onnx(path: Path, got: str) -> InputError:
    return InputError(
        f"{path} is not an ONNX file",
        got=got,
        allowed="a model that onnx.load reads",
        next_step="copy or export it again",
    )


def _read_external(proto: onnx.ModelProto, path: Path) -> None:
    """Read the weights that lie in other files. They must lie in the folder of the ONNX file, whatever it says."""
    folder, places = path.parent.resolve(), _places(proto)
    for place in places:
        found = (folder / place).resolve()
        if not found.is_relative_to(folder):
            raise InputError(f"{path} names weights outside its folder", got=place, allowed=f"files in {folder}")
        if not found.is_file():
            raise InputError(
                f"{path} has its weights in another file, which is missing", got=f"no file {found}",
                next_step=f"put {place} beside {path.name}: both belong together",
            )  # fmt: skip
    try:
        external_data_helper.load_external_data_for_model(proto, str(folder))
    except (ValueError, OSError, onnx.checker.ValidationError) as error:
        raise InputError(
            f"the weights of {path} cannot be read", got=f"{', '.join(places)}: {_first_line(error)}",
            next_step="export the network again, or save it as one file",
        ) from error  # fmt: skip


def files_beside(path: Path) -> list[str]:
    """The files with weights of the ONNX file `path`, by their paths in its folder; none of a file that cannot be read."""
    try:
        return _places(onnx.load(path, load_external_data=False))
    except (DecodeError, ValueError, OSError):  # `read_file` says why
        return []


def _places(proto: onnx.ModelProto) -> list[str]:
    outside = [tensor for tensor in _tensors(proto) if external_data_helper.uses_external_data(tensor)]
    return list(dict.fromkeys(external_data_helper.ExternalDataInfo(tensor).location for tensor in outside))


def _refuse_operators(proto: onnx.ModelProto, path: Path) -> None:
    nodes = list(proto.graph.node)
    if found := sorted({node.op_type for node in nodes if node.op_type in _QUANTIZED}):
        raise InputError(
            f"{path} is quantized already", got=", ".join(found), next_step="bring the file that it was quantized from",
            allowed="a network in FP32: INT8 is what these stages make of it",
        )  # fmt: skip
    if found := sorted({f"{node.domain}.{node.op_type}" for node in nodes if node.domain not in _OWN_DOMAINS}):
        raise InputError(
            f"{path} has operators that are not ONNX's own", got=_few(found), allowed="operators that every engine knows",
            next_step="export the network again without an engine's optimisations",
        )  # fmt: skip
    halves = [tensor for tensor in proto.graph.initializer if tensor.data_type in _HALF]
    if halves:
        kinds = sorted({_HALF[tensor.data_type] for tensor in halves})
        raise InputError(
            f"{path} has weights in {', '.join(kinds)}", got=_few([tensor.name for tensor in halves]),
            allowed="FP32: lower precisions are what these stages make of it", next_step="export the network again in FP32",
        )  # fmt: skip


def _tensors(proto: onnx.ModelProto) -> Iterator[TensorProto]:
    """The constants of the graph, those in attributes of nodes included."""
    yield from proto.graph.initializer
    for node in proto.graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t


def _few(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
