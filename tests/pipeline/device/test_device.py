"""A bundle on a device: used from an environment that holds numpy, OpenCV and ONNX Runtime alone."""

import errno
import importlib.util
import json
import os
import signal
import subprocess
import time
import venv
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from bundles import on_device, reseal
from failing import OUT_OF_MEMORY, fail_engine
from onnx import numpy_helper

from export.engines import engine as engines
from export.engines.sidecar import SIDECAR, sha256_of
from export.engines.tensorrt import backend as tensorrt_backend
from export.engines.tensorrt.options import BuildOptions
from export.runner import Engine
from pipeline.artifact import write_json
from pipeline.console.exit_status import DONE, FAILED, GATE_FAILED, WRONG_INPUT
from pipeline.device import build as device_build
from pipeline.device import cli as device_cli
from pipeline.device.cli import run_command
from pipeline.device.contents import MANIFEST, open_bundle
from pipeline.device.state import DeviceState
from pipeline.device.triton_repository import VERSION_COMPATIBLE
from pipeline.report.values.schema import check_report


def without_weights(path: Path) -> None:
    """Set the classifier of a graph to zero: it answers the same for every image."""
    model = onnx.load(path)
    for weight in model.graph.initializer:
        values = numpy_helper.to_array(weight)
        if 3 in values.shape and values.dtype == np.float32 and values.ndim <= 2:
            weight.CopyFrom(numpy_helper.from_array(np.zeros_like(values), weight.name))
    onnx.save(model, path)


