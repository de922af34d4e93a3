"""TensorRT-RTX: real engines, built ahead of time for GPUs that this machine does not have."""

import signal
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from calib.errors import InputError
from export.engines.tensorrt import backend as tensorrt_backend
from export.engines.tensorrt import rtx_backend as tensorrt_rtx_backend
from export.engines.tensorrt.build import finish_build, prepare_build
from export.engines.tensorrt.cuda_calls import check_gpu
from export.engines.tensorrt.layers import EngineGraph, count_precisions, describe_graph, parse_layers
from export.engines.tensorrt.options import BuildOptions
from export.engines.tensorrt.progress import Progress
from export.onnx_export import MODULE_KEY
from export.runner import Unavailable

pytestmark = pytest.mark.slow

BATCHES = (1, 1, 4)
PRODUCTS = 3  # two Conv and one MatMul

needs_rtx = pytest.mark.skipif(
    find_spec("tensorrt_rtx_bindings") is None or find_spec("onnxruntime_ep_nv_tensorrt_rtx") is None,
    reason="TensorRT-RTX is not installed (it exists for x86 Linux only)",
)


class GraphWriter:
    """Writes a small network: uint8 NHWC image → normalise → Conv, Relu twice → pool → MatMul → Softmax."""

    def __init__(self, precision: str):
        half = precision == "fp16"
        self.quantized = {"int8": TensorProto.INT8, "fp8": TensorProto.FLOAT8E4M3FN}.get(precision)
        self.tensor_type = TensorProto.FLOAT16 if half else TensorProto.FLOAT
        self.numpy_type = np.float16 if half else np.float32
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.random = np.random.default_rng(0)

    def weight(self, name: str, values: Any) -> str:
        self.weights.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def node(self, operator: str, inputs: list[str], output: str, attributes: dict[str, Any] | None = None) -> str:
        self.nodes.append(helper.make_node(operator, inputs, [output], f"node_{output}", **(attributes or {})))
        return output

    def quantized_pair(self, name: str, scale: float) -> str:
        """`name` through Q/DQ in an INT8 network, as it is in others."""
        if self.quantized is None:
            return name
        scale_name = self.weight(f"{name}_scale", np.array(scale, self.numpy_type))
        zero = f"{name}_zero"
        self.weights.append(helper.make_tensor(zero, self.quantized, [], [0]))
        self.node("QuantizeLinear", [name, scale_name, zero], f"{name}_q")
        return self.node("DequantizeLinear", [f"{name}_q", scale_name, zero], f"{name}_dq")

    def parameter(self, name: str, *shape: int) -> str:
        values = self.random.normal(0, 0.1, shape).astype(self.numpy_type)
        return self.quantized_pair(self.weight(name, values), 0.005)

    def write(self, path: Path, batch: int | str = "batch") -> Path:
        self.node("Cast", ["images"], "real", {"to": self.tensor_type})
        x = self.node("Transpose", ["real"], "channels_first", {"perm": [0, 3, 1, 2]})
        x = self.node("Sub", [x, self.weight("mean", np.full((1, 3, 1, 1), 127, self.numpy_type))], "centred")
        x = self.node("Mul", [x, self.weight("istd", np.full((1, 3, 1, 1), 1 / 64, self.numpy_type))], "normal")
        for index, channels in enumerate((3, 64)):
            kernel = self.parameter(f"kernel{index}", 64, channels, 3, 3)
            attributes = {"strides": [2, 2], "pads": [1, 1, 1, 1]}
            x = self.node("Conv", [self.quantized_pair(x, 0.02), kernel], f"conv{index}", attributes)
            x = self.node("Relu", [x], f"relu{index}")
        x = self.node("Flatten", [self.node("GlobalAveragePool", [x], "pooled")], "flat")
        x = self.node("MatMul", [self.quantized_pair(x, 0.02), self.parameter("head", 64, 16)], "product")
        x = self.node("Softmax", [x], "probabilities", {"axis": -1})
        self.node("Cast", [x], "logits", {"to": TensorProto.FLOAT})
        image = helper.make_tensor_value_info("images", TensorProto.UINT8, [batch, 32, 32, 3])
        result = helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, 16])
        graph = helper.make_graph(self.nodes, "small", [image], [result], self.weights)
        proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
        onnx.checker.check_model(proto, full_check=True)
        onnx.save(proto, path)
        return path


