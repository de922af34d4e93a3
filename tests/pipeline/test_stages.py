"""What makes a stage run again: the keys that it reads, the engines that it runs, and no more."""

import sys
from pathlib import Path
from typing import Any

import pytest

from pipeline.commands.dry_run import plan_stages
from pipeline.data.look import Look
from pipeline.recipe import Recipe
from pipeline.run.code import code_of
from pipeline.run.identify import identify
from pipeline.run.identity import Identity, differences
from pipeline.run.work import find_work, prepare_work
from pipeline.stages import STAGES

BY_NAME = {stage.name: stage for stage in STAGES}
RTX = {"backend": "tensorrt_rtx", "precisions": ["int8"], "targets": ["sm86"]}
PLAIN = {"backend": "openvino", "precisions": ["fp32", "auto"]}
PHONE = {"backend": "executorch", "precisions": ["fp32", "int8"]}


def recipe(root: Path, **parts: Any) -> Recipe:
    values = {
        "schema": 1, "data": {"name": "three classes", "root": str(root)}, "model": {"name": "any", "image_size": 32},
        "quantize": {"precisions": ["fp32", "int8", "auto", "int8-qat"]},
        "build": [PLAIN],
    }  # fmt: skip
    return Recipe.model_validate({
        key: values[key] | parts.get(key, {}) if isinstance(values.get(key), dict) else parts.get(key, values.get(key))
        for key in values.keys() | parts.keys()
    })  # fmt: skip


def stages_changed(root: Path, **parts: Any) -> set[str]:
    """Stages whose own key is another with these values than without; what their inputs become is not looked at."""
    before, after = recipe(root), recipe(root, **parts)
    keys = {stage.name: [identify(stage, one, {}, Look(one)).key for one in (before, after)] for stage in STAGES}
    return {name for name, (one, two) in keys.items() if one != two} - {"report"}  # which shows the whole recipe


@pytest.mark.parametrize(
    ("parts", "changed"),
    [
        ({"quantize": {"precisions": ["fp32", "fp16", "int8", "auto", "int8-qat"]}}, {"quantize"}),
        ({"evaluate": {"batch_size": 7}}, {"evaluate"}),
        ({"build": [{"backend": "openvino", "precisions": ["fp32", "int8"]}, RTX]}, {"build", "evaluate", "benchmark"}),
        ({"build": [{"backend": "openvino", "precisions": ["auto"], "batch_sizes": [1, 4, 4]}]}, {"build", "search"}),
        ({"build": [PLAIN, PHONE | {"precisions": ["fp32"]}]}, {"build", "evaluate", "benchmark"}),
        ({"build": [PLAIN, PHONE]}, {"quantize", "build", "evaluate", "benchmark"}),
        ({"quantize": {"policy": "full"}}, {"quantize", "qat"}),
        ({"quantize": {"exclude": ["x"]}}, {"quantize", "qat", "search"}),
        ({"quantize": {"method": "mse"}}, {"quantize", "qat", "search", "sensitivity"}),
        ({"quantize": {"weight_bits": 4}}, {"quantize", "qat", "search", "sensitivity"}),
        ({"qat": {"epochs": 3}}, {"qat"}),
        ({"train": {"horizontal_flip": 0.1}}, {"train", "qat"}),
        ({"train": {"epochs": 3}}, {"train"}),
        ({"search": {"images": 99}}, {"search"}),
        ({"gate": {"min_relative_top1": 0.9}}, {"search", "evaluate"}),
        ({"benchmark": {"batch_sizes": [1, 16]}}, {"benchmark"}),
        ({"benchmark": {"calls": 9}}, {"benchmark", "search"}),
    ],
)
def test_a_key_is_made_of_what_its_stage_reads(image_root: Path, parts: dict[str, Any], changed: set[str]) -> None:
    """One more precision, backend or image at a time trains and searches nothing again."""
    assert stages_changed(image_root, **parts) == changed