def test_the_bare_environment_is_bare(bare_python: Path) -> None:
    names = ("torch", "onnx", "pydantic", "yaml", "rich", "scipy", "matplotlib", "openvino", "google", "pip", "timm")
    assert all(importlib.util.find_spec(name) for name in ("torch", "onnx", "pydantic", "yaml"))
    code = f"import importlib.util as u; print([n for n in {names} if u.find_spec(n)], bool(u.find_spec('cv2')))"
    done = subprocess.run([str(bare_python), "-c", code], env={}, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[] True"


@pytest.mark.slow
def test_end_to_end_in_a_bare_environment(copied: Path, bare_python: Path) -> None:
    """Build → evaluate → benchmark → report → predict, ONNX Runtime in TensorRT's place."""
    for step in ("build", "evaluate", "benchmark", "report"):
        done = on_device(bare_python, copied, step)
        assert done.returncode == DONE, (step, done.stdout, done.stderr)
    report = json.loads((copied / "device" / "report" / "report.json").read_text())
    check_report(report)
    rows = {row["name"]: row for row in report["variants"]}
    assert set(rows) == {"onnxruntime-fp32", "onnxruntime-int8"} and report["dataset"]["eval_images"] == 24
    assert rows["onnxruntime-fp32"]["status"] == "pass" and rows["onnxruntime-fp32"]["agreement"] == 100
    assert rows["onnxruntime-fp32"]["latency_ms"]["p50"] > 0 and rows["onnxruntime-fp32"]["layers"] is None
    assert "./t2t predict IMAGE" in (copied / "device" / "report" / "report.md").read_text()
    assert json.loads((copied / "device" / "evaluation.json").read_text())["preprocessing"]["max_levels"] == 0
    done = on_device(bare_python, copied, "predict", "samples")
    assert done.returncode == DONE and len(done.stdout.splitlines()) == 3 and "class_" in done.stdout
    assert (copied / "device" / "triton" / "small" / "1" / "model.onnx").is_file()
    assert on_device(bare_python, copied, "check").returncode == DONE
    assert not list(copied.rglob("__pycache__"))


def test_a_device_without_numpy_is_told(copied: Path, tmp_path: Path) -> None:
    venv.EnvBuilder(with_pip=False, symlinks=True).create(tmp_path / "empty")
    done = on_device(tmp_path / "empty" / "bin" / "python", copied, "run")
    assert done.returncode == WRONG_INPUT and "numpy" in done.stderr and "pip install" in done.stderr


def test_doctor_runs_on_a_device(copied: Path, bare_python: Path) -> None:
    done = on_device(bare_python, copied, "doctor", "--json")
    assert done.returncode == DONE, done.stderr
    found = {row["item"]: row for row in json.loads(done.stdout)["findings"]}
    assert found["onnxruntime"]["status"] == "ok" and found["openvino"]["fix"] == "pip install openvino"
    assert "torch" not in found and "t2t-edge" not in done.stdout


def test_the_gate_fails_on_the_device_with_status_3(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What the device computes is judged, whatever the host found."""
    for graph in ("fp32", "int8-onnxruntime"):
        without_weights(copied / "graphs" / f"{graph}.onnx")
    reseal(copied)
    assert run_command(copied, ["run"]) == GATE_FAILED
    printed = capsys.readouterr().out
    assert "does not compute its graph" in printed and "Recommended: none" in printed
    report = json.loads((copied / "device" / "report" / "report.json").read_text())
    check_report(report)
    assert report["recommended"] is None and {row["status"] for row in report["variants"]} == {"fail"}
    assert run_command(copied, ["predict", str(copied / "samples")]) == WRONG_INPUT
    assert not (copied / "device" / "triton").exists()


@pytest.mark.parametrize("most", [None, 0])
def test_an_engine_that_fails_on_the_device_costs_only_its_row(
    copied: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], most: int | None
) -> None:
    """Out of memory when it is loaded, or at its first batch."""
    fail_engine(monkeypatch, "onnxruntime-int8", most, "device.measure")
    assert run_command(copied, ["run"]) == DONE
    assert f"onnxruntime-int8: not measured: {OUT_OF_MEMORY}" in capsys.readouterr().out
    report = json.loads((copied / "device" / "report" / "report.json").read_text())
    check_report(report)
    rows = {row["name"]: row for row in report["variants"]}
    assert rows["onnxruntime-int8"]["status"] == "error" and OUT_OF_MEMORY in rows["onnxruntime-int8"]["reason"]
    assert report["recommended"]["name"] == "onnxruntime-fp32"


def test_where_no_engine_runs_to_its_end_the_gate_has_not_failed(
    copied: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(copied, ["build", "--engine", "onnxruntime-int8"]) == DONE
    assert run_command(copied, ["evaluate"]) == DONE
    with monkeypatch.context() as here:
        fail_engine(here, "onnxruntime-int8", 0, "device.measure")
        assert run_command(copied, ["evaluate"]) == FAILED
        assert "no engine ran to its end" in capsys.readouterr().err
        assert run_command(copied, ["benchmark"]) == FAILED
        assert f"onnxruntime-int8: {OUT_OF_MEMORY}" in capsys.readouterr().err


def test_another_preprocessing_on_the_device_is_an_error(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = copied / "evaluation" / "images.npy"
    np.save(path, np.roll(np.load(path), 3, axis=2))
    reseal(copied)
    assert run_command(copied, ["build"]) == DONE
    assert run_command(copied, ["evaluate"]) == FAILED
    assert "preprocesses images differently from the host" in capsys.readouterr().err


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [cut_short, flip_a_bit, Path.unlink])
@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("graphs/int8-onnxruntime.onnx", "build"),
        ("evaluation/images.npy", "evaluate"), ("evaluation/reference.npz", "evaluate"),
        ("recipe.json", "predict samples"), ("labels.txt", "predict samples"), ("preprocess.json", "report"),
        ("triton/small/1/model.onnx", "check"), ("lib/calib/preprocess.py", "predict samples"), ("README.md", "run"),
    ],
)  # fmt: skip
def test_a_damaged_file_is_refused_before_its_use(
    copied: Path, capsys: pytest.CaptureFixture[str], damage: Any, name: str, command: str
) -> None:
    damage(copied / name)
    assert run_command(copied, command.split()) == WRONG_INPUT
    printed = capsys.readouterr().err
    assert (
        name in printed and "is refused" in printed and "t2t-edge bundle --runs" in printed and "--run small" in printed
    )


@pytest.mark.parametrize("name", ["t2t-library", "manifest"])
def test_damaged_code_is_refused_before_it_runs(copied: Path, bare_python: Path, name: str) -> None:
    if name == "manifest":
        cut_short(copied / MANIFEST)
    else:
        path = copied / "lib" / "pipeline" / "device" / "cli.py"
        path.write_text("raise SystemExit(77)\n" + path.read_text())
    done = on_device(bare_python, copied, "check")
    assert done.returncode == WRONG_INPUT and "is refused" in done.stderr and "t2t-edge bundle" in done.stderr


def test_a_bundle_without_manifest_is_not_whole(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (copied / MANIFEST).unlink()
    assert run_command(copied, ["build"]) == WRONG_INPUT
    assert "not written to its end" in capsys.readouterr().err


def test_an_interrupted_build_goes_on(
    copied: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = device_build.build_row

    def interrupted(spec: Any, *rest: Any) -> dict[str, Any]:
        if spec.precision == "int8":
            raise KeyboardInterrupt
        return real(spec, *rest)

    monkeypatch.setattr(device_build, "build_row", interrupted)
    assert run_command(copied, ["build"]) == FAILED
    assert "finished engines are kept" in capsys.readouterr().err
    assert run_command(copied, ["evaluate"]) == WRONG_INPUT
    assert "the build was interrupted" in capsys.readouterr().err
    assert sorted(path.name for path in (copied / "device" / "build").iterdir()) == ["engines.json", "onnxruntime-fp32"]
    monkeypatch.setattr(device_build, "build_row", real)
    assert run_command(copied, ["build"]) == DONE
    printed = capsys.readouterr().out
    assert "onnxruntime-fp32: unchanged" in printed and "onnxruntime-int8: built" in printed


def test_ctrl_c_ends_with_one_line(copied: Path, bare_python: Path) -> None:
    recipe = json.loads((copied / "recipe.json").read_text())
    recipe["timing"]["rounds"] = 10**6
    write_json(copied / "recipe.json", recipe)
    reseal(copied)
    process = subprocess.Popen(
        [str(bare_python), "t2t", "run"], cwd=copied, env={}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while not (copied / "device" / "evaluation.json").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == FAILED and error.count("\n") == 1 and "interrupted" in error, error


def test_a_damaged_engine_is_refused_and_built_again(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(copied, ["run"]) == DONE
    name = json.loads((copied / "device" / "report" / "report.json").read_text())["recommended"]["name"]
    flip_a_bit(copied / "device" / "build" / name / "engine.onnx")
    capsys.readouterr()
    assert run_command(copied, ["predict", str(copied / "samples")]) == WRONG_INPUT
    assert f"next: {copied / 't2t'} run" in capsys.readouterr().err
    assert run_command(copied, ["benchmark"]) == DONE  # the other engine
    printed = capsys.readouterr().out
    assert f"{name}: not measured: the engine in" in printed and "a file was changed or cut off" in printed
    assert f"next: {copied / 't2t'} build --backend onnxruntime --engine {name}" in printed
    assert run_command(copied, ["build"]) == DONE
    assert f"{name}: built" in capsys.readouterr().out
    assert run_command(copied, ["predict", str(copied / "samples")]) == DONE


def test_engines_of_an_earlier_bundle_are_not_used(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A new bundle copied over the old one, whose results lie there still."""
    assert run_command(copied, ["run"]) == DONE
    without_weights(copied / "graphs" / "int8-onnxruntime.onnx")
    reseal(copied)
    for command in (["evaluate"], ["report"], ["predict", str(copied / "samples")]):
        assert run_command(copied, command) == WRONG_INPUT
        assert "no engines were built from this bundle" in capsys.readouterr().err
    assert run_command(copied, ["build"]) == DONE
    printed = capsys.readouterr().out
    assert "onnxruntime-fp32: unchanged" in printed and "onnxruntime-int8: built" in printed
    sidecar = json.loads((copied / "device" / "build" / "onnxruntime-int8" / SIDECAR).read_text())
    assert sidecar["onnx_sha256"] == sha256_of(copied / "graphs" / "int8-onnxruntime.onnx")


def test_results_belong_to_the_engines_that_stand(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(copied, ["build", "--engine", "onnxruntime-fp32"]) == DONE
    assert run_command(copied, ["evaluate"]) == DONE
    assert run_command(copied, ["build", "--engine", "onnxruntime-int8"]) == DONE
    assert run_command(copied, ["report"]) == WRONG_INPUT
    assert "of other engines than the present ones" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["predict", "nowhere.png"], "no such image, folder or video"),
        (["build", "--engine", "onnxruntime-fp64"], "the bundle has no such engine"),
        (["build", "--backend", "openvino"], "no engines of this backend"),
        (["evaluate"], "no engines were built"),
    ],
)
def test_wrong_use_on_the_device(
    copied: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert run_command(copied, arguments) == WRONG_INPUT
    assert message in capsys.readouterr().err


def test_tensorrt_comes_first_where_it_is(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorrt_backend, "check_available_to_run", lambda: None)
    found = open_bundle(copied)
    assert device_build.choose_backend(found, None) == "tensorrt"
    assert device_build.choose_backend(found, "onnxruntime") == "onnxruntime"
    (engine,) = found.engine_specs("tensorrt", None)
    assert (engine.name, engine.batch_sizes) == ("tensorrt-int8-fp16", (1, 2, 4))


@pytest.fixture
def no_tensorrt_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorRT's build, as far as the engine's folder shows it."""

    def build(onnx_path: Path, path: Path, **_: Any) -> Engine:
        path.write_bytes(b"ptrt" + bytes(64))
        return Engine(path)

    monkeypatch.setattr(tensorrt_backend, "check_available_to_run", lambda: None)
    monkeypatch.setattr(tensorrt_backend, "build", build)
    for module in (engines, device_build):
        monkeypatch.setattr(module, "compute_capability", lambda: "8.7")
        monkeypatch.setattr(module, "backend_version", lambda backend: "10.3.0")


def other_plan(**changes: Any) -> Any:
    """A bundle whose TensorRT engines are to be built otherwise."""

    def edit(copied: Path) -> None:
        recipe = json.loads((copied / "recipe.json").read_text())
        recipe["engines"]["tensorrt"][0] |= changes
        write_json(copied / "recipe.json", recipe)
        reseal(copied)

    return edit


def of_an_earlier_release(copied: Path) -> None:
    path = copied / "device" / "build" / "tensorrt-int8-fp16" / SIDECAR
    values = json.loads(path.read_text())
    del values["batch_sizes"]
    path.write_text(json.dumps(values))


@pytest.mark.usefixtures("no_tensorrt_needed")
@pytest.mark.parametrize(
    ("edit", "expected"),
    [
        (lambda _: None, "unchanged"),
        (other_plan(batch_sizes=[1, 1, 4]), "built"),
        (other_plan(options=asdict(BuildOptions(optimization_level=5))), "built"),
        (of_an_earlier_release, "built"),
    ],
)
def test_an_engine_that_was_built_otherwise_is_built_again(
    copied: Path, capsys: pytest.CaptureFixture[str], edit: Any, expected: str
) -> None:
    assert run_command(copied, ["build"]) == DONE
    edit(copied)
    capsys.readouterr()
    assert run_command(copied, ["build"]) == DONE
    assert f"tensorrt-int8-fp16: {expected}\n" in capsys.readouterr().out


def report_of(monkeypatch: pytest.MonkeyPatch, recommended: dict[str, str] | None) -> None:
    """The report recommends this one, measured so and so, of the engines that stand."""

    def report(state: DeviceState) -> dict[str, Any]:
        rows = [row | {"images_per_s": {"1": 100.0, "4": 200.0}} for row in state.finished_rows()]
        return {"recommended": recommended, "variants": rows}

    monkeypatch.setattr(device_cli, "report", report)
    monkeypatch.setattr(device_cli, "markdown_table", lambda _: "")
    monkeypatch.setattr(device_cli, "recommendation", lambda *_: ("", ""))


TENSORRT, CPU = (
    {"name": "tensorrt-int8-fp16", "backend": "tensorrt"},
    {"name": "onnxruntime-int8", "backend": "onnxruntime"},
)


@pytest.mark.usefixtures("no_tensorrt_needed")
def test_the_triton_model_is_that_of_the_report(
    copied: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another backend's file does not stay beside it, and nothing stays where nothing is recommended or can be served."""
    assert run_command(copied, ["build"]) == run_command(copied, ["build", "--backend", "onnxruntime"]) == DONE
    model = copied / "device" / "triton" / "small"
    for chosen, file in ((CPU, "model.onnx"), (TENSORRT, "model.plan")):
        report_of(monkeypatch, chosen)
        assert run_command(copied, ["report"]) == DONE
        assert [path.name for path in (model / "1").iterdir()] == [file]
        assert "preferred_batch_size: [4] max_queue_delay_microseconds: 10000 " in (model / "config.pbtxt").read_text()
        assert f"tritonserver --model-repository={model.parent}\n" in capsys.readouterr().out
    for lost, reason in ((None, "no engine is recommended"), ({"name": "x", "backend": "openvino"}, "no backend for")):
        report_of(monkeypatch, TENSORRT)
        assert run_command(copied, ["report"]) == DONE and model.is_dir()
        report_of(monkeypatch, lost)
        assert run_command(copied, ["report"]) == (DONE if lost else FAILED)
        assert not model.parent.exists() and reason in capsys.readouterr().out


@pytest.mark.usefixtures("no_tensorrt_needed")
@pytest.mark.parametrize(
    ("options", "written", "printed"),
    [
        (BuildOptions(strip_weights=True), False, "triton: none, because the server cannot put weights into"),
        (BuildOptions(version_compatible=True), True, VERSION_COMPATIBLE),
    ],
)
def test_plans_that_a_server_cannot_load_as_they_are(
    copied: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], options: BuildOptions,
    written: bool, printed: str,
) -> None:  # fmt: skip
    other_plan(options=asdict(options))(copied)
    assert run_command(copied, ["build"]) == DONE
    report_of(monkeypatch, TENSORRT)
    assert run_command(copied, ["report"]) == DONE
    assert printed in capsys.readouterr().out
    config = copied / "device" / "triton" / "small" / "config.pbtxt"
    assert config.exists() is written and (not written or VERSION_COMPATIBLE in config.read_text())


