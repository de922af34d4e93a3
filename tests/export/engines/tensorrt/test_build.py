"""What a build is told and tells: options, timing cache, progress, ctrl-C, modules; without TensorRT where it can be."""

import os
import signal
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from calib.errors import InputError
from export.engines.tensorrt import backend as tensorrt_backend
from export.engines.tensorrt.build import _check_fp8, _describe
from export.engines.tensorrt.child_process import ChildDied, call_in_child
from export.engines.tensorrt.options import BuildOptions, apply_options
from export.engines.tensorrt.progress import Phases, Progress, Stop, create_monitor
from export.engines.tensorrt.timing_cache import attach_cache, cache_folder, cache_path, save_cache
from export.runner import Unavailable


class Names:
    """`trt.BuilderFlag` and its kin: every member is its own name, but those that a release lacks."""

    def __init__(self, *missing: str) -> None:
        self._missing = missing

    def __getattr__(self, name: str) -> str:
        if name in self._missing or name.startswith("_"):
            raise AttributeError(name)
        return name


def fake_trt(*missing: str) -> Any:
    names = Names(*missing)
    return SimpleNamespace(
        __version__="10.3.0", BuilderFlag=names, MemoryPoolType=names, ProfilingVerbosity=names, DataType=names,
        HardwareCompatibilityLevel=names, IProgressMonitor=object,
    )  # fmt: skip


class Config:
    """What a builder's configuration was told."""

    def __init__(self) -> None:
        self.flags: list[str] = []
        self.limits: dict[str, int] = {}
        self.hardware_compatibility_level = "untouched"

    def set_flag(self, flag: str) -> None:
        self.flags.append(flag)

    def set_memory_pool_limit(self, pool: str, size: int) -> None:
        self.limits[pool] = size


def told(options: BuildOptions, *missing: str) -> Any:
    config = Config()
    apply_options(fake_trt(*missing), config, options)
    return config


def test_a_plain_build_sets_no_flag() -> None:
    config = told(BuildOptions())
    assert (config.flags, config.limits, config.hardware_compatibility_level) == (
        [],
        {"WORKSPACE": 1 << 30},
        "untouched",
    )
    assert (config.builder_optimization_level, config.profiling_verbosity) == (3, "DETAILED")


@pytest.mark.parametrize(
    ("options", "flags", "hardware"),
    [
        (BuildOptions(sparse_weights=True), ["SPARSE_WEIGHTS"], "untouched"),
        (BuildOptions(version_compatible=True), ["VERSION_COMPATIBLE"], "untouched"),
        (BuildOptions(strip_weights=True), ["STRIP_PLAN", "REFIT_IDENTICAL"], "untouched"),
        (BuildOptions(hardware="ampere_plus"), [], "AMPERE_PLUS"),
        (BuildOptions(hardware="same_compute_capability"), [], "SAME_COMPUTE_CAPABILITY"),
    ],
)
def test_options_become_flags(options: BuildOptions, flags: list[str], hardware: str) -> None:
    config = told(replace(options, workspace_mib=64, optimization_level=5))
    assert (config.flags, config.hardware_compatibility_level) == (flags, hardware)
    assert (config.limits, config.builder_optimization_level) == ({"WORKSPACE": 64 << 20}, 5)


def test_what_a_release_lacks_is_unavailable_and_not_ignored() -> None:
    with pytest.raises(Unavailable, match=r"same_compute_capability needs a newer TensorRT than 10\.3\.0"):
        told(BuildOptions(hardware="same_compute_capability"), "SAME_COMPUTE_CAPABILITY")


def network(*types: str) -> Any:
    layers = [SimpleNamespace(num_outputs=1, get_output_type=lambda index, kind=kind: kind) for kind in types]
    return SimpleNamespace(num_layers=len(layers), get_layer=lambda index: layers[index])


@pytest.mark.parametrize("capability", [(7, 5), (8, 6), (8, 7)])
def test_fp8_is_unavailable_before_the_build(capability: tuple[int, int]) -> None:
    with pytest.raises(Unavailable, match=rf"FP8 needs .* 8\.9 .* this engine is for {capability[0]}\.{capability[1]}"):
        _check_fp8(fake_trt(), network("HALF", "FP8"), capability)
    _check_fp8(fake_trt(), network("HALF", "INT8"), capability)


@pytest.mark.parametrize("capability", [(8, 9), (9, 0), (10, 1), (12, 0)])
def test_fp8_is_fine_from_ada_on(capability: tuple[int, int]) -> None:
    _check_fp8(fake_trt(), network("FP8"), capability)


