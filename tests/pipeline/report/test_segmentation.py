"""The report of a segmentation: its words and figures in report.json, tables, texts and pictures, beside classification's."""

import copy
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from reports import MODE, detailed
from rich.console import Console
from segmented import (
    CLASSES,
    IMAGES,
    NAMES,
    SPEC,
    answers,
    build,
    comparisons,
    inputs,
    maps,
    masks,
    scores,
    segmented,
    write_photos,
)

from calib.errors import InputError
from calib.masks import IGNORED, MaskedSplit
from pipeline.artifact import Artifact
from pipeline.cli import main
from pipeline.console.exit_status import DONE, WRONG_INPUT
from pipeline.report.compare import print_comparison
from pipeline.report.pictures import PICTURES
from pipeline.report.strips import strip_engine, strips
from pipeline.report.terminal import print_table
from pipeline.report.tradeoff import draw_tradeoff
from pipeline.report.values.compared import read_compared
from pipeline.report.values.details import add_details, compare_answers, read_answers
from pipeline.report.values.format import chance_warning, recommendation
from pipeline.report.values.results import results_table, save_results
from pipeline.report.values.schema import check_report
from pipeline.report.write import write_report
from pipeline.tasks.pixel_comparison import enough_images
from pipeline.tasks.pixels import NO_CLASS
from pipeline.tasks.task import task_named

# What DESIGN promises to others, written out again on purpose.
TOP_KEYS = [
    "schema", "run", "model", "task", "dataset", "machine", "preprocess_sha256", "gate", "variants", "recommended", "reference",
    "enough_images",
]  # fmt: skip
TOP_1 = re.compile(r"top.?[15]", re.IGNORECASE)


@pytest.fixture(scope="module")
def made() -> dict[str, Any]:
    return segmented()


@pytest.fixture
def report(made: dict[str, Any]) -> dict[str, Any]:
    return copy.deepcopy(made)


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> MaskedSplit:
    return write_photos(tmp_path_factory.mktemp("photos"))


def row(report: dict[str, Any], name: str) -> dict[str, Any]:
    return next(variant for variant in report["variants"] if variant["name"] == name)


def terminal(printed: Any, what: Any) -> str:
    buffer = io.StringIO()
    printed(what, Console(file=buffer, width=120, force_terminal=True, color_system=None))
    return buffer.getvalue()


def test_report_json_says_its_task_and_has_the_tasks_keys(report: dict[str, Any]) -> None:
    assert list(report) == TOP_KEYS and report["task"] == "segmentation"
    assert report["gate"] == {"min_relative_miou": 0.99}
    assert list(report["variants"][0])[5:10] == ["miou", "pixel_accuracy", "delta_miou_pp", "ci95_pp", "agreement"]
    assert report["reference"] == {"name": "PyTorch FP32"} | scores(maps())
    assert "task" not in detailed(), "classification says nothing of it"


def test_the_fastest_that_keeps_its_miou_is_recommended(report: dict[str, Any]) -> None:
    assert report["recommended"] == {"name": "openvino-int8", "backend": "openvino"}
    assert [v["name"] for v in report["variants"] if v["pareto"]] == [
        "onnxruntime-fp32",
        "openvino-fp16",
        "openvino-int8",
    ]
    fastest = min((v for v in report["variants"] if v["latency_ms"]), key=lambda v: v["latency_ms"]["p50"])
    assert (fastest["name"], fastest["status"]) == ("tensorrt-int8", "fail")


def change(*path: str | int, value: Any) -> Any:
    def made(report: dict[str, Any]) -> None:
        part: Any = report
        for key in path[:-1]:
            part = part[key]
        part[path[-1]] = value

    return made