@pytest.mark.parametrize(
    ("backend", "changed"),
    [("tensorrt", {"search"}), ("tensorrt_rtx", {"visualize"}), ("openvino", {"build", "evaluate", "benchmark"})],
)
def test_the_engine_that_a_stage_runs_is_part_of_its_key(
    image_root: Path, monkeypatch: pytest.MonkeyPatch, backend: str, changed: set[str]
) -> None:
    """Also where `build` makes none of that backend."""
    chosen = recipe(image_root, search={"backend": "tensorrt"}, visualize={"backend": "tensorrt_rtx"})

    def keys(version: str) -> dict[str, str]:
        monkeypatch.setattr("pipeline.run.identify.backend_version", lambda name: version if name == backend else "1")
        return {stage.name: identify(stage, chosen, {}, Look(chosen)).key for stage in STAGES}

    before, after = keys("1"), keys("2")
    assert {name for name in before if before[name] != after[name]} == changed


def test_targets_are_part_of_the_key_where_feature_maps_are_an_engine_ahead_of_time(image_root: Path) -> None:
    def key(backend: str, target: str) -> str:
        build = [RTX | {"targets": [target]}]
        chosen = recipe(image_root, visualize={"backend": backend}, build=build)
        return identify(BY_NAME["visualize"], chosen, {}, Look(chosen)).key

    assert key("tensorrt_rtx", "sm86") != key("tensorrt_rtx", "sm89")
    assert key("onnxruntime", "sm86") == key("onnxruntime", "sm89")


def test_a_dry_run_tells_whose_interrupted_work_there_is(image_root: Path, tmp_path: Path) -> None:
    def reason(chosen: Recipe) -> str:
        return plan_stages(chosen, tmp_path, "train", Look(chosen))[0].reasons[0]

    begun, other = recipe(image_root), recipe(image_root, train={"lr": 0.1})
    assert reason(begun) == "it has not run yet"
    work = tmp_path / ".train.partial"
    work.mkdir()
    (work / ".key").write_text(key := identify(BY_NAME["train"], begun, {}, Look(begun)).key)
    assert reason(begun) == "it was interrupted, and goes on from there"
    assert reason(other).startswith("it has not run yet with these values")
    aside = work.rename(tmp_path / f".train.partial.{key[:8]}")
    assert reason(begun) == "it was interrupted, and goes on from there" and reason(other) == "it has not run yet"
    assert find_work(BY_NAME["train"], tmp_path / "train", key) == aside


def test_what_changed_of_the_images_is_said_as_far_as_it_is_known() -> None:
    """A set that was not read before is new; of an earlier version's result it is not known what the images held."""
    found = Identity("calibrate", False, {}, {}, {"train": "2", "calibrate.source": "1"}, {}, "", {})
    earlier = {"schema": 2, "images": {"train": "1", "val": "1"}, "code": ""}
    assert differences(earlier, found, (), {"train": "1 of 60 changed"}) == [
        "images: calibrate.source is new", "images: val is not used any more", "images: train has changed (1 of 60 changed)",
    ]  # fmt: skip
    (line,) = differences(earlier | {"schema": 1}, found, (), {})
    assert "an earlier version of t2t-edge noted" in line and "changed" not in line


@pytest.mark.parametrize("package", ["", "raise RuntimeError('imported')"])
def test_a_factorys_file_is_found_in_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    """The installed command does not import from there by itself: an edited network was taken for the one that was exported."""
    monkeypatch.chdir(tmp_path)
    here = {"", str(tmp_path), str(Path.cwd())}
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place not in here])
    (tmp_path / "broken_package").mkdir()
    (tmp_path / "broken_package" / "__init__.py").write_text(package)
    (tmp_path / "own_network.py").write_text("def make(): ...")
    before = code_of(BY_NAME["export"], "own_network:make")
    (tmp_path / "own_network.py").write_text("def make(): return 1")
    assert code_of(BY_NAME["export"], "own_network:make") != before
    assert code_of(BY_NAME["export"], "broken_package.network:make") == code_of(BY_NAME["export"], None)


def test_works_without_a_key_are_all_kept(tmp_path: Path) -> None:
    """Whatever has taken the file away: each may be days of training."""
    said: list[str] = []
    for content in (b"first", b"second"):
        work = tmp_path / ".train.partial"
        work.mkdir(exist_ok=True)
        (work / ".key").unlink(missing_ok=True)
        (work / "last.pt").write_bytes(content)
        prepare_work(BY_NAME["train"], tmp_path / "train", "0" * 64, said.append)
    kept = sorted((path / "last.pt").read_bytes() for path in tmp_path.glob(".train.partial.*"))
    assert kept == [b"first", b"second"] and len(said) == 4
