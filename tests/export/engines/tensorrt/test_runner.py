"""The TensorRT runner's own work (shapes, copies, memory, graphs), on a stand-in for the GPU: `ram_gpu`.

Not a proof that it runs on a GPU: the tests marked `gpu` in test_tensorrt_rtx.py are.
"""

import ast
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ram_gpu import RamGpu, SumEngine, fake_tensorrt

from calib.errors import InputError
from export.engines.tensorrt import cuda_calls
from export.engines.tensorrt.cuda_calls import Cuda, CudaError, check_gpu
from export.engines.tensorrt.runner import TensorRtRunner
from export.runner import DeviceTimes, RunOptions, Unavailable

cuda = pytest.importorskip("cuda.bindings.runtime", reason="cuda-bindings is not installed")
SUCCESS = cuda.cudaError_t.cudaSuccess
WEIGHTS = np.array([1, -2], np.float32)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> RamGpu:
    gpu = RamGpu(cuda)
    for name, function in gpu.functions().items():
        monkeypatch.setattr(cuda, name, function)
    return gpu


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    path = tmp_path / "engine.plan"
    path.write_bytes(b"plan")
    return path


def feeds(batch: int, first: int = 0) -> dict[str, Any]:
    images = np.arange(first, first + batch * 12, dtype=np.uint8).reshape(batch, 2, 6)[:, :, ::2]  # not contiguous
    return {"images": images, "weights": WEIGHTS}


def check(outputs: dict[str, Any], batch: int, first: int = 0) -> None:
    sums = feeds(batch, first)["images"].sum(axis=(1, 2)).astype(np.float32)
    np.testing.assert_array_equal(outputs["sums"], sums)
    np.testing.assert_array_equal(outputs["scaled"], sums[:, None] * WEIGHTS)


@pytest.mark.parametrize("cuda_graph", [True, False])
def test_runs_every_batch_of_the_profile_and_frees_everything(gpu: RamGpu, plan: Path, cuda_graph: bool) -> None:
    with TensorRtRunner(fake_tensorrt(SumEngine(gpu)), plan, RunOptions(cuda_graph)) as runner:
        assert [(info.name, info.shape, info.dtype) for info in runner.inputs] == [
            ("images", (None, 2, 3), "uint8"), ("weights", (2,), "float32"),
        ]  # fmt: skip
        assert [(info.name, info.shape) for info in runner.outputs] == [("sums", (None,)), ("scaled", (None, 2))]
        sizes = (1, 4, 2, 4, 1)
        results = [(batch, runner.infer(feeds(batch, batch))) for batch in sizes]
        for batch, outputs in results:  # after all runs: outputs are the caller's
            check(outputs, batch, batch)
        assert runner.mode.graphs == dict.fromkeys((1, 2, 4), "" if cuda_graph else "switched off")
        assert gpu.calls.count("cudaStreamBeginCapture") == (3 if cuda_graph else 0)
        assert not gpu.handles["graph"]
    assert gpu.is_empty()


def test_a_batch_is_one_copy_in_one_launch_and_one_copy_out_in_memory_reserved_once(gpu: RamGpu, plan: Path) -> None:
    with TensorRtRunner(fake_tensorrt(SumEngine(gpu)), plan) as runner:
        runner.infer(feeds(4))
        gpu.calls.clear()
        check(runner.infer(feeds(4, 9)), 4, 9)
        copy, record = "cudaMemcpyAsync", "cudaEventRecord"
        assert gpu.calls == [record, copy, record, "cudaGraphLaunch", record, copy, record, "cudaEventSynchronize"]