IN_2 = ("variants", 2, "comparison")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (change("task", value="classification"), "gate.min_relative_top1: Field required"),
        (change("task", value="detection"), "task is 'detection', allowed: classification, segmentation"),
        (change("task", value=["segmentation"]), "task is ['segmentation']"),
        (lambda r: r.pop("task"), "gate.min_relative_miou: Extra inputs"),
        (change("gate", value={"min_relative_top1": 0.99}), "gate.min_relative_miou: Field required"),
        (change("gate", "min_relative_miou", value=1.5), "less than or equal to 1"),
        (change("variants", 0, "top1", value=88.0), "variants.0.top1: Extra inputs"),
        (lambda r: r["variants"][0].pop("pixel_accuracy"), "variants.0.pixel_accuracy: Field required"),
        (change("variants", 0, "miou", value=100.5), "variants.0.miou: Input should be less than or equal to 100"),
        (change("variants", 0, "miou", value=float("nan")), "variants.0.miou: Input should be a finite number"),
        (change("variants", 0, "miou", value=None), "has status pass but not all of its accuracy"),
        (change("variants", 4, "miou", value=80.0), "is unavailable, yet has measurements"),
        (change("variants", 0, "pareto", value=False), "the Pareto front is"),
        (change("recommended", value=None), "it recommends None"),
        (change("reference", "top1", value=88.0), "reference.top1: Extra inputs"),
        (change(*IN_2, "gained", value=3), "comparison.gained: Extra inputs"),
        (change(*IN_2, "lost_pixels", value=-1), "lost_pixels: Input should be greater than or equal to 0"),
        (change(*IN_2, "lost_pixels", value=3), "its pixels say"),
        (change(*IN_2, "per_class", value=[]), "per_class: List should have at least 1 item"),
        (change(*IN_2, "per_class", 0, "iou", value=10.0), "openvino-int8 has an mIoU of"),
        (change(*IN_2, "per_class", 0, "reference_iou", value=10.0), "openvino-int8 lost"),
        (change(*IN_2, "per_class", 0, "images", value=3), "per_class.0.images: Extra inputs"),
        (change(*IN_2, "images", 0, "differing", value=101.0), "images.0.differing: Input should be less than"),
        (change("variants", 4, "comparison", value=comparisons()["openvino-int8"]), "has a comparison but no accuracy"),
    ],
)
def test_the_schema_refuses_what_a_segmentation_may_not_hold(report: dict[str, Any], wrong: Any, message: str) -> None:
    check_report(report)
    wrong(report)
    with pytest.raises(ValueError, match=re.escape(message)):
        check_report(report)


def test_classification_refuses_the_keys_of_segmentation() -> None:
    report = detailed()
    with pytest.raises(ValueError, match="task: Extra inputs"):
        check_report(report | {"task": "classification"})
    report["variants"][0]["miou"] = 80.0
    with pytest.raises(ValueError, match=r"variants\.0\.miou: Extra inputs"):
        check_report(report)


def test_every_table_and_text_has_the_tasks_words(report: dict[str, Any], tmp_path: Path, split: MaskedSplit) -> None:
    write_report(report, tmp_path, report["reference"], MODE, (), strips(report, answers(), split, SPEC), "data: {}\n")
    markdown, html = ((tmp_path / f"report.{kind}").read_text(encoding="utf-8") for kind in ("md", "html"))
    shown = terminal(print_table, report)
    found = row(report, "openvino-int8")
    assert "| mIoU % | Δ mIoU pp [95 %] |" in markdown and f"| {found['miou']:.2f} |" in markdown
    assert (
        f"{report['reference']['pixel_accuracy']:.2f} % pixel accuracy" in markdown and "99 % of its mIoU" in markdown
    )
    assert "share of pixels with the same class" in markdown and "mean, over the classes" in markdown
    assert re.search(r"precision +mIoU +Δ pp \[95 %\]", shown) and f"{found['miou']:.2f} % mIoU" in shown
    table = results_table([("a machine", report)])
    assert table.startswith("| Model, data | Machine | Engine | mIoU % |") and f"| {found['miou']:.2f} |" in table
    script = html.split("<script>")[1]
    assert "/^(mIoU|Pixel|Agreement|" in script and "point.miou" in script and "point.delta_miou_pp" in script
    for text in (markdown, html, shown, table):
        assert TOP_1.search(re.sub(r"base64,[\w+/=]+|sha256[- ][\w+/=]+", "", text)) is None


def test_the_picture_has_the_tasks_axis(report: dict[str, Any]) -> None:
    """The same figures under another name are another picture only where the axis is named."""
    pictures = [draw_tradeoff(report, report["reference"])]
    renamed = json.loads(json.dumps(report).replace('"miou"', '"top1"').replace("_miou", "_top1"))
    del renamed["task"]
    pictures.append(draw_tradeoff(renamed, renamed["reference"]))
    first, second = (np.asarray(Image.open(io.BytesIO(picture)).convert("RGB")).astype(int) for picture in pictures)
    rows, columns = np.nonzero((first != second).any(axis=-1))
    assert len(rows) > 50 and columns.max() < 60, "the label of the upright axis"


def test_a_device_writes_it_too() -> None:
    """Without comparisons, which need the host's images."""
    report = build(*inputs())
    assert recommendation(report)[0].endswith("% mIoU, 14.0 ms at batch 1") and chance_warning(report) == ""
    for variant in report["variants"]:
        variant |= {"status": "fail", "reason": "no"} if variant["status"] == "pass" else {}
    assert "no engine keeps 99 % of FP32's mIoU" in recommendation(report | {"recommended": None})[0]


