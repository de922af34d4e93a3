import copy
import io
import itertools
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from reports import MODE, NO_GPU, REFERENCE, build, inputs, measured
from rich.console import Console

from pipeline.report.terminal import print_table
from pipeline.report.tradeoff import draw_tradeoff
from pipeline.report.tradeoff_labels import place_labels
from pipeline.report.values import rows as report_rows
from pipeline.report.values.format import recommendation
from pipeline.report.values.markdown import markdown_table
from pipeline.report.values.schema import check_report
from pipeline.report.values.schema_common import Dataset, Machine
from pipeline.report.values.schema_tasks import SCHEMAS, VARIANTS
from pipeline.report.write import write_report
from pipeline.tasks.words import WORDS, Words

# What DESIGN promises to others, written out again on purpose: a change of report.json must fail here.
TOP_KEYS = {"schema", "run", "model", "dataset", "machine", "preprocess_sha256", "gate", "variants", "recommended"}
VARIANT_KEYS = {
    "name", "precision", "backend", "status", "reason", "top1", "top5", "delta_top1_pp", "ci95_pp", "agreement",
    "latency_ms", "images_per_s", "size_bytes", "peak_memory_bytes", "energy_mj", "layers", "pareto", "artifact",
    "sha256",
}  # fmt: skip


def _row(report: dict[str, Any], name: str) -> dict[str, Any]:
    (row,) = [variant for variant in report["variants"] if variant["name"] == name]
    return row


class _Page(HTMLParser):
    """Tags, the texts of table rows by `tbody`, and everything a page would load."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: set[str] = set()
        self.open: list[str] = []
        self.bodies: list[tuple[str, str]] = []
        self.sources: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.tags.add(tag)
        self.sources += [values[key] or "" for key in ("src", "href", "srcset") if key in values]
        if tag == "tbody":
            self.bodies.append((values["class"] or "", ""))
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes something else"

    def handle_data(self, data: str) -> None:
        if "tbody" in self.open:
            kind, text = self.bodies[-1]
            self.bodies[-1] = (kind, f"{text} {data}")


def _terminal(report: dict[str, Any], width: int = 100) -> str:
    buffer = io.StringIO()
    print_table(report, Console(file=buffer, width=width, force_terminal=True, color_system=None))
    return buffer.getvalue()


def test_the_report_has_exactly_the_promised_keys() -> None:
    report = build(*inputs())
    assert set(report) == TOP_KEYS
    assert report["schema"] == 1
    assert set(report["dataset"]) == {"name", "classes", "eval_images", "calibration_images"}
    assert set(report["machine"]) == {"cpu", "gpu", "versions"}
    assert report["gate"] == {"min_relative_top1": 0.99}
    assert all(set(variant) == VARIANT_KEYS for variant in report["variants"])
    assert set(_row(report, "openvino-int8")["latency_ms"]) == {"p50", "p90", "p99"}
    assert set(_row(report, "openvino-int8")["images_per_s"]) == {"1", "8"}
    assert _row(report, "tensorrt_rtx-int8-fp16-sm86")["layers"] == {"int8": 24, "fp16": 70, "fp32": 3}


def test_what_was_not_measured_is_null() -> None:
    evaluation, benchmark = inputs()
    del benchmark["variants"]["onnxruntime-fp32"]
    del benchmark["variants"]["onnxruntime-fp16"]["images_per_s"]["8"]
    report = build(evaluation, benchmark)
    unavailable = _row(report, "tensorrt_rtx-int8-fp16-sm120")
    accuracy = ("top1", "top5", "delta_top1_pp", "ci95_pp", "agreement")
    speed = ("latency_ms", "images_per_s", "peak_memory_bytes", "energy_mj")
    assert [unavailable[key] for key in accuracy + speed] == [None] * 9
    assert [_row(report, "onnxruntime-fp32")[key] for key in speed] == [None] * 4
    assert _row(report, "onnxruntime-fp32")["top1"] == 88.1
    assert _row(report, "onnxruntime-fp16")["images_per_s"] == {"1": 1000 / 3.92, "8": None}


def test_building_leaves_its_inputs_alone() -> None:
    evaluation, benchmark = inputs()
    before = copy.deepcopy((evaluation, benchmark))
    build(evaluation, benchmark)
    assert (evaluation, benchmark) == before


def test_pareto_is_among_those_that_pass_and_the_fastest_of_them_is_recommended() -> None:
    report = build(*inputs())
    assert {v["name"] for v in report["variants"] if v["pareto"]} == {"openvino-fp32", "openvino-fp16", "openvino-int8"}
    assert report["recommended"] == {"name": "openvino-int8", "backend": "openvino"}
    faster = _row(report, "openvino-int8-fp16")
    assert faster["status"] == "fail"
    assert faster["latency_ms"]["p50"] < _row(report, "openvino-int8")["latency_ms"]["p50"]


def test_an_engine_that_is_slower_than_fp32_on_its_backend_says_so() -> None:
    """Neither noise nor another backend's FP32 counts; an engine that failed has its own reason."""
    evaluation, benchmark = inputs()
    benchmark["variants"]["openvino-fp16"] = measured(1.04 * 2.02)
    report = build(evaluation, benchmark)
    said = {row["name"]: row["reason"] for row in report["variants"] if row["status"] == "pass" and row["reason"]}
    slower = "slower than FP32 on the same backend: {} ms against 2.41 at batch 1"
    assert said == {
        "onnxruntime-fp16": slower.format("3.92"), "onnxruntime-int8": slower.format("4.13"),
        "onnxruntime-int8-fp16": slower.format("4.40"),
    }  # fmt: skip
    assert (
        said["onnxruntime-int8"] in _terminal(report).replace("\n", " ")
        and "below the gate" in _row(report, "openvino-int8-fp16")["reason"]
    )
    benchmark["variants"]["onnxruntime-int8"]["images_per_s"]["8"] = 2000.0
    assert (
        _row(build(evaluation, benchmark), "onnxruntime-int8")["reason"]
        == slower.format("4.13") + "; faster at batch 8"
    )
    benchmark["variants"].pop("onnxruntime-fp32")
    assert not any(row["reason"] for row in build(evaluation, benchmark)["variants"] if row["status"] == "pass")