def test_results_may_go_elsewhere(copied: Path, tmp_path: Path) -> None:
    assert run_command(copied, ["build", "--work", str(tmp_path / "work")]) == DONE
    assert (tmp_path / "work" / "build" / "engines.json").is_file() and not (copied / "device").exists()


@pytest.mark.parametrize("command", ["run", "build", "evaluate"])
def test_a_work_folder_that_is_a_file(
    copied: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:  # fmt: skip
    (tmp_path / "file").write_text("mine")
    assert run_command(copied, [command, "--work", str(tmp_path / "file")]) == WRONG_INPUT
    printed = capsys.readouterr().err
    assert command == "evaluate" or ("work folder cannot be written" in printed and "--work DIR" in printed)
    assert (tmp_path / "file").read_text() == "mine"


def test_a_work_folder_on_a_medium_that_cannot_be_written(
    copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A new folder there, and one that was made when it could; a full disk is told as such."""
    real = Path.mkdir

    def mkdir(code: int) -> Any:
        def fail(path: Path, *rest: Any, **named: Any) -> None:
            if path.parent == tmp_path / "work":
                raise OSError(code, os.strerror(code), str(path))
            real(path, *rest, **named)

        return fail

    for code, status, message in (
        (errno.EROFS, WRONG_INPUT, "Read-only file system"), (errno.ENOSPC, FAILED, "the disk is full"),
    ):  # fmt: skip
        with monkeypatch.context() as here:
            here.setattr(Path, "mkdir", mkdir(code))
            assert run_command(copied, ["build", "--work", str(tmp_path / "work")]) == status
        assert message in capsys.readouterr().err
    (tmp_path / "work" / "build").mkdir(parents=True)
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert run_command(copied, ["build", "--work", str(tmp_path / "work")]) == WRONG_INPUT
    printed = capsys.readouterr().err
    assert f"{tmp_path / 'work' / 'build'} cannot be written" in printed and "--work DIR" in printed


def test_a_terminal_without_rich_shows_progress(bare_python: Path, copied: Path) -> None:
    """On a terminal the host draws a bar with rich, which a device has not."""
    code = (
        "import sys; sys.path.insert(0, 'lib'); sys.stdout.isatty = lambda: True\n"
        "from pipeline.console.progress import track; print(list(track([1, 2], 'x')))"
    )
    done = subprocess.run([str(bare_python), "-c", code], cwd=copied, env={}, capture_output=True, text=True)
    assert done.stdout.strip() == "[1, 2]", done.stderr