@pytest.mark.parametrize("spin", [True, False])
def test_waiting_is_by_events_that_sleep_or_spin(
    gpu: RamGpu, plan: Path, spin: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags: list[int] = []
    create = cuda.cudaEventCreateWithFlags
    monkeypatch.setattr(cuda, "cudaEventCreateWithFlags", lambda flag: (flags.append(int(flag)), create(flag))[1])
    with TensorRtRunner(fake_tensorrt(SumEngine(gpu)), plan, RunOptions(spin=spin)) as runner:
        assert runner.mode.sync == ("spin" if spin else "blocking") and runner.mode.transfers
    assert set(flags) == {int(cuda.cudaEventDefault if spin else cuda.cudaEventBlockingSync)}


def test_times_are_between_the_events_around_each_part(gpu: RamGpu, plan: Path) -> None:
    """The stand-in's clock ticks with every call: one copy, one launch and one copy, and the event after each."""
    with TensorRtRunner(fake_tensorrt(SumEngine(gpu)), plan) as runner:
        runner.infer(feeds(2))
        assert runner.device_times() == DeviceTimes(copy_in=2, compute=2, copy_out=2)
        assert runner.device_times().total == 6


@pytest.mark.parametrize(
    "broken", ["cudaStreamBeginCapture", "cudaStreamEndCapture", "cudaGraphInstantiate", "cudaGraphLaunch"]
)
def test_a_graph_that_cannot_be_captured_is_run_call_by_call_with_the_same_result(
    gpu: RamGpu, plan: Path, broken: str
) -> None:
    with TensorRtRunner(fake_tensorrt(SumEngine(gpu)), plan) as runner:
        check(runner.infer(feeds(1)), 1)
        gpu.fail[broken] = 0
        check(runner.infer(feeds(3)), 3)
        assert runner.mode.graphs[1] == "" and re.match(f"{broken}: .", runner.mode.graphs[3])
        del gpu.fail[broken]
        check(runner.infer(feeds(3, 5)), 3, 5)
        check(runner.infer(feeds(1, 7)), 1, 7)
        assert "cudaGetLastError" in gpu.calls
    assert gpu.is_empty()


def test_an_engine_that_cannot_be_captured_is_run_call_by_call(gpu: RamGpu, plan: Path) -> None:
    engine = SumEngine(gpu)
    engine.can_capture = False
    with TensorRtRunner(fake_tensorrt(engine), plan) as runner:
        for first in (0, 3):
            check(runner.infer(feeds(2, first)), 2, first)
        assert runner.mode.graphs == {2: "TensorRT could not run the engine: TensorRT gives no reason"}
        assert "cudaGraphLaunch" not in gpu.calls
    assert gpu.is_empty()


def test_rtx_says_beforehand_what_it_cannot_capture(gpu: RamGpu, plan: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = SumEngine(gpu)
    monkeypatch.setattr("ram_gpu.SumContext.is_stream_capturable", lambda self, stream: False, raising=False)
    with TensorRtRunner(fake_tensorrt(engine), plan) as runner:
        check(runner.infer(feeds(2)), 2)
        assert runner.mode.graphs == {2: "TensorRT cannot capture this engine"}
        assert "cudaStreamBeginCapture" not in gpu.calls


def test_only_so_many_graphs_are_kept_and_the_one_used_last_stays(
    gpu: RamGpu, plan: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("export.engines.tensorrt.lane._SIZES_KEPT", 2)
    with TensorRtRunner(fake_tensorrt(SumEngine(gpu)), plan) as runner:
        for batch in (1, 2, 1, 3):
            check(runner.infer(feeds(batch)), batch)
        assert sorted(runner.mode.graphs) == [1, 3] and len(gpu.handles["executable"]) == 2
    assert gpu.is_empty()


def test_a_stream_of_batches_keeps_two_under_way_and_their_order(gpu: RamGpu, plan: Path) -> None:
    sizes = [1, 4, 2, 2, 3, 1, 4]
    with TensorRtRunner(fake_tensorrt(SumEngine(gpu)), plan) as runner:
        taken: list[int] = []
        made = (taken.append(batch) or feeds(batch, index) for index, batch in enumerate(sizes))  # type: ignore[func-returns-value]
        for index, outputs in enumerate(runner.infer_stream(made)):
            check(outputs, sizes[index], index)
            assert len(taken) == min(index + 3, len(sizes))  # the next one is made while two are under way
        assert len(gpu.handles["stream"]) == 2 and len(taken) == 7
        assert list(runner.infer_stream([])) == []
        check(next(runner.infer_stream(iter([feeds(2)]))), 2)
        check(runner.infer(feeds(4)), 4)
    assert gpu.is_empty()


def test_a_stream_left_early_leaves_nothing_under_way(gpu: RamGpu, plan: Path) -> None:
    with TensorRtRunner(fake_tensorrt(SumEngine(gpu)), plan) as runner:
        outputs = runner.infer_stream(feeds(1, index) for index in range(5))
        next(outputs)
        with pytest.raises(RuntimeError, match="infer_stream is not at its end"):
            runner.infer(feeds(1))
        outputs.close()
        check(runner.infer(feeds(1)), 1)
    assert gpu.is_empty()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"images": np.zeros((5, 2, 3), np.uint8)}, r"takes shapes from \(1, 2, 3\) to \(4, 2, 3\), got \(5, 2, 3\)"),
        ({"images": np.zeros((1, 2, 3), np.float32)}, "is uint8, got float32"),
        ({"other": np.zeros((1, 2, 3), np.uint8)}, "inputs are"),
    ],
)
def test_wrong_feeds_are_refused_and_the_next_ones_run(gpu: RamGpu, plan: Path, wrong: Any, message: str) -> None:
    with TensorRtRunner(fake_tensorrt(SumEngine(gpu)), plan) as runner:
        with pytest.raises(ValueError, match=message):
            runner.infer(wrong if "other" in wrong else wrong | {"weights": WEIGHTS})
        check(runner.infer(feeds(1)), 1)