def test_equally_fast_the_more_accurate_is_recommended() -> None:
    evaluation, benchmark = inputs()
    benchmark["variants"]["onnxruntime-int8-fp16"] = measured(1.43)
    report = build(evaluation, benchmark)
    assert report["recommended"] == {"name": "onnxruntime-int8-fp16", "backend": "onnxruntime"}
    assert not _row(report, "openvino-int8")["pareto"]


@pytest.mark.parametrize("dropped", ["pass", "latency"])
def test_nothing_is_recommended_when_nothing_passes_or_nothing_that_passes_was_timed(dropped: str) -> None:
    evaluation, benchmark = inputs()
    for row in evaluation["variants"]:
        if dropped == "latency" and row["status"] == "pass":
            benchmark["variants"].pop(row["name"])
        elif dropped == "pass" and row["status"] == "pass":
            row.update(status="fail", reason="a stricter gate")
    report = build(evaluation, benchmark)
    assert report["recommended"] is None
    assert not any(variant["pareto"] for variant in report["variants"])
    shown = _terminal(report)
    assert "Recommended: none" in shown
    assert ("t2t-edge benchmark --run demo" if dropped == "latency" else "make export RUN=demo") in shown
    assert "predict" not in shown


def test_a_benchmark_of_other_engines_is_refused() -> None:
    evaluation, benchmark = inputs()
    benchmark["variants"]["openvino-int4"] = measured(1.0)
    with pytest.raises(ValueError, match=r"\['openvino-int4'\].*run both stages again"):
        build(evaluation, benchmark)