def test_a_network_that_is_no_better_than_one_class_everywhere_is_not_simply_recommended(
    report: dict[str, Any],
) -> None:
    assert chance_warning(report) == ""
    pixels = {one["label"]: one["pixels"] for one in row(report, "openvino-int8")["comparison"]["per_class"]}
    trivial = 100 * pixels["background"] / sum(pixels.values()) / len(pixels)
    constant = np.zeros_like(maps())
    assert scores(constant)["miou"] == pytest.approx(trivial), "the formula is that of a map of one class"
    for variant in report["variants"]:
        if variant["miou"] is not None:
            variant["miou"] = trivial + variant["delta_miou_pp"]
    said = f"no better than calling every pixel background, which has {trivial:.2f} %"
    assert said in chance_warning(report) and said in recommendation(report)[0]
    for variant in report["variants"]:
        if variant["miou"] is not None:
            variant["miou"] += 0.01
    assert chance_warning(report) == ""


def judged(*drops: float, status: str = "pass") -> list[dict[str, Any]]:
    return [{"status": status, "comparison": {"smallest_drop_pp": drop}} for drop in drops]


def test_images_are_enough_where_the_interval_is_as_narrow_as_the_gate() -> None:
    found = enough_images([*judged(0.3, 1.6), *judged(9.0, status="fail"), {"status": "error"}], 100, 80.0, 0.99)
    assert found["gate_drop_pp"] == pytest.approx(0.8) and found["smallest_drop_pp"] == 1.6
    assert found["images_needed"] in (400, 401) and found["enough"] is False, "twice as wide: four times as many"
    assert enough_images(judged(0.7), 100, 80.0, 0.99)["enough"] is True
    assert enough_images(judged(9.0, status="fail"), 100, 80.0, 0.99)["smallest_drop_pp"] == 9.0, "where none passes"
    nothing = {"smallest_drop_pp": None, "images_needed": None, "enough": False}
    assert enough_images([], 100, 80.0, 0.99).items() >= nothing.items()
    assert enough_images(judged(0.0), 100, 80.0, 1.0)["images_needed"] is None, "a gate that allows nothing"


def write_runs(folder: Path) -> tuple[Path, Path]:
    """report.json of a segmentation and of a classification."""
    paths = folder / "scenes.json", folder / "demo.json"
    for path, report in zip(paths, (segmented(), detailed()), strict=True):
        path.write_text(json.dumps(report), encoding="utf-8")
    return paths


def test_runs_of_different_tasks_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scenes, demo = write_runs(tmp_path)
    assert main(["report", "--compare", str(scenes), str(demo), "--out", str(tmp_path / "out")]) == WRONG_INPUT
    said = capsys.readouterr().err
    assert "runs of different tasks cannot be compared" in said
    assert "segmentation: scenes; classification: demo" in said and not (tmp_path / "out").exists()


def test_runs_of_a_segmentation_side_by_side(tmp_path: Path) -> None:
    scenes, _ = write_runs(tmp_path)
    other = tmp_path / "other.json"
    other.write_text(
        json.dumps(segmented("other", 0.5) | {"dataset": segmented()["dataset"] | {"name": "x"}}), encoding="utf-8"
    )
    assert main(["report", "--compare", str(scenes), str(other), "--out", str(tmp_path / "out")]) == DONE
    html = (tmp_path / "out" / "compare.html").read_text(encoding="utf-8")
    shown = terminal(print_comparison, read_compared([scenes, other]))
    for text in (html, shown):
        assert (
            "so their mIoU cannot be compared" in " ".join(text.split())
            and TOP_1.search(text.split("base64")[0]) is None
        )
    assert "<th scope=col>mIoU %</th>" in html and re.search(r"engine +mIoU", shown)


def test_results_are_kept_by_task(tmp_path: Path) -> None:
    place = save_results([segmented()], tmp_path, "Orin")
    assert place.name == "orin-segmentation.json"
    assert [c.label for c in read_compared([save_results([segmented("other")], tmp_path, "Orin")])] == [
        "other",
        "scenes",
    ]
    with pytest.raises(InputError, match="a results file holds one task"):
        save_results([detailed()], place, "Orin")


def test_stored_answers_are_read_and_compared(tmp_path: Path, split: MaskedSplit) -> None:
    kept = answers()
    np.savez_compressed(tmp_path / "reference.npz", maps=kept.reference, labels=kept.labels)
    graph = {"graph:int8": maps(2, 0.3)}
    np.savez_compressed(tmp_path / "maps.npz", **(kept.engines | graph))  # type: ignore[arg-type]
    stage = Artifact(tmp_path, "", dict.fromkeys(("reference.npz", "maps.npz"), ""), {}, {}, 0.0)
    task = task_named("segmentation")
    found = read_answers(stage, stage, task)
    assert list(found.engines) == list(kept.engines) and found.engines["openvino-int8"].dtype == np.uint8
    assert compare_answers(found, split, SPEC, task) == comparisons()
    for other in (split.take(range(1, IMAGES)), split.take(range(IMAGES)[::-1])):
        with pytest.raises(ValueError, match="is not what was evaluated"):
            compare_answers(found, other, SPEC, task)