@needs_rtx
@pytest.mark.parametrize(
    ("precision", "target"), [("fp32", "sm86"), ("fp16", "sm89"), ("int8", "sm86"), ("int8", "sm89")]
)
def test_builds_ahead_of_time_and_reports_what_it_computes_in(precision: str, target: str, tmp_path: Path) -> None:
    onnx_path = GraphWriter(precision).write(tmp_path / "net.onnx")
    engine = tensorrt_rtx_backend.build(onnx_path, tmp_path / "engine.plan", batch_sizes=BATCHES, target=target)
    assert engine.path.stat().st_size > 10_000
    assert engine.layers == {"int8": 0, "fp16": 0, "fp32": 0} | {precision: PRODUCTS}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["engine.plan", "net.onnx"]


@needs_rtx
def test_a_failed_build_does_not_spoil_the_next(tmp_path: Path) -> None:
    """TensorRT-RTX 1.7.1 gives the next build of the same process the target of the failed one."""
    onnx_path = GraphWriter("int8").write(tmp_path / "net.onnx")
    with pytest.raises(Unavailable, match=r"sm75 lacks a type this network uses.*FP32"):
        tensorrt_rtx_backend.build(onnx_path, tmp_path / "old.plan", batch_sizes=BATCHES, target="sm75")
    engine = tensorrt_rtx_backend.build(onnx_path, tmp_path / "engine.plan", batch_sizes=BATCHES, target="sm86")
    assert engine.layers is not None
    assert engine.layers["int8"] == PRODUCTS
    assert not (tmp_path / "old.plan").exists()