@pytest.mark.parametrize(
    ("name", "operator", "described"),
    [
        ("node_00038", "MatMul", "node node_00038 (MatMul) of module blocks.3.attn.qkv: two lines"),
        ("node_00099", "MatMul", "node node_00099 (MatMul): two lines"),
        ("", "MatMul", "node MatMul: two lines"),
        ("", "", "two lines"),
    ],
)
def test_a_parser_error_names_the_module(name: str, operator: str, described: str) -> None:
    error = SimpleNamespace(desc=lambda: "two\n lines", node_name=lambda: name, node_operator=lambda: operator)
    assert _describe(error, {"node_00038": "blocks.3.attn.qkv"}) == described


class Timings:
    """A timing cache and the configuration that takes it."""

    def __init__(self, *, takes: bool = True) -> None:
        self.takes, self.content, self.set = takes, b"", b"nothing set"

    def create_timing_cache(self, content: bytes) -> bytes:
        return content

    def set_timing_cache(self, cache: bytes, ignore_mismatch: bool) -> bool:
        assert not ignore_mismatch
        if cache and not self.takes:
            return False
        self.set = cache
        return True

    def get_timing_cache(self) -> Any:
        return SimpleNamespace(serialize=lambda: memoryview(self.content))


@pytest.fixture
def lines() -> list[str]:
    return []


@pytest.fixture
def progress(lines: list[str]) -> Progress:
    return Progress(say=lines.append)


def test_kernel_times_are_kept_for_the_next_build(tmp_path: Path, progress: Progress, lines: list[str]) -> None:
    path, config = tmp_path / "new" / "timing", Timings()
    attach_cache(config, path, progress)
    assert config.set == b""
    for content in (b"times", b"more times\n"):
        config.content = content
        save_cache(config, path, progress)
        attach_cache(config, path, progress)
        assert config.set == content
    assert [file.name for file in path.parent.iterdir()] == ["timing"] and lines == []


def test_the_cache_is_one_for_each_flavour_version_and_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    path = cache_path("tensorrt", "10.3.0", "NVIDIA GeForce RTX 4090 sm89")
    assert path == tmp_path / "t2t-edge" / "timing-tensorrt-10.3.0-nvidia-geforce-rtx-4090-sm89"
    assert cache_path("tensorrt", "10.3.0", "a/../b").parent == cache_folder()
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "t2t-edge"


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-1], lambda data: data + b"x", lambda data: b"", lambda data: b"rubbish"]
)
def test_a_damaged_cache_is_ignored_with_a_line_that_says_so(
    tmp_path: Path, progress: Progress, lines: list[str], damage: Any
) -> None:
    path, config = tmp_path / "timing", Timings()
    config.content = b"times"
    save_cache(config, path, progress)
    path.write_bytes(damage(path.read_bytes()))
    attach_cache(config, path, progress)
    assert config.set == b"" and lines == [f"timing cache {path} is ignored: it is damaged"]
    save_cache(config, path, progress)
    attach_cache(config, path, progress)
    assert config.set == b"times" and len(lines) == 1


def test_a_cache_of_another_gpu_is_ignored_with_a_line(tmp_path: Path, progress: Progress, lines: list[str]) -> None:
    path, config = tmp_path / "timing", Timings(takes=False)
    config.content = b"times"
    save_cache(config, path, progress)
    attach_cache(config, path, progress)
    assert config.set == b"" and lines == [f"timing cache {path} is ignored: TensorRT does not take it"]


def test_a_cache_that_cannot_be_written_does_not_fail_the_build(
    tmp_path: Path, progress: Progress, lines: list[str]
) -> None:
    (tmp_path / "file").write_text("", encoding="ascii")
    save_cache(Timings(), tmp_path / "file" / "timing", progress)
    assert len(lines) == 1 and lines[0].startswith("the timing cache is not kept: ")


def test_the_fraction_counts_inner_phases_and_never_falls() -> None:
    phases, seen = Phases(), []

    def note(*_: None) -> None:
        seen.append(phases.fraction())

    note(phases.start("building", 2))
    note(phases.start("optimizing", 4))
    for step in range(4):
        note(phases.step("optimizing", step))
    note(phases.step("building", 0), phases.finish("optimizing"))
    note(phases.start("timing", 0))
    note(phases.finish("timing"))
    note(phases.step("building", 1))
    assert seen == pytest.approx([0, 0, 0.125, 0.25, 0.375, 0.5, 0.5, 0.5, 0.5, 1])


def test_the_monitor_tells_and_stops() -> None:
    told: list[tuple[float, str]] = []
    failures: list[BaseException] = []
    with Stop().listening() as stop:
        monitor = create_monitor(fake_trt(), Progress(lambda *step: told.append(step)), stop, failures)
        monitor.phase_start("building", None, 4)
        assert monitor.step_complete("building", 0) is True
        stop.ask()
        assert monitor.step_complete("building", 1) is False
        monitor.phase_finish("building")
    assert told == [(0, "building"), (0.25, "building"), (0.5, "building")] and failures == []


