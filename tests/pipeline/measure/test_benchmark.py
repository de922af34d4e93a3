"""The benchmark stage's own work: warm-up, turns, what is recorded of a GPU and of memory."""

import json
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from ram_gpu import RamGpu, SumEngine, fake_tensorrt

from calib.preprocess import Preprocess
from export.engines.engine import build_engine, load_engine
from export.engines.spec import EngineSpec
from export.engines.tensorrt.runner import TensorRtRunner
from export.runner import DeviceTimes, TensorInfo
from pipeline.machine.peak_memory import engine_memory
from pipeline.measure import benchmark_stage
from pipeline.measure.benchmark_stage import Candidates, _costs, _summary, measure
from pipeline.measure.warm_up import warm_up
from pipeline.parts.build import EnginePart
from pipeline.parts.measure import BenchmarkPart

cuda = pytest.importorskip("cuda.bindings.runtime", reason="cuda-bindings is not installed")
IMAGES = np.zeros((8, 2, 3), np.uint8)


class Engine:
    """Notes the batch size of every call."""

    inputs = (TensorInfo("images", (None, 2, 3), "uint8"),)
    outputs = inputs

    def __init__(self) -> None:
        self.batches: list[int] = []

    def infer(self, feeds: Any) -> dict[str, Any]:
        self.batches.append(len(feeds["images"]))
        time.sleep(0.0005)
        return {}

    def __enter__(self) -> "Engine":
        return self

    def __exit__(self, *_: object) -> None:
        return


@pytest.mark.parametrize(("milliseconds", "least"), [(0, 2), (40, 3)])
def test_the_warm_up_takes_its_calls_and_its_time(milliseconds: int, least: int) -> None:
    engine = Engine()
    start = time.perf_counter()
    warm_up(partial(engine.infer, {"images": IMAGES}), 2, milliseconds)
    assert len(engine.batches) >= least and time.perf_counter() - start >= milliseconds * 1e-3
    if not milliseconds:
        assert len(engine.batches) == 2


class OnnxRuntimesThreads(Engine):
    """Spins on after its call for as long as ONNX Runtime's threads do."""

    ends = 0.0

    def infer(self, feeds: Any) -> dict[str, Any]:
        self.ends = time.perf_counter() + 0.04
        return {}


class OnTheSameCore(Engine):
    """Takes much longer while the other one spins."""

    def __init__(self, other: OnnxRuntimesThreads) -> None:
        super().__init__()
        self.other = other

    def infer(self, feeds: Any) -> dict[str, Any]:
        time.sleep(0.01 if time.perf_counter() < self.other.ends else 0.0001)
        return {}


def test_threads_that_spin_after_a_call_do_not_count_against_the_next_engine() -> None:
    spins = OnnxRuntimesThreads()
    engines = {"spins": spins, "next": OnTheSameCore(spins)}
    part = BenchmarkPart(batch_sizes=(1,), warmup=1, warmup_ms=0, rounds=2, calls=4)
    assert np.median(measure(engines, IMAGES, part, dict.fromkeys(engines))["next"][1]) < 0.009


def test_engines_take_turns_and_keep_to_their_largest_batch() -> None:
    engines = {"a": Engine(), "b": Engine()}
    part = BenchmarkPart(batch_sizes=(1, 8), warmup=1, warmup_ms=0, rounds=2, calls=4)
    seconds = measure(engines, IMAGES, part, {"a": None, "b": 4})
    assert {name: {size: len(times) for size, times in sizes.items()} for name, sizes in seconds.items()} == {
        "a": {1: 8, 8: 8}, "b": {1: 8},
    }  # fmt: skip
    assert set(engines["b"].batches) == {1} and set(engines["a"].batches) == {1, 8}


@pytest.mark.parametrize(("seconds", "calls"), [(1e-6, 6), (0.04, 4), (5.0, 3)])
def test_a_slow_engine_makes_fewer_calls_in_a_round_but_three(
    seconds: float, calls: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benchmark_stage, "warm_up", lambda *_: seconds)
    engines = {"slow": Engine(), "other": Engine()}
    part = BenchmarkPart(batch_sizes=(1,), rounds=5, calls=6, seconds=0.8)
    measured = measure(engines, IMAGES, part, dict.fromkeys(engines))
    assert [len(times[1]) for times in measured.values()] == [5 * calls, 5 * calls]