OPENING = [
    ("cudaMemGetInfo", 3), ("cudaStreamCreateWithFlags", 1), ("cudaEventCreateWithFlags", 4), ("cudaHostAlloc", 2),
    ("cudaMalloc", 3),
]  # fmt: skip
RUNNING = ["cudaEventRecord", "cudaMemcpyAsync", "cudaEventSynchronize", "cudaGraphLaunch", "cudaStreamSynchronize"]


@pytest.mark.parametrize(("name", "after"), [(name, after) for name, calls in OPENING for after in range(calls)])
def test_a_call_that_fails_while_opening_is_named_and_all_memory_is_freed(
    gpu: RamGpu, plan: Path, name: str, after: int
) -> None:
    gpu.fail[name] = after
    with pytest.raises(CudaError, match=f"^{name}.*: unknown error"):
        TensorRtRunner(fake_tensorrt(SumEngine(gpu)), plan)
    assert gpu.is_empty()


@pytest.mark.parametrize("name", RUNNING)
def test_a_call_that_fails_while_running_is_named_and_all_memory_is_freed(gpu: RamGpu, plan: Path, name: str) -> None:
    with TensorRtRunner(fake_tensorrt(SumEngine(gpu)), plan) as runner:
        runner.infer(feeds(1))
        gpu.fail[name] = 0
        with pytest.raises(CudaError, match=f"^{name}.*: unknown error"):
            runner.infer(feeds(2 if name == "cudaStreamSynchronize" else 1))
        del gpu.fail[name]
    assert gpu.is_empty()


@pytest.mark.parametrize(
    "name", ["cudaFree", "cudaFreeHost", "cudaEventDestroy", "cudaStreamDestroy", "cudaGraphExecDestroy"]
)
def test_a_call_that_fails_while_closing_is_named_and_the_others_are_made(gpu: RamGpu, plan: Path, name: str) -> None:
    runner = TensorRtRunner(fake_tensorrt(SumEngine(gpu)), plan)
    runner.infer(feeds(1))
    gpu.fail[name] = 0
    if name == "cudaGraphExecDestroy":
        gpu.handles["executable"].clear()  # else the stand-in refuses to free the memory it uses
    with pytest.raises(CudaError, match=f"^{name}: unknown error"):
        runner.__exit__(None, None, None)
    closing = {"cudaFree", "cudaFreeHost", "cudaEventDestroy", "cudaStreamDestroy", "cudaGraphExecDestroy"}
    assert closing <= set(gpu.calls)


def test_an_engine_that_does_not_run_is_a_runtime_error(gpu: RamGpu, plan: Path) -> None:
    engine = SumEngine(gpu)
    with TensorRtRunner(fake_tensorrt(engine), plan) as runner:
        engine.can_run = False
        with pytest.raises(RuntimeError, match="TensorRT could not run the engine"):
            runner.infer(feeds(1))
        engine.can_run = True
        check(runner.infer(feeds(1)), 1)
    assert gpu.is_empty()


def test_device_memory_is_what_cuda_has_less(gpu: RamGpu, plan: Path) -> None:
    with TensorRtRunner(fake_tensorrt(SumEngine(gpu)), plan) as runner:
        runner.infer(feeds(4))
        inputs, outputs, scratch = 256 + 8, 256 + 4 * 8, 512  # the second tensor of each starts at 256
        assert runner.device_memory_bytes == inputs + outputs + scratch


def test_a_refused_engine_is_an_input_error_with_tensorrts_reason(gpu: RamGpu, plan: Path) -> None:
    with pytest.raises(InputError, match=r"(?s)refuses the engine.*built for another GPU"):
        TensorRtRunner(fake_tensorrt(None), plan)
    assert gpu.is_empty()


def test_an_output_whose_shape_depends_on_data_is_refused(
    gpu: RamGpu, plan: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SumEngine, "location", "host")
    with pytest.raises(InputError, match="depends on data"):
        TensorRtRunner(fake_tensorrt(SumEngine(gpu)), plan)
    assert gpu.is_empty()


