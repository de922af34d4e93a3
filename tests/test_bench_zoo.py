"""`make zoo`: its networks are the points of a sweep, and a row is what a point came to."""

import argparse
import json
from pathlib import Path

from bench.zoo import keep_rows, wanted, write_sweep
from bench.zoo_networks import FORTY

from pipeline.sweep.planning.file import load_sweep
from pipeline.sweep.planning.points import make_points

ENGINES = ("onnxruntime", "openvino")


def options_in(folder: Path, **changes: object) -> argparse.Namespace:
    page = folder / "page.md"
    page.write_text("before\n<!-- zoo -->\n<!-- /zoo -->\nafter\n", encoding="utf-8")
    values = {
        "folder": folder, "results": folder / "zoo.json", "page": page, "size": None, "epochs": 2, "again": False,
        "retry": False, "keep": True,
    }  # fmt: skip
    return argparse.Namespace(**(values | changes))


def variant(name: str, p50: float) -> dict[str, object]:
    return {
        "name": name, "status": "pass", "reason": "", "agreement": 99.5, "layers": {"int8": 20, "fp32": 1},
        "latency_ms": {"p50": p50}, "sha256": "0" * 64,
    }  # fmt: skip


def write_run(folder: Path, name: str) -> None:
    """The files of a finished run that a row is read from."""
    rows = [
        variant(f"{engine}-{precision}", p50) for engine in ENGINES for precision, p50 in (("fp32", 4.0), ("int8", 2.0))
    ]
    (folder / "zoo" / name / "report").mkdir(parents=True)
    (folder / "zoo" / name / "export").mkdir()
    (folder / "zoo" / name / "report" / "report.json").write_text(
        json.dumps({"variants": [*rows, variant("tensorrt_rtx-int8-fp16-sm86", 0.0)]}), encoding="utf-8"
    )
    for stage in ("report", "export"):
        values = {"seconds": 20.4, "notes": {"way": "dynamo"}}
        (folder / "zoo" / name / stage / "manifest.json").write_text(json.dumps(values), encoding="utf-8")


def test_every_network_is_a_point(tmp_path: Path) -> None:
    path = write_sweep(list(FORTY), options_in(tmp_path))
    points = make_points(load_sweep(path), path)
    assert [point.name for point in points] == list(FORTY) == [point.recipe.model.name for point in points]
    assert {point.recipe.train.epochs for point in points} == {2}
    sizes = {point.name: point.recipe.model.image_size for point in points}
    assert (sizes["resnet18"], sizes["maxvit_rmlp_pico_rw_256"], sizes["vit_small_patch14_reg4_dinov2"]) == (
        224,
        256,
        224,
    )


def test_rows_are_what_the_points_came_to(tmp_path: Path) -> None:
    options = options_in(tmp_path)
    names = ["resnet18", "resnet50", "regnetx_002"]
    write_sweep(names, options)
    recipes = tmp_path / "zoo" / "recipes"
    recipes.mkdir(parents=True)
    for name in names:
        (recipes / f"{name}.yaml").write_text("{model: {image_size: 224}, train: {epochs: 2}}", encoding="utf-8")
    write_run(tmp_path, "resnet18")
    points = [{"name": "resnet50", "status": "failed", "reason": "RuntimeError: no"}]
    (tmp_path / "zoo" / "sweep.json").write_text(json.dumps({"points": points}), encoding="utf-8")
    keep_rows(names, options)
    rows = json.loads(options.results.read_text(encoding="utf-8"))
    assert set(rows) == {"resnet18", "resnet50"}, "regnetx_002 has not come to an end"
    assert rows["resnet18"]["engines"]["openvino"]["speed"] == 2.0 and rows["resnet18"]["seconds"] == 41
    assert rows["resnet50"]["failed"] == "RuntimeError: no"
    page = options.page.read_text(encoding="utf-8")
    assert "| `resnet18` | CNN | 224 | dynamo | 20 of 21 | 99.5 | 2.00 |" in page and "failed: RuntimeError: no" in page
    assert [name for name in names if wanted(rows.get(name), options)] == ["regnetx_002"]
    assert [name for name in names if wanted(rows.get(name), options_in(tmp_path, retry=True))] == names[1:]
