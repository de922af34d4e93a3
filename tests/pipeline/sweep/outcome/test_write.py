"""The files and the terminal: what they hold is what the points hold."""

import csv
import dataclasses
import json
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from rich.console import Console
from sweeps import AXES, grid, outcome, point, small, small_engines

from pipeline.sweep.outcome.document import outcome_of, sweep_document
from pipeline.sweep.outcome.engines import front_of
from pipeline.sweep.outcome.outcome import SweepOutcome
from pipeline.sweep.outcome.schema import check_sweep
from pipeline.sweep.outcome.terminal import print_outcome
from pipeline.sweep.outcome.texts import predict_command, short_name
from pipeline.sweep.outcome.write import write_outcome

NAMES = ["sweep.json", "sweep.csv", "sweep.html", "sweep.png"]


def mixed(**changes: Any) -> SweepOutcome:
    """small() with one point that failed and two that share a reason for which they were skipped."""
    made = small(**changes)
    other: dict[str, Any] = {"report": None, "stage": "train"}
    skipped = {"status": "skipped", "reason": "9 ms with random weights,\n the budget is 3 ms", **other}
    points = [
        made.points[0],
        dataclasses.replace(made.points[1], status="failed", reason="no space left on device", **other),
        *(dataclasses.replace(p, probe_ms={"openvino-int8": 9.0}, **skipped) for p in made.points[2:]),
    ]  # fmt: skip
    return dataclasses.replace(made, points=points)


def shown(made: SweepOutcome) -> str:
    console = Console(file=StringIO(), width=120)
    print_outcome(made, console)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_four_files_and_nothing_else(tmp_path: Path) -> None:
    assert write_outcome(mixed(budget_ms=3.0), tmp_path / "out") == NAMES
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(NAMES)
    assert Image.open(BytesIO((tmp_path / "out" / "sweep.png").read_bytes())).size == (1280, 800)
    document = json.loads((tmp_path / "out" / "sweep.json").read_text(encoding="utf-8"))
    check_sweep(document)
    again = outcome_of(document)
    assert sweep_document(again) == document, "what is read is what was written"
    assert document["best"] == {
        "point": "small-32", "engine": "openvino-fp32",
        "command": "t2t-edge predict --run small-32 --runs runs/nets --engine openvino-fp32 IMAGE",
    }  # fmt: skip
    html = (tmp_path / "out" / "sweep.html").read_text(encoding="utf-8")
    assert "no space left on device" in html and "large-32, large-64" in html and "skipped before train" in html


@pytest.mark.parametrize(
    "made",
    [
        grid(AXES, lambda values: None),
        outcome([point("only", {}, [("openvino", "int8", 88.0, 1.0)])], {}),
        outcome([point("fails", {}, [("openvino", "int8", 50.0, 1.0), ("tensorrt_rtx", "int8-fp16", None, None)])], {}),
        grid({"model.onnx": ["große <b>.onnx", "ß" * 200]}, lambda v: [("openvino", "fp32", 88.0, 1.0)], name="Süche"),
    ],
    ids=["none done", "one point", "none passes", "unicode"],
)  # fmt: skip
def test_any_outcome_can_be_written_and_printed(made: SweepOutcome, tmp_path: Path) -> None:
    assert write_outcome(made, tmp_path) == NAMES
    assert shown(made).strip()
    assert "<b>.onnx" not in (tmp_path / "sweep.html").read_text(encoding="utf-8"), "values are no markup"


def test_csv_has_a_row_for_every_engine_and_for_every_point_without(tmp_path: Path) -> None:
    made = mixed()
    write_outcome(made, tmp_path)
    rows = list(csv.DictReader((tmp_path / "sweep.csv").open(encoding="utf-8", newline="")))
    assert [row["point"] for row in rows] == ["small-32"] * 5 + ["small-64", "large-32", "large-64"]
    report = made.points[0].report
    assert report is not None
    for row, variant in zip(rows[:5], report["variants"], strict=True):
        assert (row["engine"], row["gate"], row["sha256"]) == (variant["name"], variant["status"], variant["sha256"])
        assert row["p50_ms"] == ("" if variant["latency_ms"] is None else repr(variant["latency_ms"]["p50"]))
        assert (row["model.name"], row["model.image_size"], row["status"]) == ("small", "32", "done")
    assert [row["on_front"] for row in rows[:5]] == ["no", "yes", "yes", "no", "no"]
    assert rows[5]["reason"] == "no space left on device" and rows[5]["stage"] == "train" and rows[5]["engine"] == ""
    assert rows[6]["reason"] == "9 ms with random weights, the budget is 3 ms"


def test_the_terminal_has_front_gains_reasons_winner_and_next_command() -> None:
    text = shown(small(budget_ms=3.0))
    front = [text.index(f"{e.point.name}  {e.variant['name']}") for e in front_of(small())]
    assert front == sorted(front) and text.index("model.image_size") > front[-1]
    assert text.splitlines()[-2:] == [
        "Most accurate within 3 ms: openvino-fp32 of large-32, 88.10 % top-1, 1.60 ms at batch 1",
        "Next: t2t-edge predict --run large-32 --runs runs/nets --engine openvino-fp32 IMAGE",
    ]
    text = shown(mixed(min_score=99.0))
    assert "large-32, large-64 (skipped before train)" in text and "1 of 4 points done, 1 failed, 2 skipped" in text
    assert "No engine that passes its gate is with at least 99 % top-1. The fastest is onnxruntime-int8" in text
    assert "Next:" not in text
    assert "none of 4 points was finished" in shown(grid(AXES, lambda values: None))


def test_names_are_quoted_and_cut() -> None:
    assert (
        predict_command(small(name="a b", runs="/data/runs/"), "x", "y").split(" --runs ")[1]
        == "'/data/runs/a b' --engine y IMAGE"
    )
    (engine,) = front_of(outcome([point("a" * 40 + "-64", {}, [("openvino", "int8", 88.0, 1.0)])], {}))
    assert len(short_name(engine)) <= 46 and short_name(engine).endswith("aa-64: openvino-int8")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 2}, "schema"), ({"front": []}, "do not give its front"), ({"gains": []}, "do not give its gains"),
        ({"best": None}, "do not give its best"), ({"extra": 1}, "extra"), ({"budget_ms": -1.0}, "budget_ms"),
    ],
)  # fmt: skip
def test_a_document_whose_conclusions_are_not_its_points_is_none(change: dict[str, Any], message: str) -> None:
    document = sweep_document(small())
    check_sweep(document)
    with pytest.raises(ValueError, match=message):
        check_sweep(document | change)


def test_points_that_contradict_themselves_are_none() -> None:
    document = sweep_document(small())
    first = document["points"][0]
    for change, message in [
        ({"status": "failed"}, "is failed and has a report"), ({"report": None}, "is done and has no report"),
        ({"name": "small-64"}, "names of points must differ"),
    ]:  # fmt: skip
        with pytest.raises(ValueError, match=message):
            check_sweep(document | {"points": [first | change, *document["points"][1:]]})
    with pytest.raises(ValueError, match="without a reason"):
        check_sweep(document | {"points": [first | {"status": "skipped", "report": None}]})


def test_small_engines_are_what_the_other_tests_say() -> None:
    assert small_engines({"model.name": "large", "model.image_size": 64})[0] == (
        "onnxruntime",
        "fp32",
        pytest.approx(88.3),
        8.0,
    )
