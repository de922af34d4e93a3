"""What goes into a bundle, written from a real run."""

import ast
import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from bundles import RECIPE, reseal
from small_run import write_run

from calib.preprocess import Preprocess
from export.engines.tensorrt.options import BuildOptions
from pipeline.artifact import write_json
from pipeline.cli import main
from pipeline.console.exit_status import DONE, FAILED, WRONG_INPUT, GateFailed
from pipeline.device import bundle
from pipeline.device import modules as bundle_modules
from pipeline.device.choice import choose
from pipeline.device.contents import MANIFEST, BackendPlan, open_bundle

PLAIN: dict[str, Any] = {"options": {}, "targets": []}  # of an entry of `build`, as a recipe writes it out
ROOT = Path(__file__).parents[3]


def test_the_bundle_holds_what_a_device_needs(bundled_run: Path) -> None:
    run_folder = bundled_run / "runs" / "small"
    found = open_bundle(run_folder / "bundle", "all")
    recipe = found.recipe
    (cpu,), (gpu,) = recipe.engines["onnxruntime"], recipe.engines["tensorrt"]
    assert cpu.precisions == ("fp32", "int8")
    assert gpu.precisions == ("int8-fp16",) and gpu.batch_sizes == (1, 2, 4)
    assert recipe.left_out == {} and len(recipe.samples) == 3
    assert found.images().shape == (24, 32, 32, 3) and found.images().dtype == np.uint8
    reference, labels, graphs = found.reference()
    assert reference.shape == (24, 3) and np.bincount(labels).tolist() == [8, 8, 8]
    assert set(graphs) == {"graph:fp32", "graph:int8-onnxruntime", "graph:int8-fp16"}
    assert np.abs(graphs["graph:fp32"] - reference).max() < 2e-3
    for precision in ("fp32", "int8-onnxruntime", "int8-fp16"):
        assert found.graph(precision).read_bytes() == (run_folder / "quantize" / f"{precision}.onnx").read_bytes()
    assert any(node.op_type == "QuantizeLinear" for node in onnx.load(found.graph("int8-fp16")).graph.node)
    listed = set(json.loads((found.folder / MANIFEST).read_text())["files"])
    assert listed == {p.relative_to(found.folder).as_posix() for p in found.folder.rglob("*") if p.is_file()} - {
        MANIFEST
    }


def test_our_files_are_copied_as_they_are(bundled_run: Path) -> None:
    library = bundled_run / "runs" / "small" / "bundle" / "lib"
    copied = sorted(path.relative_to(library) for path in library.rglob("*.py"))
    assert copied == bundle_modules.device_modules() and len(copied) > 20
    assert all((library / place).read_bytes() == (ROOT / place).read_bytes() for place in copied)
    assert (library.parent / "t2t").read_bytes() == (ROOT / bundle_modules.ENTRY).read_bytes()
    assert os.access(library.parent / "t2t", os.X_OK)


@pytest.mark.parametrize("place", [Path(bundle_modules.ENTRY), *bundle_modules.device_modules()], ids=str)
def test_every_file_of_a_device_is_python_3_10_without_host_packages(place: Path) -> None:
    """Its syntax; the standard library of 3.10 is what mypy is set to (pyproject.toml)."""
    ast.parse((ROOT / place).read_text(encoding="utf-8"), feature_version=(3, 10))
    assert bundle_modules.host_packages(place) == set()


def test_host_packages_are_found_wherever_they_are_imported() -> None:
    assert {"torch", "onnx"} <= bundle_modules.host_packages(
        Path("pipeline/quantize/export_stage.py")
    )  # through others
    assert "pydantic" in bundle_modules.host_packages(Path("pipeline/report/write.py"))
    with pytest.raises(SyntaxError):
        ast.parse("try: ...\nexcept* OSError: ...", feature_version=(3, 10))


def fake_run(*rows: tuple[str, str, str], backends: tuple[str, ...] = ("onnxruntime", "tensorrt")) -> Any:
    """What `choose` reads of a run, from (backend, precision, status)."""
    variants = [
        {
            "name": f"{backend}-{precision}",
            "backend": backend,
            "precision": precision,
            "status": status,
            "reason": "why",
        }
        for backend, precision, status in rows
    ]
    build = [
        {"backend": backend, "precisions": [row[1] for row in rows if row[0] == backend], "batch_sizes": [1, 1, 8]} | PLAIN
        for backend in backends if any(row[0] == backend for row in rows)
    ]  # fmt: skip
    made = {"build": SimpleNamespace(notes={"engines": [{"backend": row[0], "precision": row[1]} for row in rows]})}
    return SimpleNamespace(folder=Path("runs/x"), report={"variants": variants}, parts={"build": build}, artifacts=made)


