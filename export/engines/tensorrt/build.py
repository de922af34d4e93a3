"""Build a TensorRT engine from ONNX: what the two flavours, TensorRT and TensorRT-RTX, have in common.

All precision is in the ONNX graph (Cast, Q/DQ) and the network is strongly typed: no precision flags and no
calibrators, which TensorRT 11 no longer has. `trt` is the Python module of either flavour.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from calib.errors import InputError
from export.engines.tensorrt.layers import count_precisions, describe_graph, product_nodes
from export.engines.tensorrt.options import BuildOptions, apply_options
from export.engines.tensorrt.progress import Progress, Stop, create_monitor
from export.graph.names import name_modules, read_modules
from export.runner import Engine, Unavailable

FP8_FROM = (8, 9)  # the first compute capability with FP8 tensor cores: Ada; Orin is 8.7


@dataclass(frozen=True)
class Messages:
    """What TensorRT said: `errors`, and the `layer_reports` of a detailed build."""

    errors: list[str] = field(default_factory=list)
    layer_reports: list[str] = field(default_factory=list)

    def reason(self) -> str:
        """The errors in one line."""
        return "; ".join(" ".join(text.split()) for text in self.errors) or "TensorRT gives no reason"


@dataclass(frozen=True)
class EngineBuild:
    """A parsed network with its configuration. The parser owns the weights and has to live until the build is done."""

    trt: Any
    builder: Any
    network: Any
    parser: Any
    config: Any
    messages: Messages
    onnx_path: Path

    def reason(self) -> str:
        """What TensorRT said, with the module of every node it names."""
        return name_modules(self.messages.reason(), read_modules(self.onnx_path))


class BuildError(InputError):
    """TensorRT refused to build a network that it could parse; the message holds its reason."""


def create_logger(trt: Any, messages: Messages) -> Any:
    """A logger that keeps errors and layer reports and prints nothing."""

    class MessageLogger(trt.ILogger):  # type: ignore[misc]  # the base class is known only at run time
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR):
                messages.errors.append(message)
            elif message.startswith("Layers:"):
                messages.layer_reports.append(message)

    return MessageLogger()


def prepare_build(
    trt: Any, onnx_path: Path, batch_sizes: tuple[int, int, int], options: BuildOptions, capability: tuple[int, int]
) -> EngineBuild:
    """Parse `onnx_path` and configure a build for batches of `batch_sizes` (minimum, typical, maximum) images.

    `capability` is the compute capability of the GPU to build for. Raises InputError for an ONNX that TensorRT cannot
    parse or whose inputs do not take these batches, Unavailable for what the GPU or this release does not have.
    """
    messages = Messages()
    logger = create_logger(trt, messages)
    builder = trt.Builder(logger)
    # Bit 1 in TensorRT 10, bit 0 in 11 and in RTX: only the enum knows.
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    _parse(parser, network, onnx_path)
    _check_fp8(trt, network, capability)
    config = builder.create_builder_config()
    apply_options(trt, config, options)
    _add_profile(builder, network, config, batch_sizes)
    return EngineBuild(trt, builder, network, parser, config, messages, onnx_path)


def _parse(parser: Any, network: Any, onnx_path: Path) -> None:
    if not onnx_path.is_file():
        raise InputError("there is no ONNX file to build", got=onnx_path, next_step="t2t-edge export")
    # From the file, not from bytes, so that weights stored beside it are found.
    # Some files that are no ONNX at all parse, as an empty network.
    if parser.parse_from_file(str(onnx_path)) and network.num_inputs and network.num_outputs:
        return
    modules = read_modules(onnx_path)
    reasons = [_describe(parser.get_error(index), modules) for index in range(parser.num_errors)]
    raise InputError(
        f"TensorRT cannot parse {onnx_path}", got="; ".join(reasons) or "it holds no network",
        allowed="an ONNX file whose operators and types TensorRT supports", next_step="t2t-edge export",
    )  # fmt: skip


def _describe(error: Any, modules: dict[str, str]) -> str:
    """`node node_00038 (MatMul) of module blocks.3.attn.qkv: …`."""
    text = " ".join(error.desc().split())
    name, operator = error.node_name(), error.node_operator()
    if not (name or operator):
        return text
    node = f"{name} ({operator})" if name and operator else name or operator
    module = f" of module {modules[name]}" if name in modules else ""
    return f"node {node}{module}: {text}"


def _check_fp8(trt: Any, network: Any, capability: tuple[int, int]) -> None:
    if capability >= FP8_FROM or not _has_fp8(trt, network):
        return
    raise Unavailable(
        f"FP8 needs a GPU of compute capability {_dotted(FP8_FROM)} (Ada) or later, this engine is for "
        f"{_dotted(capability)}: take int8-fp16 there"
    )


def _has_fp8(trt: Any, network: Any) -> bool:
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        if any(layer.get_output_type(output) == trt.DataType.FP8 for output in range(layer.num_outputs)):
            return True
    return False


def _dotted(capability: tuple[int, int]) -> str:
    return f"{capability[0]}.{capability[1]}"


def _add_profile(builder: Any, network: Any, config: Any, batch_sizes: tuple[int, int, int]) -> None:
    """One optimization profile; inputs have a free first dimension, the batch, or none and then that one batch size."""
    profile = builder.create_optimization_profile()
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        batch, *rest = tuple(tensor.shape)
        if -1 in rest:
            raise InputError(
                f"input {tensor.name} has more than one free dimension", got=tuple(tensor.shape),
                allowed="only the batch, the first dimension, may be free", next_step="t2t-edge export",
            )  # fmt: skip
        if batch != -1 and set(batch_sizes) != {batch}:
            raise InputError(
                f"input {tensor.name} has a fixed batch of {batch}", got=f"batch_sizes: {list(batch_sizes)}",
                allowed=f"batch_sizes: {[batch] * 3}, or an ONNX with a free batch dimension",
                next_step="edit batch_sizes in the recipe",
            )  # fmt: skip
        profile.set_shape(tensor.name, *((size, *rest) for size in batch_sizes))
    if config.add_optimization_profile(profile) < 0:
        raise InputError(
            "TensorRT refuses these batch sizes", got=list(batch_sizes), allowed="minimum <= typical <= maximum",
            next_step="edit batch_sizes in the recipe",
        )  # fmt: skip


def finish_build(build: EngineBuild, engine_path: Path, progress: Progress) -> Engine:
    """Build the engine and write it to `engine_path`, whole or not at all.

    Raises BuildError where TensorRT refuses, KeyboardInterrupt where ctrl-C stopped the build.
    """
    plan = _serialized(build, progress)
    partial = engine_path.with_name(f"partial-{engine_path.name}")
    try:
        with partial.open("wb") as file:
            file.write(memoryview(plan))
        partial.replace(engine_path)
    finally:
        partial.unlink(missing_ok=True)
    layers = count_precisions(build.messages.layer_reports, product_nodes(build.trt, build.network))
    # FP32 products run on TF32 tensor cores where this flag is on, which is TensorRT's default.
    tf32 = bool(build.config.get_flag(build.trt.BuilderFlag.TF32))
    return Engine(engine_path, layers, {"tf32": tf32, "graph": describe_graph(build.messages.layer_reports)})


def _serialized(build: EngineBuild, progress: Progress) -> Any:
    failures: list[BaseException] = []
    with Stop().listening() as stop:
        build.config.progress_monitor = create_monitor(build.trt, progress, stop, failures)
        plan = build.builder.build_serialized_network(build.network, build.config)
        stopped = stop.asked()
    if failures:
        raise failures[0]
    if stopped:  # also where the build was finished before the signal arrived: ctrl-C ends the command
        raise KeyboardInterrupt
    if plan is None:
        raise BuildError("TensorRT cannot build this network", got=build.reason())
    return plan