def _set(*path: str | int, value: Any) -> Any:
    def change(report: dict[str, Any]) -> None:
        part: Any = report
        for key in path[:-1]:
            part = part[key]
        part[path[-1]] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_set("extra", value=1), "extra: Extra inputs"),
        (_set("schema", value=2), "schema: Input should be 1"),
        (_set("variants", 0, "target", value=None), "variants.0.target: Extra inputs"),
        (_set("dataset", "mean", value=0.5), "dataset.mean: Extra"),
        (lambda r: r["variants"][0].pop("energy_mj"), "variants.0.energy_mj: Field required"),
        (lambda r: r["variants"][0]["latency_ms"].pop("p90"), "latency_ms.p90: Field required"),
        (_set("variants", 0, "top1", value="88.1"), "variants.0.top1: Input should be a valid number"),
        (_set("variants", 0, "top1", value=True), "variants.0.top1: Input should be a valid number"),
        (_set("variants", 0, "top1", value=0.881e3), "variants.0.top1: Input should be less than or equal to 100"),
        (_set("variants", 0, "agreement", value=float("nan")), "agreement: Input should be a finite number"),
        (_set("variants", 0, "ci95_pp", value=[0.0]), "ci95_pp: List should have at least 2"),
        (_set("variants", 0, "status", value="ok"), "variants.0.status: Input should be 'pass'"),
        (_set("variants", 0, "images_per_s", value={"b1": 1.0}), "images_per_s.b1"),
        (_set("variants", 0, "sha256", value="abc"), "variants.0.sha256"),
        (_set("variants", 0, "agreement", value=None), "has status pass but not all of its accuracy"),
        (_set("variants", 0, "artifact", value=None), "passes, so it needs its artifact"),
        (_set("variants", 7, "reason", value=" "), "has status fail and no reason"),
        (_set("variants", 8, "top1", value=88.0), "is unavailable, yet has measurements"),
        (_set("variants", 1, "name", value="onnxruntime-fp32"), "variant names must differ"),
        (_set("variants", 0, "pareto", value=True), "flagged is"),
        (_set("recommended", value={"name": "openvino-int8-fp16", "backend": "openvino"}), "it recommends"),
        (_set("recommended", value=None), "it recommends None"),
    ],
)
def test_check_report_names_what_is_wrong(change: Any, message: str, tmp_path: Path) -> None:
    report = build(*inputs())
    check_report(report)
    change(report)
    with pytest.raises(ValueError, match=re.escape(message)):
        check_report(report)
    with pytest.raises(ValueError, match=re.escape(message)):
        write_report(report, tmp_path / "report", REFERENCE, MODE)
    assert not (tmp_path / "report").exists()


def test_a_message_about_another_file_stays_short() -> None:
    """A file of other keys has as many problems as keys; the message names twelve and counts the rest."""
    with pytest.raises(
        ValueError, match=r"(?s)this is not a report:.*schema: Field required.*and 597 more$"
    ) as stopped:
        check_report({f"t2t_vit_mini fp16 {row}": {} for row in range(600)})
    assert str(stopped.value).count("\n") == 13


def test_the_four_files_are_written_and_json_reads_back(tmp_path: Path) -> None:
    report = build(*inputs())
    write_report(report, tmp_path / "report", REFERENCE, MODE)
    found = sorted(path.name for path in (tmp_path / "report").iterdir())
    assert found == ["report.html", "report.json", "report.md", "tradeoff.png"]
    assert json.loads((tmp_path / "report" / "report.json").read_text(encoding="utf-8")) == report