def test_a_run_for_cpus_says_that_it_has_no_graph_with_fp16() -> None:
    run = fake_run(("onnxruntime", "fp32", "pass"), ("onnxruntime", "int8", "pass"))
    graphs = {"fp32": "", "int8": "", "int8-onnxruntime": ""}
    found = choose(run, None, graphs)
    assert {name: plan.precisions for name, (plan,) in found.engines.items()} == {
        "tensorrt": ("fp32", "int8"), "onnxruntime": ("fp32", "int8")
    }  # fmt: skip
    assert list(found.left_out) == ["tensorrt in FP16"] and "int8-fp16" in found.left_out["tensorrt in FP16"]


def test_engines_that_pytorch_runs_stay_out_and_say_so() -> None:
    rows = ("tensorrt", "fp16", "unavailable"), ("pytorch", "fp32", "pass"), ("inductor", "int8", "pass")
    graphs = {"fp32": "", "int8": "", "int8-onnxruntime": "", "fp16": ""}
    found = choose(fake_run(*rows), None, graphs)
    assert set(found.engines) == {"tensorrt", "onnxruntime"}
    assert (
        set(found.left_out) == {"pytorch-fp32", "inductor-int8"}
        and "a device has none" in found.left_out["inductor-int8"]
    )
    found = choose(fake_run(*rows), "inductor-int8", graphs)
    assert list(found.left_out) == ["inductor-int8"] and found.graphs() == ["int8", "int8-onnxruntime"]


def test_what_failed_the_gate_stays_out() -> None:
    run = fake_run(
        ("onnxruntime", "fp32", "pass"), ("onnxruntime", "int8", "fail"), ("tensorrt", "fp16", "unavailable"),
        ("tensorrt", "int8-fp16", "unavailable"),
    )  # fmt: skip
    graphs = {"fp32": "", "int8": "", "int8-onnxruntime": "", "fp16": "", "int8-fp16": "top-1 is under"}
    found = choose(run, None, graphs)
    assert {name: plan.precisions for name, (plan,) in found.engines.items()} == {
        "tensorrt": ("fp16",), "onnxruntime": ("fp32",)
    }  # fmt: skip
    assert found.left_out == {"graph int8-fp16": "top-1 is under", "onnxruntime-int8": "why"}
    assert choose(run, "tensorrt-fp16", graphs).graphs() == ["fp16"]
    with pytest.raises(GateFailed, match="why"):
        choose(run, "onnxruntime-int8", graphs)
    with pytest.raises(GateFailed, match="top-1 is under"):
        choose(run, "tensorrt-int8-fp16", graphs)


def test_two_entries_of_one_backend_both_go_along(bundled_run: Path, tmp_path: Path) -> None:
    """Each with its own batch sizes and options; the second was the only one once."""
    run = fake_run(("tensorrt", "fp16", "unavailable"), ("tensorrt", "int8", "unavailable"))
    run.parts["build"] = [
        PLAIN
        | {
            "backend": "tensorrt",
            "precisions": ["fp16"],
            "batch_sizes": [1, 1, 8],
            "options": {"optimization_level": 5},
        },
        {"backend": "tensorrt", "precisions": ["int8"], "batch_sizes": [1, 8, 16]} | PLAIN,
    ]
    graphs = {"fp16": "", "int8": "", "int8-onnxruntime": ""}
    found = choose(run, None, graphs)
    assert found.engines["tensorrt"] == (
        BackendPlan(("fp16",), (1, 1, 8), BuildOptions(optimization_level=5)),
        BackendPlan(("int8",), (1, 8, 16), BuildOptions()),
    )
    assert found.graphs() == ["fp16", "int8", "int8-onnxruntime"]
    (narrowed,) = choose(run, "tensorrt-int8", graphs).engines["tensorrt"]
    assert (narrowed.precisions, narrowed.batch_sizes) == (("int8",), (1, 8, 16))
    (added,) = choose(run, "tensorrt-int8", graphs).engines["onnxruntime"]
    assert (added.precisions, added.batch_sizes) == (("int8",), (1, 1, 8))


def test_an_engine_is_built_as_the_entry_for_its_gpu_says(copied: Path) -> None:
    """Two entries of TensorRT-RTX with one precision; elsewhere the first."""
    plans = [
        {"precisions": ["int8"], "batch_sizes": [1, 1, size], "options": {}, "targets": [target]}
        for size, target in ((8, "sm86"), (32, "sm120"))
    ]
    recipe = json.loads((copied / "recipe.json").read_text())
    recipe["engines"]["tensorrt_rtx"] = plans
    write_json(copied / "recipe.json", recipe)
    reseal(copied)
    found = open_bundle(copied)
    for target, largest in (("sm120", 32), ("sm86", 8), ("sm89", 8)):
        (engine,) = found.engine_specs("tensorrt_rtx", target)
        assert (engine.name, engine.batch_sizes) == (f"tensorrt_rtx-int8-{target}", (1, 1, largest))