@pytest.mark.parametrize(
    ("each", "calls", "least", "most", "expected"),
    [(0.02, 10, 10, 50, 3), (0.001, 10, 0, 5000, 10), (0.001, 10, 200, 5000, 200), (0.6, 10, 200, 500, 1)],
)
def test_the_warm_up_of_a_slow_engine_ends_in_time(
    each: float, calls: int, least: float, most: float, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a clock that only calls move on."""
    now = made = 0

    def call() -> None:
        nonlocal now, made
        now, made = now + round(1e6 * each), made + 1

    monkeypatch.setattr("pipeline.measure.warm_up.time", SimpleNamespace(perf_counter=lambda: now / 1e6))
    assert warm_up(call, calls, least, most) == pytest.approx(each) and made == expected


@pytest.fixture
def gpu_runner(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """A TensorRT runner on the stand-in; its second input is given by the test's `infer`."""
    gpu = RamGpu(cuda)
    for name, function in gpu.functions().items():
        monkeypatch.setattr(cuda, name, function)
    (tmp_path / "engine.plan").write_bytes(b"plan")
    runner = TensorRtRunner(fake_tensorrt(SumEngine(gpu)), tmp_path / "engine.plan")
    weights, infer = np.ones(2, np.float32), runner.infer
    monkeypatch.setattr(runner, "infer", lambda feeds: infer({**feeds, "weights": weights}))
    with runner:
        yield runner


def test_times_of_the_gpu_stand_beside_the_wall_clock_of_the_same_calls(gpu_runner: TensorRtRunner) -> None:
    part = BenchmarkPart(batch_sizes=(1, 4), warmup=1, warmup_ms=0, rounds=2, calls=3)
    on_device: dict[str, list[DeviceTimes]] = {}
    seconds = measure({"gpu": gpu_runner, "cpu": Engine()}, IMAGES, part, {"gpu": 4, "cpu": 4}, on_device)
    assert len(on_device["gpu"]) == len(seconds["gpu"][1]) == 6 and on_device["cpu"] == []
    summary = _summary(seconds["gpu"], on_device["gpu"])
    assert summary["device_latency_ms"] == {"p50": 6, "p90": 6, "p99": 6, "copy_in": 2, "compute": 2, "copy_out": 2}
    assert summary["latency_ms"]["p50"] == pytest.approx(1e3 * np.median(seconds["gpu"][1]))
    assert _summary(seconds["cpu"], on_device["cpu"])["device_latency_ms"] is None


def test_how_a_gpu_ran_an_engine_is_recorded(gpu_runner: TensorRtRunner, tmp_path: Path) -> None:
    gpu_runner.infer({"images": IMAGES[:4]})
    found = Candidates({"gpu": gpu_runner}, {"gpu": 4}, {"gpu": tmp_path})
    asked: list[tuple[int, float, bool]] = []

    class Meter:
        def measure(self, runner: Any, images: Any, seconds: float, *, on_gpu: bool) -> dict[str, Any]:
            asked.append((len(images), seconds, on_gpu))
            return {"mj_per_image": 7.0}

    part = BenchmarkPart(batch_sizes=(1, 4, 8), energy_seconds=3)
    meter: Any = Meter()
    row = json.loads(json.dumps(_costs("gpu", found, IMAGES, part, meter)))
    assert asked == [(1, 3, True), (4, 3, True)] and row["energy_mj"] == 7
    assert row["run_mode"] == {"graphs": {"4": ""}, "sync": "blocking", "transfers": True}
    assert row["peak_memory_bytes"] == gpu_runner.device_memory_bytes > 0
    off = _costs("gpu", found, IMAGES, part.model_copy(update={"energy_seconds": 0.0}), meter)
    assert (off["energy_mj"], off["energy"]) == (None, {})


@pytest.mark.slow
def test_memory_of_an_engine_on_the_cpu_is_that_of_a_fresh_process(tmp_path: Path) -> None:
    """A network with 40 MB of weights takes that much more than one with none."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    taken = []
    for width in (1, 1000):
        image = helper.make_tensor_value_info("images", TensorProto.UINT8, ["batch", 100, 100, 1])
        result = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", width])
        weights = np.random.default_rng(0).normal(size=(10_000, width)).astype(np.float32)
        nodes = [
            helper.make_node("Cast", ["images"], ["real"], "cast", to=TensorProto.FLOAT),
            helper.make_node("Flatten", ["real"], ["flat"], "flatten"),
            helper.make_node("MatMul", ["flat", "weights"], ["logits"], "product"),
        ]
        graph = helper.make_graph(nodes, "net", [image], [result], [numpy_helper.from_array(weights, "weights")])
        path = tmp_path / f"{width}.onnx"
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
        spec = EngineSpec("onnxruntime", "fp32", None, (1, 1, 1))
        folder = tmp_path / f"engine-{width}"
        preprocess = Preprocess(100, 100, 1.0, "bilinear", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
        build_engine(spec, path, folder, preprocess, ["a"])
        _, runner = load_engine(folder, 1)
        with runner:
            taken.append(engine_memory(folder, runner, np.zeros((1, 100, 100, 1), np.uint8), 1))
    assert taken[0] is not None and taken[1] is not None
    assert 30e6 < taken[1] - taken[0] < 200e6, taken


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"backend": "openvino", "options": {"optimization_level": 5}}, "options are TensorRT's"),
        ({"backend": "tensorrt", "options": {"optimization_level": 6}}, "less than or equal to 5"),
        ({"backend": "tensorrt", "options": {"workspace_mib": 1}}, "greater than or equal to 16"),
        ({"backend": "tensorrt", "options": {"fp16": True}}, "Extra inputs"),
        (
            {"backend": "tensorrt_rtx", "targets": ["sm86"], "options": {"hardware": "ampere_plus"}},
            "builds for its targets",
        ),
        (
            {"backend": "tensorrt_rtx", "targets": ["sm86"], "options": {"version_compatible": True}},
            "builds for its targets",
        ),
    ],
)
def test_build_options_that_do_not_fit_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EnginePart.model_validate({"precisions": ["fp16"], **values})
