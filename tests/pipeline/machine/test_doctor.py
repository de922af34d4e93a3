"""What `doctor` finds and advises, on this machine and on one that tells what a Jetson tells."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from export.engines.tensorrt import backend as tensorrt_backend
from export.runner import Unavailable
from pipeline.cli import main
from pipeline.console.exit_status import DONE, FAILED
from pipeline.machine import doctor, jetson
from pipeline.machine.known_bad import known_problem

RELEASE = "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64, DATE: Wed Jan  8 01:49:37 UTC 2025\n"


@pytest.mark.parametrize(
    ("name", "version", "message"),
    [
        ("tensorrt", "10.3.0.26", "reports of wrong results for ViTs"),
        ("tensorrt", "10.4.0", "reports of wrong results for ViTs"),
        ("tensorrt", "8.6.1", "too old"),
        ("tensorrt", "10.16.1", None),
        ("onnxruntime", "1.23.2", "truncates in FP16"),
        ("onnxruntime", "1.31.0", None),
        ("onnxruntime", "2.0.0", None),
        ("torch", "2.13.0+cpu", "torchvision and timm do not import"),
        ("torch", "2.12.1", None),
    ],
)
def test_known_bad_versions(name: str, version: str, message: str | None) -> None:
    problem = known_problem(name, version, {"torchvision": "0.28.0"})
    assert (problem is None) if message is None else (problem is not None and message in problem.what and problem.fix)


def test_a_cpu_only_pair_of_torch_and_torchvision_is_fine() -> None:
    assert known_problem("torch", "2.13.0+cpu", {"torchvision": "0.28.0+cpu"}) is None


def test_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == DONE
    printed = capsys.readouterr().out
    for word in ("Machine", "Packages", "Engines", "opencv", "onnxruntime", "tensorrt_rtx", "Engines can run here"):
        assert word in printed, word


@pytest.mark.parametrize(("flags", "status"), [([], "note"), (["amx_bf16"], "ok")])
def test_whether_the_cpu_has_bf16(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], flags: list[str], status: str
) -> None:
    monkeypatch.setattr(doctor, "bf16_instructions", lambda: flags)
    assert main(["doctor", "--json"]) == DONE
    (row,) = [row for row in json.loads(capsys.readouterr().out)["findings"] if row["item"] == "bf16"]
    assert (row["status"], row["found"]) == (status, ", ".join(flags) or "none")
    assert ("need AVX512_BF16 or AMX_BF16" in row["detail"]) == (not flags)


def test_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json"]) == DONE
    answer = json.loads(capsys.readouterr().out)
    rows = {row["item"]: row for row in answer["findings"]}
    assert answer["can_run"] and rows["onnxruntime"]["status"] in ("ok", "bad")
    assert {"python", "cpu", "opencv", "numpy", "torch", "tensorrt", "executorch"} <= set(rows)
    assert all(row["fix"] or row["detail"] for row in rows.values() if row["status"] in ("missing", "bad"))


def backend(version: str | None, check: Callable[[], None]) -> SimpleNamespace:
    """A backend's file as the doctor sees it."""
    return SimpleNamespace(
        version=lambda: version, check_available_to_build=check, check_available_to_run=check,
        INSTALL="pip install -e '.[x]'", INSTALL_ON_DEVICE="pip install x",
    )  # fmt: skip


def test_no_engine_at_all_is_a_failure(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def missing() -> None:
        raise Unavailable("not here: pip install -e '.[x]'")

    monkeypatch.setattr(doctor, "backend_module", lambda _: backend(None, missing))
    assert main(["doctor"]) == FAILED
    assert "No engine can run here" in capsys.readouterr().out
    assert not doctor.print_doctor(as_json=True, device=True)
    answer = json.loads(capsys.readouterr().out)
    assert "executorch" not in {row["item"] for row in answer["findings"]}, "a device is no phone"
    assert "pip install -e" not in json.dumps(answer) and all(
        row["fix"] for row in answer["findings"] if row["group"] == "engine"
    )


def test_a_bad_tensorrt_is_marked(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(doctor, "BACKENDS", ("tensorrt",))
    monkeypatch.setattr(doctor, "backend_module", lambda _: backend("10.3.0", lambda: None))
    assert doctor.print_doctor(as_json=False)
    printed = capsys.readouterr().out
    assert "bad      10.3.0" in printed and "known to be bad: 1" in printed and "fix: " in printed


@pytest.fixture
def orin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The files that a Jetson Orin Nano has, as far as they are read, and an `nvpmodel` in 15 W mode."""
    texts = {
        "proc/device-tree/model": "NVIDIA Jetson Orin Nano Developer Kit\0",
        "etc/nv_tegra_release": RELEASE,
        "proc/meminfo": "MemTotal:        7802000 kB\nMemAvailable:    5000000 kB\nSwapTotal:             0 kB\n",
    }
    for name, text in texts.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    tool = tmp_path / "bin" / "nvpmodel"
    tool.parent.mkdir()
    tool.write_text("#!/bin/sh\necho 'NV Power Mode: 15W'\necho 0\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}:/usr/bin:/bin")
    return tmp_path


def test_what_a_jetson_tells(orin: Path) -> None:
    assert jetson.jetson_model(orin) == "NVIDIA Jetson Orin Nano Developer Kit"
    assert jetson.l4t_release(orin) == "36.4.3" and jetson.jetpack_release("36.4.3") == "6.2"
    assert jetson.power_mode() == "15W"
    assert jetson.memory_bytes(orin) == {"MemTotal": 7802000 << 10, "MemAvailable": 5000000 << 10, "SwapTotal": 0}


def test_no_jetson(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "proc/device-tree").mkdir(parents=True)
    (tmp_path / "proc/device-tree/model").write_text("Raspberry Pi 5\0")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert jetson.jetson_model(tmp_path) is None and jetson.l4t_release(tmp_path) is None
    assert jetson.jetpack_release(None) is None and jetson.power_mode() is None and jetson.memory_bytes(tmp_path) == {}


def test_the_table_of_a_jetson(orin: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("jetson_model", "l4t_release", "memory_bytes"):
        real = getattr(jetson, name)
        monkeypatch.setattr(doctor, name, lambda real=real: real(orin))
    doctor.print_doctor(as_json=False, device=True)
    printed = capsys.readouterr().out
    for text in (
        "Orin Nano",
        "36.4.3 (JetPack 6.2)",
        "note     15W",
        "sudo nvpmodel -m 0",
        "swap 0.0 GiB",
        "sudo swapon /swap",
    ):
        assert text in printed, text


@pytest.mark.skipif(tensorrt_backend.version() is not None, reason="TensorRT is installed here")
def test_tensorrt_is_missed_with_its_fix(capsys: pytest.CaptureFixture[str]) -> None:
    main(["doctor", "--json"])
    (row,) = [row for row in json.loads(capsys.readouterr().out)["findings"] if row["item"] == "tensorrt"]
    assert row["status"] == "missing" and "python3-libnvinfer" in row["fix"]