def test_a_bundle_of_fp8_alone_has_no_triton_model(
    image_root: Path, spec: Preprocess, tmp_path: Path
) -> None:  # fmt: skip
    """The server's ONNX Runtime backend cannot serve it; the hand-written graph plays FP8."""
    values = RECIPE | {
        "data": {"name": "three classes", "root": str(image_root)},
        "quantize": {"precisions": ["fp32", "fp8"]},
        "build": [{"backend": "onnxruntime", "precisions": ["fp32"]}, {"backend": "tensorrt", "precisions": ["fp8"]}],
    }
    write_run(tmp_path / "runs" / "small", values, spec)
    options = ["--runs", str(tmp_path / "runs"), "--run", "small", "--images", "6"]
    assert main(["bundle", *options, "--engine", "tensorrt-fp8"]) == DONE
    found = open_bundle(tmp_path / "runs" / "small" / "bundle", "all")
    assert found.recipe.triton_precision is None and not (found.folder / "triton").exists()
    assert "There is no `triton/` here" in (found.folder / "README.md").read_text()
    assert main(["bundle", *options]) == DONE
    assert (found.folder / "triton" / "small" / "1" / "model.onnx").is_file()


def test_the_model_of_the_bundle_has_the_rates_of_its_row(bundled_run: Path) -> None:
    report = json.loads((bundled_run / "runs" / "small" / "report" / "report.json").read_text())
    bundle_folder = bundled_run / "runs" / "small" / "bundle"
    precision = open_bundle(bundle_folder).recipe.triton_precision
    (row,) = [row for row in report["variants"] if row["name"] == f"onnxruntime-{precision}"]
    measured = ", ".join(f"{size}: {rate:.4g}" for size, rate in row["images_per_s"].items())
    assert f"# images a second by batch size: {measured}\n" in (bundle_folder / "triton/small/config.pbtxt").read_text()


def test_a_cpu_engine_of_fp8_is_never_planned() -> None:
    found = choose(fake_run(("tensorrt", "fp8", "unavailable")), None, {"fp8": ""})
    assert set(found.engines) == {"tensorrt"}


def test_bf16_is_planned_for_openvino_alone() -> None:
    run = fake_run(("openvino", "bf16", "unavailable"), ("onnxruntime", "fp32", "pass"))
    run.parts["build"].append({"backend": "openvino", "precisions": ["bf16"], "batch_sizes": [1, 1, 8], "options": {},
                               "targets": ()})  # fmt: skip
    found = choose(run, None, {"fp32": ""})
    planned = {
        backend: [name for plan in plans for name in plan.precisions] for backend, plans in found.engines.items()
    }
    assert planned["openvino"] == ["bf16"] and planned.pop("openvino") and planned
    assert all("bf16" not in names for names in planned.values())


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--run", "smal"], WRONG_INPUT, "smal: there is no such folder; did you mean small?"),
        (["--engine", "onnxruntime-fp64"], WRONG_INPUT, "no such engine in the report"),
        (["--images", "0"], WRONG_INPUT, "needs evaluation images"),
        (["--output", "taken"], WRONG_INPUT, "something else where the bundle would go"),
    ],
)
def test_wrong_use(
    bundled_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    arguments: list[str], status: int, message: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "thesis.tex").write_text("mine")
    options = ["--runs", str(bundled_run / "runs"), "--run", "small", "--output", "new", *arguments]
    assert main(["bundle", *options]) == status
    printed = capsys.readouterr().err
    assert (message in printed and "next: " in printed) or "allowed: " in printed
    assert (tmp_path / "taken" / "thesis.tex").read_text() == "mine" and not (tmp_path / "new").exists()


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device"), RuntimeError("broken")])
def test_a_failed_bundle_leaves_the_earlier_one(
    bundled_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    output = shutil.copytree(bundled_run / "runs" / "small" / "bundle", tmp_path / "bundle")

    def fail(_: Path) -> None:
        raise error

    monkeypatch.setattr(bundle, "_write_code", fail)
    options = ["--runs", str(bundled_run / "runs"), "--run", "small", "--output", str(output), "--images", "3"]
    assert main(["bundle", *options]) == FAILED
    assert len(open_bundle(output, "all").images()) == 24
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_results_of_a_device_are_not_overwritten(
    bundled_run: Path, copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (copied / "device").mkdir()
    assert (
        main(["bundle", "--runs", str(bundled_run / "runs"), "--run", "small", "--output", str(copied)]) == WRONG_INPUT
    )
    assert "holds what a device measured" in capsys.readouterr().err


def test_images_that_changed_since_are_noticed(
    bundled_run: Path, tmp_path: Path, image_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The run's images are replaced by others of the same names."""
    runs = shutil.copytree(bundled_run / "runs", tmp_path / "runs")
    images = shutil.copytree(image_root, tmp_path / "images")
    for label, other in (("class_0", "class_1"), ("class_1", "class_2")):
        for path in (image_root / "val" / other).iterdir():
            shutil.copyfile(path, images / "val" / label / path.name)
    for manifest in runs.glob("small/*/manifest.json"):
        manifest.write_text(manifest.read_text().replace(str(image_root), str(images)))
    assert main(["bundle", "--runs", str(runs), "--run", "small"]) == WRONG_INPUT
    assert "are not those this run was evaluated on" in capsys.readouterr().err