def test_the_picture_is_a_picture_and_shows_failures_in_red() -> None:
    evaluation, benchmark = inputs()
    picture = draw_tradeoff(build(evaluation, benchmark), REFERENCE)
    image = Image.open(io.BytesIO(picture))
    image.load()
    assert image.size == (1280, 800)
    pixels = np.asarray(image.convert("RGB")).astype(int)
    inside = pixels[120:640, 140:1000]
    assert len(np.unique(inside.reshape(-1, 3), axis=0)) > 50
    evaluation["variants"][7].update(top1=88.0, delta_top1_pp=-0.1, status="pass", reason="")
    healed = draw_tradeoff(build(evaluation, benchmark), REFERENCE)
    healed_pixels = np.asarray(Image.open(io.BytesIO(healed)).convert("RGB")).astype(int)[120:640, 140:1000]

    def red(part: Any) -> int:
        return int(((part[..., 0] > 170) & (part[..., 1] < 60) & (part[..., 2] < 70)).sum())

    assert red(inside) > red(healed_pixels) + 300, "the failing variant's marker and label are red"


def test_the_picture_is_drawn_when_nothing_was_measured_and_when_names_hold_dollars() -> None:
    evaluation, benchmark = inputs()
    evaluation["dataset"]["name"] = "a $broken_{ dataset$"
    benchmark["variants"] = {}
    assert draw_tradeoff(build(evaluation, benchmark), REFERENCE).startswith(b"\x89PNG")


@pytest.mark.parametrize("seed", range(5))
def test_labels_overlap_neither_each_other_nor_a_marker_nor_the_edge(seed: int) -> None:
    generator = np.random.default_rng(seed)
    anchors = [(float(x), float(y)) for x, y in generator.uniform((150, 150), (900, 600), (14, 2))]
    sizes = [(float(width), 24.0) for width in generator.uniform(100, 260, 14)]
    bounds, radius = (100.0, 100.0, 1050.0, 650.0), 10.0
    centres = place_labels(anchors, sizes, bounds, [], radius=radius, gap=4)
    boxes = [
        (x - w / 2, y - h / 2, x + w / 2, y + h / 2) for (x, y), (w, h) in zip(centres, sizes, strict=True)
    ]  # fmt: skip
    markers = [(x - radius, y - radius, x + radius, y + radius) for x, y in anchors]
    for a, b in [*itertools.combinations(boxes, 2), *itertools.product(boxes, markers)]:
        assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1], (a, b)
    for left, bottom, right, top in boxes:
        assert left >= 100 and bottom >= 100 and right <= 1050 and top <= 650


def test_a_label_steps_aside_for_a_line_but_stays_beside_its_marker() -> None:
    (free,) = place_labels([(500.0, 300.0)], [(200.0, 24.0)], (0, 0, 1000, 600), [], radius=10, gap=4)
    line = (0.0, 299.0, 1000.0, 301.0)
    (moved,) = place_labels([(500.0, 300.0)], [(200.0, 24.0)], (0, 0, 1000, 600), [line], radius=10, gap=4)
    assert free == (614, 300)
    assert abs(moved[1] - 300) > 12
    assert abs(moved[0] - 500) < 150 and abs(moved[1] - 300) < 60


def test_html_escapes_everything_loads_nothing_and_is_well_formed(tmp_path: Path) -> None:
    evil = '<script>alert("x")</script>&"\''
    evaluation, benchmark = inputs()
    evaluation["dataset"].update(name=f"data{evil}", classes=[f"class{evil}", "b"])
    evaluation["variants"][8]["reason"] = f"reason{evil}\nsecond line"
    evaluation["variants"][6].update(name=f"name{evil}", precision=f"p{evil}", artifact=f"a{evil}")
    benchmark["variants"][f"name{evil}"] = benchmark["variants"].pop("openvino-int8")
    benchmark["machine"].update(cpu=f"cpu{evil}", gpu=f"gpu{evil}", versions={f"k{evil}": f"v{evil}"})
    reference = REFERENCE | {"name": f"ref{evil}"}
    report = build(evaluation, benchmark, run=f"run{evil}", model=f"model{evil}")
    write_report(report, tmp_path, reference, MODE | {"note": evil})
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    page = _Page(text)
    assert text.count("<script") == 2 and "<script>alert" not in text, "the data and our own script"
    assert page.open == []
    assert all(source.startswith(("data:image/png;base64,", "#section-")) for source in page.sources)
    assert any("reason" in body and evil in body for _, body in page.bodies)
    markdown = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "<script" not in re.sub(r"`[^`\n]*`", "", markdown), "outside code, where Markdown would pass it on"
    assert f"name{evil}" in _terminal(report, width=200)