@needs_rtx
def test_a_build_tells_how_far_it_is_and_ctrl_c_ends_it(tmp_path: Path) -> None:
    onnx_path = GraphWriter("fp16").write(tmp_path / "net.onnx")
    steps: list[tuple[float, str]] = []
    progress = Progress(lambda *step: steps.append(step))
    tensorrt_rtx_backend.build(
        onnx_path, tmp_path / "engine.plan", batch_sizes=BATCHES, target="sm86", progress=progress
    )
    fractions = [fraction for fraction, _ in steps]
    assert len(steps) > 20 and fractions == sorted(fractions) and 0.5 < fractions[-1] <= 1

    def interrupt(fraction: float, phase: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tensorrt_rtx_backend.build(
            onnx_path, tmp_path / "late.plan", batch_sizes=BATCHES, target="sm86", progress=Progress(interrupt)
        )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["engine.plan", "net.onnx"]


@needs_rtx
def test_the_monitor_stops_the_builder_itself(tmp_path: Path) -> None:
    """In this process, where the signal comes while the builder runs: the build ends, and ctrl-C is what is raised."""
    trt = tensorrt_rtx_backend._load_module()
    onnx_path = GraphWriter("fp16").write(tmp_path / "net.onnx")
    build = prepare_build(trt, onnx_path, BATCHES, BuildOptions(), (8, 6))
    seen: list[str] = []

    def press(fraction: float, phase: str) -> None:
        seen.append(phase)
        if len(seen) == 3:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        finish_build(build, tmp_path / "engine.plan", Progress(press))
    assert 3 <= len(seen) < 8
    assert "Build canceled" in build.messages.reason()
    assert not (tmp_path / "engine.plan").exists()


@needs_rtx
@pytest.mark.parametrize(
    "options",
    [
        BuildOptions(workspace_mib=64, optimization_level=0),
        BuildOptions(optimization_level=5),
        BuildOptions(sparse_weights=True),
    ],
)
def test_options_build(options: BuildOptions, tmp_path: Path) -> None:
    onnx_path = GraphWriter("int8").write(tmp_path / "net.onnx")
    engine = tensorrt_rtx_backend.build(
        onnx_path, tmp_path / "engine.plan", batch_sizes=BATCHES, target="sm86", options=options
    )
    assert engine.layers == {"int8": PRODUCTS, "fp16": 0, "fp32": 0}


@needs_rtx
@pytest.mark.parametrize("options", [BuildOptions(hardware="ampere_plus"), BuildOptions(version_compatible=True)])
def test_options_that_rtx_does_not_have_are_refused(options: BuildOptions, tmp_path: Path) -> None:
    onnx_path = GraphWriter("fp16").write(tmp_path / "net.onnx")
    with pytest.raises(InputError, match="tensorrt_rtx builds for a target"):
        tensorrt_rtx_backend.build(
            onnx_path, tmp_path / "engine.plan", batch_sizes=BATCHES, target="sm86", options=options
        )


@needs_rtx
def test_fp8_is_for_targets_that_have_it(tmp_path: Path) -> None:
    onnx_path = GraphWriter("fp8").write(tmp_path / "net.onnx")
    path = tmp_path / "engine.plan"
    with pytest.raises(Unavailable, match=r"FP8 needs a GPU of compute capability 8\.9 .* this engine is for 8\.6"):
        tensorrt_rtx_backend.build(onnx_path, path, batch_sizes=BATCHES, target="sm86")
    engine = tensorrt_rtx_backend.build(onnx_path, path, batch_sizes=BATCHES, target="sm89")
    assert engine.layers is not None and engine.layers["fp8"] > 0, engine.layers


@needs_rtx
def test_stripping_needs_a_gpu_with_rtx(tmp_path: Path) -> None:
    if not _gpu_missing():
        pytest.skip("this machine has a GPU")
    onnx_path = GraphWriter("fp16").write(tmp_path / "net.onnx")
    with pytest.raises(Unavailable, match=r"NVIDIA (driver|GPU)|cuda-bindings|CUDA"):
        tensorrt_rtx_backend.build(
            onnx_path,
            tmp_path / "engine.plan",
            batch_sizes=BATCHES,
            target="sm86",
            options=BuildOptions(strip_weights=True),
        )


def _broken_file(path: Path) -> Path:
    path.write_bytes(b"this is no ONNX")
    return path


def _half_a_file(path: Path) -> Path:
    whole = GraphWriter("fp32").write(path).read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    return path


def _unknown_operator(path: Path) -> Path:
    proto = onnx.load(GraphWriter("fp32").write(path))
    node = next(node for node in proto.graph.node if node.op_type == "Softmax")
    node.op_type = "Zoftmax"
    node.metadata_props.add(key=MODULE_KEY, value="model.head.softmax")
    onnx.save(proto, path)
    return path


@needs_rtx
@pytest.mark.parametrize(
    ("make", "target", "message"),
    [
        (_broken_file, "sm86", "(?s)cannot parse .*net.onnx.*holds no network"),
        (_half_a_file, "sm86", "(?s)cannot parse .*net.onnx.*Failed to parse the ONNX model"),
        (
            _unknown_operator,
            "sm86",
            r"(?s)cannot parse .*node node_probabilities \(Zoftmax\) of module head\.softmax: ",
        ),
        (lambda path: path, "sm86", "there is no ONNX file"),
        (lambda path: GraphWriter("fp32").write(path), "sm87", "(?s)does not build for this target.*sm86, sm89"),
        (lambda path: GraphWriter("fp32").write(path, batch=2), "sm86", r"(?s)fixed batch of 2.*\[1, 1, 4\]"),
    ],
)
def test_wrong_input_is_a_clear_error_and_leaves_nothing(make: Any, target: str, message: str, tmp_path: Path) -> None:
    onnx_path = make(tmp_path / "net.onnx")
    with pytest.raises(InputError, match=message):
        tensorrt_rtx_backend.build(onnx_path, tmp_path / "engine.plan", batch_sizes=BATCHES, target=target)
    assert [path.name for path in tmp_path.iterdir()] in ([], ["net.onnx"])


def _gpu_missing() -> str:
    """Why no GPU can be used here, "" where one can."""
    try:
        check_gpu()
    except Unavailable as reason:
        return str(reason)
    return ""


@needs_rtx
def test_running_without_a_gpu_is_unavailable_with_a_reason(tmp_path: Path) -> None:
    if not _gpu_missing():
        pytest.skip("this machine has a GPU")
    tensorrt_rtx_backend.check_available_to_build()
    for call in (tensorrt_rtx_backend.check_available_to_run, lambda: tensorrt_rtx_backend.load(tmp_path / "any.plan")):
        with pytest.raises(Unavailable, match=r"NVIDIA (driver|GPU)|cuda-bindings|CUDA") as caught:
            call()
        assert "\n" not in str(caught.value)


def test_missing_tensorrt_is_unavailable_with_the_way_to_install_it() -> None:
    if find_spec("tensorrt") is not None:
        pytest.skip("TensorRT is installed")
    assert tensorrt_backend.version() is None
    for call in (tensorrt_backend.check_available_to_build, tensorrt_backend.check_available_to_run):
        with pytest.raises(Unavailable, match=r"pip install -e '\.\[tensorrt\]'"):
            call()


@pytest.mark.gpu
@needs_rtx
def test_an_engine_runs_and_agrees_with_onnxruntime(tmp_path: Path) -> None:
    if reason := _gpu_missing():
        pytest.skip(reason)
    from cuda.bindings import runtime

    attributes = runtime.cudaDeviceAttr
    major = runtime.cudaDeviceGetAttribute(attributes.cudaDevAttrComputeCapabilityMajor, 0)[1]
    minor = runtime.cudaDeviceGetAttribute(attributes.cudaDevAttrComputeCapabilityMinor, 0)[1]
    target = f"sm{major}{minor}"
    if target not in tensorrt_rtx_backend.targets():
        pytest.skip(f"TensorRT-RTX does not run on this GPU ({target})")
    onnx_path = GraphWriter("fp16").write(tmp_path / "net.onnx")
    engine = tensorrt_rtx_backend.build(onnx_path, tmp_path / "engine.plan", batch_sizes=BATCHES, target=target)
    with tensorrt_rtx_backend.load(engine.path) as runner:
        _check_against_onnxruntime(onnx_path, runner)


@pytest.mark.gpu
def test_a_tensorrt_engine_runs_and_agrees_with_onnxruntime(tmp_path: Path) -> None:
    try:
        tensorrt_backend.check_available_to_run()
    except Unavailable as reason:
        pytest.skip(str(reason))
    onnx_path = GraphWriter("fp16").write(tmp_path / "net.onnx")
    engine = tensorrt_backend.build(onnx_path, tmp_path / "engine.plan", batch_sizes=BATCHES)
    assert engine.layers == {"int8": 0, "fp16": PRODUCTS, "fp32": 0}
    with tensorrt_backend.load(engine.path) as runner:
        _check_against_onnxruntime(onnx_path, runner)


@pytest.mark.gpu
@pytest.mark.parametrize(
    "options",
    [BuildOptions(strip_weights=True), BuildOptions(version_compatible=True), BuildOptions(hardware="ampere_plus")],
)
def test_a_tensorrt_engine_with_options_agrees_with_onnxruntime(options: BuildOptions, tmp_path: Path) -> None:
    try:
        tensorrt_backend.check_available_to_run()
    except Unavailable as reason:
        pytest.skip(str(reason))
    onnx_path = GraphWriter("fp16").write(tmp_path / "net.onnx")
    engine = tensorrt_backend.build(onnx_path, tmp_path / "engine.plan", batch_sizes=BATCHES, options=options)
    weights = onnx_path if options.strip_weights else None
    with tensorrt_backend.load(engine.path, weights=weights, host_code=options.version_compatible) as runner:
        _check_against_onnxruntime(onnx_path, runner)


def _check_against_onnxruntime(onnx_path: Path, runner: Any) -> None:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(onnx_path), providers=["CPUExecutionProvider"])
    random = np.random.default_rng(1)
    assert [(info.name, info.shape, info.dtype) for info in runner.inputs] == [("images", (None, 32, 32, 3), "uint8")]
    for batch in (1, 3, 4, 2):
        images = random.integers(0, 256, (batch, 32, 32, 3), dtype=np.uint8)
        got = runner.infer({"images": images})["logits"]
        difference = np.abs(got - session.run(None, {"images": images})[0])
        assert difference.max() < 0.01, f"batch {batch}: max {difference.max():.4f}, mean {difference.mean():.4f}"
    times = runner.device_times()
    assert min(times.copy_in, times.compute, times.copy_out) > 0 and runner.device_memory_bytes > 0
    assert runner.mode.graphs == dict.fromkeys((1, 2, 3, 4), ""), "a graph could not be captured"
    made = [{"images": random.integers(0, 256, (batch, 32, 32, 3), dtype=np.uint8)} for batch in (1, 3, 4, 2, 1)]
    for feeds, outputs in zip(made, list(runner.infer_stream(iter(made))), strict=True):
        np.testing.assert_array_equal(outputs["logits"], runner.infer(feeds)["logits"])
    with pytest.raises(ValueError, match="takes shapes from"):
        runner.infer({"images": np.zeros((5, 32, 32, 3), np.uint8)})