def picture(data: bytes) -> Any:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def test_strips_show_the_images_that_an_int8_engine_changes_most(report: dict[str, Any], split: MaskedSplit) -> None:
    found = PICTURES["segmentation"](report, answers(), split, SPEC)
    assert found.engine == "openvino-int8"
    names = [strip.image for strip in found.strips]
    assert names == [one["image"] for one in row(report, found.engine)["comparison"]["images"]] and len(names) == 6
    assert [name for name, _ in found.legend] == [*CLASSES[:5]] and found.hatched, "the masks have ignored pixels"
    index = NAMES.index(names[0])
    photo, truth, before, after, differing = map(picture, found.strips[0].pictures)
    assert {one.shape for one in (photo, truth, before, after, differing)} == {(96, 128, 3)}
    wanted = answers().engines[found.engine][index] != maps()[index]
    assert np.array_equal((differing == (208, 0, 111)).all(axis=-1), wanted) and wanted.any()
    assert np.array_equal((before != after).any(axis=-1), wanted), "another class is another colour"
    colours = dict(found.legend)
    assert np.array_equal((truth == tuple(bytes.fromhex(colours["boat"][1:]))).all(axis=-1), masks()[index] == 3)
    assert photo.std() > 20


def test_large_pictures_are_thinned_and_no_colour_is_made_up(
    split: MaskedSplit, report: dict[str, Any], monkeypatch: Any
) -> None:
    monkeypatch.setattr("pipeline.report.strips._LARGEST", 50)
    found = strips(report, answers(), split, SPEC)
    assert found is not None
    shapes, colours = set(), set()
    for strip in found.strips:
        photo, *drawn, differing = map(picture, strip.pictures)
        shapes |= {one.shape for one in (photo, *drawn, differing)}
        colours |= {tuple(colour) for one in drawn for colour in one.reshape(-1, 3).tolist()}
        index, kept = NAMES.index(strip.image), answers()
        changed = kept.engines[found.engine][index] != kept.reference[index]
        marked = (differing == (208, 0, 111)).all(axis=-1).sum()
        assert changed.sum() / 9 <= marked <= changed.sum(), "a single pixel that differs stays"
    assert shapes == {(32, 42, 3)}
    named = {tuple(bytes.fromhex(colour[1:])) for _, colour in found.legend}
    assert colours <= named | {(128,) * 3, (190,) * 3}


def test_which_engine_is_shown(report: dict[str, Any]) -> None:
    def shown() -> str:
        engine = strip_engine(report)
        return engine["name"] if engine else ""

    assert shown() == "openvino-int8", "recommended, and INT8"
    row(report, "tensorrt-int8")["status"] = "pass"
    report["recommended"] = {"name": "tensorrt-int8", "backend": "tensorrt"}
    assert shown() == "tensorrt-int8"
    report["recommended"] = {"name": "openvino-fp16", "backend": "openvino"}
    assert shown() == "openvino-int8", "the first INT8 one that passes"
    row(report, "openvino-fp16")["layers"] = {"int8": 3, "fp16": 0, "fp32": 9}
    assert shown() == "openvino-fp16", "a mix with layers in INT8 is one"
    for variant in report["variants"]:
        variant |= {"status": "fail", "layers": None, "precision": "fp16"}
    assert shown() == "openvino-fp16", "the first that differs"
    for variant in report["variants"]:
        variant.pop("comparison", None)
    assert shown() == ""


def test_an_engine_without_a_class_anywhere_is_reported(split: MaskedSplit) -> None:
    """All pixels NaN: mIoU 0, nothing agrees, and the strip is hatched."""
    evaluation, benchmark = inputs()
    nothing = np.full_like(maps(), NO_CLASS)
    kept = answers()
    kept.engines["tensorrt-int8"] = nothing
    failed = evaluation["variants"][3]
    failed |= scores(nothing) | {"delta_miou_pp": -scores(maps())["miou"], "agreement": 0.0}
    report = build(evaluation, benchmark)
    report = add_details(
        report, evaluation["reference"], compare_answers(kept, split, SPEC, task_named("segmentation")), benchmark
    )
    assert row(report, "tensorrt-int8")["miou"] == 0
    for variant in report["variants"][:3]:
        variant.pop("comparison")
    found = strips(report, kept, split, SPEC)
    assert found is not None and found.engine == "tensorrt-int8" and found.hatched
    assert set(np.unique(picture(found.strips[0].pictures[3]))) == {128, 190}
    assert (masks() == IGNORED).any()