def test_only_a_version_compatible_engine_may_bring_code(gpu: RamGpu, plan: Path) -> None:
    plan.write_bytes(b"lean")
    with pytest.raises(InputError, match="refuses the engine"):
        TensorRtRunner(fake_tensorrt(SumEngine(gpu)), plan)
    with TensorRtRunner(fake_tensorrt(SumEngine(gpu)), plan, host_code=True) as runner:
        check(runner.infer(feeds(1)), 1)


def test_a_stripped_engine_gets_its_weights_from_the_onnx(gpu: RamGpu, plan: Path, tmp_path: Path) -> None:
    weights = tmp_path / "weights.onnx"
    weights.write_text("3", encoding="ascii")
    with TensorRtRunner(fake_tensorrt(SumEngine(gpu)), plan, weights=weights) as runner:
        np.testing.assert_array_equal(runner.infer(feeds(2))["sums"], 3 * feeds(2)["images"].sum(axis=(1, 2)))
    weights.write_text("0", encoding="ascii")
    with pytest.raises(InputError, match=r"(?s)weights\.onnx do not fit .*missing: node_00003 kernel"):
        TensorRtRunner(fake_tensorrt(SumEngine(gpu)), plan, weights=weights)
    assert gpu.is_empty()


def test_every_cuda_name_exists_and_takes_what_it_is_given() -> None:
    """Against the installed cuda-bindings, which imports without a driver; its functions' first line is the signature."""
    tree = ast.parse(Path(cuda_calls.__file__).read_text(encoding="utf-8"))
    owners = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and ast.unparse(node.value).endswith("runtime")
    ]
    names = {node.attr for node in owners}
    assert {"cudaHostAlloc", "cudaGraphLaunch", "cudaEventElapsedTime", "cudaStreamCaptureMode"} <= names
    assert [name for name in sorted(names) if not hasattr(cuda, name)] == []
    members = {
        (node.value.attr, node.attr) for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Attribute) and node.value in owners
    }  # fmt: skip
    assert ("cudaMemcpyKind", "cudaMemcpyHostToDevice") in members
    assert [pair for pair in sorted(members) if not hasattr(getattr(cuda, pair[0]), pair[1])] == []
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and node.func in owners]
    assert len(calls) > 20
    for call in calls:
        assert isinstance(call.func, ast.Attribute)
        signature = (getattr(cuda, call.func.attr).__doc__ or "").splitlines()[0]
        match = re.fullmatch(rf"{call.func.attr}\((.*)\)(?: -> .*)?", signature)
        assert match is not None, signature
        wanted = len([part for part in match[1].split(",") if part.strip()])
        assert len(call.args) == wanted and not call.keywords, f"{ast.unparse(call)} against {signature}"


def test_facts_of_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    attributes = cuda.cudaDeviceAttr
    values = {attributes.cudaDevAttrComputeCapabilityMajor: 8, attributes.cudaDevAttrComputeCapabilityMinor: 7}
    monkeypatch.setattr(cuda, "cudaDeviceGetAttribute", lambda attribute, device: (SUCCESS, values[attribute]))
    monkeypatch.setattr(cuda, "cudaDeviceGetPCIBusId", lambda length, device: (SUCCESS, b"0000:01:00.0\0\0"))
    properties = cuda.cudaDeviceProp()
    monkeypatch.setattr(cuda, "cudaGetDeviceProperties", lambda device: (SUCCESS, properties))
    assert (Cuda().compute_capability(), Cuda().pci_bus_id()) == ((8, 7), "0000:01:00.0")
    assert isinstance(Cuda().gpu_name(), str)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ((cuda.cudaError_t.cudaErrorNoDevice, 0), "no NVIDIA GPU"),
        ((SUCCESS, 0), "no NVIDIA GPU"),
        ((cuda.cudaError_t.cudaErrorInsufficientDriver, 0), "no NVIDIA driver"),
        ((cuda.cudaError_t.cudaErrorSystemNotReady, 0), "CUDA cannot be used: system not yet initialized"),
    ],
)
def test_why_there_is_no_gpu(monkeypatch: pytest.MonkeyPatch, answer: tuple[Any, int], reason: str) -> None:
    monkeypatch.setattr(cuda, "cudaGetDeviceCount", lambda: answer)
    with pytest.raises(Unavailable, match=reason):
        check_gpu()


def test_a_gpu_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "cudaGetDeviceCount", lambda: (SUCCESS, 1))
    check_gpu()