# One line each as TensorRT 10 writes them: constants among the inputs, weights apart, and other words for datatypes.
OLDER_REPORT = """Layers:
Name: a + b, LayerType: CaskConvolution, Inputs: [ { Name: x, Location: Device, Dimensions: [4,64,56,56], \
Format/Datatype: Thirty-two wide channel vectorized row major Int8 format }], Outputs: [ { Name: (Unnamed) [S]_out, \
Location: Device, Dimensions: [4,64,56,56], Format/Datatype: Row major linear FP16 format }], ParameterType: \
Convolution, Weights: {"Type": "Int8", "Count": 864}, StreamId: 0, Metadata: [ONNX Layer: b]\x1e[ONNX Layer: c]
Name: gemm_1, LayerType: gemm, Inputs: [ { Name: y, Dimensions: [1,64], Format/Datatype: Half }, { Name: w, \
Dimensions: [64,10], Format/Datatype: Half }, { Name: alpha, Dimensions: [1], Format/Datatype: Float }], Outputs: \
[ { Name: z, Dimensions: [1,10], Format/Datatype: Float }], TacticName: t, StreamId: 0, Metadata: [ONNX Layer: head]

Bindings:
x
"""


@pytest.mark.parametrize(
    ("reports", "products", "counts"),
    [
        ([OLDER_REPORT], ["b", "head"], {"int8": 1, "fp16": 1, "fp32": 0}),
        # as RTX 1.7.1 names what it makes of a 1×1 convolution
        ([OLDER_REPORT.replace("head]", "head]__gemm_from_conv1x1")], ["b", "head"], {"int8": 1, "fp16": 1, "fp32": 0}),
        # a dequantization fused into a product with FP16 values: the kernel widens
        ([OLDER_REPORT.replace("Datatype: Half", "Datatype: Int8", 1)], ["head"], {"int8": 0, "fp16": 1, "fp32": 0}),
        ([OLDER_REPORT], ["b", "head", "gone"], None),
        ([OLDER_REPORT], [""], None),
        ([OLDER_REPORT, OLDER_REPORT], ["b"], None),
        ([], ["b"], None),
        (["Layers:\nNothing known"], [], None),
        ([OLDER_REPORT.replace("Half", "Quarter", 1)], ["b"], None),
        ([OLDER_REPORT.replace("LayerType: gemm, ", "")], ["b"], None),
    ],
)
def test_a_report_is_counted_or_null(reports: list[str], products: list[str], counts: dict[str, int] | None) -> None:
    assert count_precisions(reports, products) == counts


