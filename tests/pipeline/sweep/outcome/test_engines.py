"""The common front and the engine within a budget: only what passed and was timed, on the same images."""

import dataclasses
from typing import Any

import pytest
from reports import sha
from sweeps import AXES, grid, outcome, point, report, small, small_engines

from calib.errors import InputError
from pipeline.sweep.outcome.engines import best_under, engines_of, front_of, sweep_cautions, sweep_words
from pipeline.sweep.outcome.outcome import SweepOutcome


def names(found: Any) -> Any:
    return found and (found[0].name, found[1]["name"])


def test_the_front_is_over_all_points_and_leaves_out_what_fails_its_gate() -> None:
    front = [(*engine.key, engine.p50) for engine in front_of(small())]
    assert front == [
        ("small-32", "onnxruntime-int8", 0.5), ("small-32", "openvino-fp32", 0.8), ("large-32", "onnxruntime-int8", 1.0),
        ("large-32", "openvino-fp32", 1.6), ("large-64", "onnxruntime-int8", 4.0), ("large-64", "openvino-fp32", 6.4),
    ]  # fmt: skip
    fails = [engine for engine in engines_of(small()) if engine.variant["status"] == "fail"]
    assert len(fails) == 4 and min(engine.p50 for engine in fails) == pytest.approx(0.3), "faster than all of the front"


@pytest.mark.parametrize(
    ("budget", "least", "expected"),
    [
        (None, None, ("large-64", "openvino-fp32")),
        (1.6, None, ("large-32", "openvino-fp32")),
        (1.5999, None, ("large-32", "onnxruntime-int8")),
        (0.5, None, ("small-32", "onnxruntime-int8")),
        (0.49, None, None),
        (0.5, 87.5, ("small-32", "onnxruntime-int8")),
        (0.5, 87.51, None),
        (None, 88.31, None),
    ],
)
def test_the_most_accurate_within_both_limits(budget: float | None, least: float | None, expected: Any) -> None:
    assert names(best_under(small(), budget, least)) == expected


def test_of_equally_accurate_ones_the_faster_then_the_smaller() -> None:
    same = [("onnxruntime", "fp32", 88.0, 2.0), ("openvino", "fp32", 88.0, 1.5), ("openvino", "fp16", 88.0, 1.5)]
    found = report("a", same)
    found["variants"][2]["size_bytes"] = 3_000_000
    one = outcome([point("a", {}, same, report=found)], {})
    assert names(best_under(one, None, None)) == ("a", "openvino-fp16")
    found["variants"][2]["size_bytes"] = None
    assert names(best_under(one, None, None)) == ("a", "openvino-fp32"), "a size that is not known is last"


def replaced(made: SweepOutcome, index: int, **changes: Any) -> SweepOutcome:
    points = list(made.points)
    points[index] = dataclasses.replace(points[index], **changes)
    return dataclasses.replace(made, points=points)


def test_points_on_other_images_have_no_common_front_and_no_winner() -> None:
    values = {"model.name": "small", "model.image_size": 32}
    other = replaced(small(), 0, report=report("small-32", small_engines(values), images=500))
    assert front_of(other) == [] and best_under(other, None, None) is None
    (caution,) = sweep_cautions(other)
    assert "different images" in caution and "fashion-mnist (500 images)" in caution


def test_points_on_other_machines_are_a_caution() -> None:
    values = {"model.name": "small", "model.image_size": 32}
    machine = {"cpu": "another CPU", "gpu": None, "versions": {}}
    other = replaced(small(), 0, report=report("small-32", small_engines(values), machine=machine))
    assert sweep_cautions(other) == ["The runs were measured on different machines: a CPU with 2 cores; another CPU."]
    assert len(front_of(other)) == 6


def test_points_of_several_tasks_are_refused() -> None:
    scenes = {"task": "segmentation", "variants": [], "dataset": {"name": "x", "eval_images": 1}, "run": sha("x")}
    with pytest.raises(InputError, match="points of different tasks cannot be compared"):
        sweep_words(replaced(small(), 0, report=scenes))


def test_nothing_done_has_neither() -> None:
    none = grid(AXES, lambda values: None)
    assert front_of(none) == [] and best_under(none, None, None) is None and sweep_cautions(none) == []