def test_what_a_watcher_raises_stops_the_build_and_is_kept() -> None:
    def fail(fraction: float, phase: str) -> None:
        raise BrokenPipeError("nobody reads")

    failures: list[BaseException] = []
    with Stop().listening() as stop:
        monitor = create_monitor(fake_trt(), Progress(fail), stop, failures)
        monitor.phase_start("building", None, 4)
        assert monitor.step_complete("building", 0) is False
    assert [str(error) for error in failures] == ["nobody reads"]


def test_ctrl_c_is_heard_by_any_thread_before_python_handles_it() -> None:
    """TensorRT may ask from a thread of its own, while Python's main thread, the one that handles signals, is in C++."""
    before = signal.getsignal(signal.SIGINT)
    with Stop().listening() as stop:
        assert not stop.asked()
        heard: list[bool] = []
        thread = threading.Thread(target=lambda: heard.append(stop.asked()))
        signal.raise_signal(signal.SIGINT)
        stop._asked = False  # as if Python had not run its handler yet
        thread.start()
        thread.join()
        assert heard == [True] and stop.asked()
    assert signal.getsignal(signal.SIGINT) is before and signal.set_wakeup_fd(-1) == -1


def test_a_thread_that_may_not_listen_builds_all_the_same() -> None:
    heard: list[bool] = []

    def build() -> None:
        with Stop().listening() as stop:
            heard.append(stop.asked())

    thread = threading.Thread(target=build)
    thread.start()
    thread.join()
    assert heard == [False]


def _answer(number: int, progress: Progress) -> int:
    progress.step(0.5, "halfway")
    progress.say("a line")
    return number + 1


def _refuse(progress: Progress) -> None:
    raise InputError("a wrong thing", got="this", allowed="that", next_step="do it")


def _die(progress: Progress) -> None:
    os._exit(7)


def _wait(progress: Progress) -> None:
    progress.step(0.1, "waiting")
    with Stop().listening() as stop:
        while not stop.asked():
            progress.step(0.2, "waiting")
            threading.Event().wait(0.01)
    raise KeyboardInterrupt


def test_a_child_answers_and_tells_how_far_it_is(lines: list[str]) -> None:
    steps: list[tuple[float, str]] = []
    assert call_in_child(_answer, (41,), Progress(lambda *step: steps.append(step), lines.append)) == 42
    assert (steps, lines) == ([(0.5, "halfway")], ["a line"])


def test_a_childs_error_is_raised_and_its_death_is_told() -> None:
    with pytest.raises(InputError, match=r"(?s)a wrong thing.*this.*that"):
        call_in_child(_refuse, (), Progress())
    with pytest.raises(ChildDied, match="ended with status 7"):
        call_in_child(_die, (), Progress())


def test_ctrl_c_in_the_parent_ends_the_child() -> None:
    pids: list[int] = []

    def interrupt(fraction: float, phase: str) -> None:
        import multiprocessing

        pids.extend(process.pid or 0 for process in multiprocessing.active_children())
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        call_in_child(_wait, (), Progress(interrupt))
    assert pids
    with pytest.raises(ProcessLookupError):
        os.kill(pids[0], 0)


def test_a_tensorrt_build_uses_the_cache_of_its_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The order of things in the backend, with TensorRT's own part taken away."""
    done: list[Any] = []
    fake_cuda = SimpleNamespace(compute_capability=lambda: (8, 7), gpu_name=lambda: "Orin")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setitem(__import__("sys").modules, "tensorrt", SimpleNamespace(__version__="10.3.0"))
    for name, function in {
        "check_available_to_build": lambda: None, "Cuda": lambda: fake_cuda,
        "prepare_build": lambda *values: done.append(values[2:]) or SimpleNamespace(config="config"),
        "attach_cache": lambda config, path, progress: done.append(("attach", path.name)),
        "finish_build": lambda build, path, progress: done.append("build") or "engine",
        "save_cache": lambda config, path, progress: done.append(("save", path.name)),
    }.items():  # fmt: skip
        monkeypatch.setattr(tensorrt_backend, name, function)
    name = "timing-tensorrt-10.3.0-orin-sm87"
    for options in (BuildOptions(), BuildOptions(timing_cache=False)):
        done.clear()
        engine: Any = tensorrt_backend.build(tmp_path / "n", tmp_path / "e", batch_sizes=(1, 1, 4), options=options)
        cached = [("attach", name), "build", ("save", name)]
        assert engine == "engine"
        assert done == [((1, 1, 4), options, (8, 7)), *(cached if options.timing_cache else ["build"])]