# As RTX 1.7.1 writes the product of an attention's stored INT8 weight: a kernel that dequantizes it, and one that multiplies.
STORED_WEIGHT_REPORT = """Layers:
Name: shapes, LayerType: shape_call, Inputs: [], Constants: [], Outputs: [], TacticName: , StreamId: 0, Metadata:
Name: __myl_CastMul_66, LayerType: kgen, Inputs: [], Constants: [ { Name: s, Dimensions: [1,576], Datatype: Half }, \
{ Name: w, Dimensions: [192,576], Datatype: Int8 }], Outputs: [ { Name: k, Dimensions: [192,576], Datatype: Half }], \
TacticName: t, StreamId: 0, Metadata: [ONNX Layer: qkv_weight][ONNX Layer: qkv]
Name: __myl_CastMulFc_68, LayerType: runtime_fusion, Inputs: [ { Name: x, Dimensions: [-1,192], Datatype: Int8 }, \
{ Name: k, Dimensions: [192,576], Datatype: Half }], Constants: [], Outputs: [ { Name: y, Dimensions: [1,-1,576], \
Datatype: Half }], TacticName: , StreamId: 0, Metadata: [ONNX Layer: qkv][ONNX Layer: x_DequantizeLinear]
Name: _gemm_mha_v2_myl0_69, LayerType: kgen, Inputs: [ { Name: q, Dimensions: [4,17,64], Datatype: Int8 }, \
{ Name: k, Dimensions: [4,64,17], Datatype: Int8 }, { Name: v, Dimensions: [4,17,64], Datatype: Int8 }], Constants: [], \
Outputs: [ { Name: o, Dimensions: [4,17,64], Datatype: Int8 }], TacticName: , StreamId: 0, Metadata: [ONNX Layer: qk]
Name: __myl_Exp_70, LayerType: kgen, Inputs: [ { Name: a, Dimensions: [4,17,64], Datatype: Float }], Constants: [], \
Outputs: [ { Name: b, Dimensions: [4,17,64], Datatype: Float }], TacticName: , StreamId: 0, Metadata: [ONNX Layer: exp]
Name: cast_hvar_71, LayerType: cast, Inputs: [ { Name: n, Dimensions: [1], Datatype: Int64 }], Constants: [], \
Outputs: [ { Name: m, Dimensions: [1], Datatype: Int64 }], TacticName: , StreamId: 0, Metadata:
"""