def test_failed_and_unavailable_rows_stay_marked_with_their_reason(tmp_path: Path) -> None:
    report = build(*inputs())
    write_report(report, tmp_path, REFERENCE, MODE)
    bodies = _Page((tmp_path / "report.html").read_text(encoding="utf-8")).bodies
    assert len(bodies) == 11
    assert bodies[7][0] == "fail"
    assert "openvino-int8-fp16" in bodies[7][1] and "✗ fail" in bodies[7][1] and "below the gate" in bodies[7][1]
    assert bodies[6][0] == "pass chosen"
    for kind, body in bodies[8:]:
        assert kind == "unavailable" and NO_GPU in body and "sm" in body
    terminal, flat = _terminal(report), " ".join(_terminal(report).split())
    assert re.search(r"openvino +int8-fp16 +72\.84 .* fail", terminal)
    assert "openvino-int8-fp16 (fail) top-1 72.84 % is below the gate" in flat
    names = "tensorrt_rtx-int8-fp16-sm86, tensorrt_rtx-int8-fp16-sm89, tensorrt_rtx-int8-fp16-sm120 (unavailable)"
    assert f"{names} {NO_GPU}" in flat


def test_report_md_has_every_row_and_the_shared_table(tmp_path: Path) -> None:
    evaluation, benchmark = inputs()
    evaluation["variants"][8]["reason"] = "one | two\nthree"
    report = build(evaluation, benchmark)
    write_report(report, tmp_path, REFERENCE, MODE)
    table, page = markdown_table(report), (tmp_path / "report.md").read_text(encoding="utf-8")
    assert table in page
    rows = [line for line in table.splitlines() if line.startswith("|")]
    assert len(rows) == 2 + 11
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {12}
    assert "| **openvino-int8** | openvino | int8 | 87.90 | −0.20 [−0.50, 0.00] | 98.00 | 1.43 | 699 | 1748 |" in table
    assert "- tensorrt_rtx-int8-fp16-sm86 (unavailable): one \\| two three\n" in table
    assert "t2t-edge predict --run demo IMAGE" in page and "make export RUN=demo" in page
    assert "10 rounds of 30 calls for each engine and batch size, or as many as fit into 10 s, engines" in page
    assert "2 threads" in page and "87.22 %" in page


def test_the_terminal_table_fits_100_columns_and_ends_with_the_next_command() -> None:
    report = build(*inputs())
    lines = _terminal(report).rstrip().splitlines()
    assert max(map(len, lines)) <= 100
    assert "…" not in "".join(lines)
    assert lines[-2].startswith("Recommended: openvino-int8, 87.90 % top-1, 1.43 ms")
    assert lines[-1] == "Next: t2t-edge predict --run demo IMAGE"
    row = next(line for line in lines if re.match(r"openvino +int8 ", line))
    assert re.search(r"87\.90 +−0\.20 \[−0\.50, 0\.00\] +98\.0 +1\.43 +699 +1748 +5\.0 +pass \*", row)


def test_a_narrow_terminal_gets_the_table_without_intervals() -> None:
    lines = _terminal(build(*inputs()), width=82).splitlines()
    table = lines[: next(i for i, line in enumerate(lines) if line.startswith("*"))]
    assert max(map(len, table)) <= 82
    assert re.search(r"openvino +int8 +87\.90 +−0\.20 +98\.0", "\n".join(table))


def test_a_backtick_does_not_end_the_command_in_report_md(tmp_path: Path) -> None:
    write_report(build(*inputs(), run="a`<b>`"), tmp_path, REFERENCE, MODE)
    assert "Next: `` t2t-edge predict --run 'a`<b>`' IMAGE ``" in (tmp_path / "report.md").read_text(encoding="utf-8")