def test_the_kernel_that_prepares_a_weight_is_not_the_product() -> None:
    assert count_precisions([STORED_WEIGHT_REPORT], ["qkv", "qk"]) == {"int8": 1, "fp16": 1, "fp32": 0}


def test_a_report_is_described_or_null() -> None:
    graph = describe_graph([STORED_WEIGHT_REPORT])
    assert graph == EngineGraph(
        entries=6, kernels=4, attentions={"int8": 1}, fp32=(("exp",),),
        nodes=(("qkv", "qkv_weight"), ("qkv", "x_DequantizeLinear"), ("qk",), ("exp",)),
        generated=(("qkv", "qkv_weight"), ("qk",), ("exp",)),
    )  # fmt: skip
    assert describe_graph([]) is None and describe_graph(["Layers:\nNothing known"]) is None


# As RTX 1.7.1 writes the first convolution of a ResNet in INT8, and what stands behind it.
SUMS_REPORT = """Layers:
Name: node_00005_myl0_2, LayerType: correlation, Inputs: [ { Name: x, Dimensions: [1,4,224,224], Datatype: Int8 }], \
Constants: [ { Name: w, Dimensions: [64,4,7,7], Datatype: Int8 }, { Name: s, Dimensions: [1,64,1,1], Datatype: Float }], \
Outputs: [ { Name: sums, Dimensions: [1,64,112,112], Datatype: Float }], TacticName: t, StreamId: 0, \
Metadata: [ONNX Layer: conv]
Name: __myl_MulAddRelu_3, LayerType: kgen, Inputs: [ { Name: SUMS, Dimensions: [1,64,112,112], Datatype: Float }], \
Constants: [], Outputs: [ { Name: y, Dimensions: [1,64,112,112], Datatype: Int8 }], TacticName: t, StreamId: 0, \
Metadata: [ONNX Layer: relu]
"""


def test_sums_of_a_quantized_product_are_no_fp32() -> None:
    graph = describe_graph([SUMS_REPORT.replace("SUMS", "sums")])
    assert graph is not None and graph.fp32 == ()
    graph = describe_graph([SUMS_REPORT.replace("SUMS", "others")])
    assert graph is not None and graph.fp32 == (("relu",),)
    graph = describe_graph([SUMS_REPORT.replace("SUMS", "sums").replace("correlation", "kgen")])
    assert graph is not None and graph.fp32 == (("relu",),)


def test_scalars_are_no_operands() -> None:
    layers = parse_layers(OLDER_REPORT)
    assert layers is not None
    assert [layer.operands for layer in layers] == [("int8", "int8"), ("fp16", "fp16")]
    assert layers[0].nodes == {"b", "c"}