def test_a_run_name_with_a_space_is_quoted_in_the_next_command() -> None:
    assert "t2t-edge predict --run 'my run' IMAGE" in _terminal(build(*inputs(), run="my run"))


def test_classes_without_evaluation_images_are_said_everywhere(tmp_path: Path) -> None:
    evaluation, benchmark = inputs()
    names = ["bag", "<boot>", "coat", "dress", "shirt", "sandal"]
    evaluation["dataset"]["classes_without_images"] = names
    report = build(evaluation, benchmark)
    write_report(report, tmp_path, REFERENCE, MODE)
    assert json.loads((tmp_path / "report.json").read_text())["dataset"]["classes_without_images"] == names
    said = "6 of 10 classes without evaluation images, so how well they are recognised is not known: bag, "
    assert f"Warning: {said}<boot>, coat, dress, shirt and 1 more" in " ".join(_terminal(report).split())
    assert f"**Warning:** {said}&lt;boot&gt;, coat, dress, shirt and 1 more.\n" in (tmp_path / "report.md").read_text()
    assert (
        f"<b>Warning:</b> {said}&lt;boot&gt;, coat, dress, shirt and 1 more</p>"
        in (tmp_path / "report.html").read_text()
    )
    other = build(*inputs())
    write_report(other, tmp_path / "other", REFERENCE, MODE)
    shown = [_terminal(other), *((tmp_path / "other" / name).read_text() for name in ("report.md", "report.html"))]
    assert "classes_without_images" not in other["dataset"] and not any(
        "evaluation images, so" in text for text in shown
    )
    with pytest.raises(ValueError, match=r"dataset\.classes_without_images"):
        check_report(report | {"dataset": report["dataset"] | {"classes_without_images": []}})


@pytest.mark.parametrize("words", WORDS.values(), ids=list(WORDS))
def test_a_device_writes_the_keys_of_the_schema(words: Words) -> None:
    """`report_rows` has no pydantic, so it lists them again."""
    keys = set(report_rows.variant_keys(words))
    assert keys | {"comparison", "percentiles_ms", "on_gpu"} == set(VARIANTS[words.task].model_fields)
    assert set(report_rows.DATASET_KEYS) | set(report_rows.OPTIONAL_DATASET_KEYS) == set(Dataset.model_fields)
    assert set(report_rows.MACHINE_KEYS) == set(Machine.model_fields)
    assert set(SCHEMAS) == set(VARIANTS) == set(WORDS)


def test_a_network_at_chance_level_is_not_simply_recommended(tmp_path: Path) -> None:
    """Top-1 of 33 to 40 % on 30 images of three classes could be luck; the engine stays recommended, and it is said."""
    evaluation, benchmark = inputs()
    evaluation["dataset"] |= {"classes": 3, "eval_images": 30}
    for variant in evaluation["variants"]:
        if variant["top1"] is not None:
            variant["top1"] = 40.0 + variant["delta_top1_pp"]
    report = build(evaluation, benchmark)
    assert report["recommended"] is not None
    assert "no better than guessing among 3 classes" in recommendation(report)[0]
    write_report(report, tmp_path, REFERENCE, MODE)
    for name in ("report.md", "report.html"):
        assert "no better than guessing" in (tmp_path / name).read_text(), name
    evaluation["dataset"]["eval_images"] = 3000
    assert "guessing" not in recommendation(build(evaluation, benchmark))[0], "3,000 images tell 40 % from 33"


def test_layers_in_fp8_are_counted_and_other_kinds_refused() -> None:
    report = build(*inputs())
    counted = next(variant for variant in report["variants"] if variant["layers"])
    counted["layers"] = counted["layers"] | {"fp8": 10}
    check_report(report)
    counted["layers"] = counted["layers"] | {"fp7": 10}
    with pytest.raises(ValueError, match="fp7"):
        check_report(report)
