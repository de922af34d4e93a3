"""Gains: exact means over pairs that differ in one axis alone."""

import dataclasses
import math
from typing import Any

import pytest
from sweeps import AXES, Engines, grid, report, small, small_engines

from pipeline.sweep.outcome.gains import axes_without_pairs, gains_of
from pipeline.sweep.outcome.outcome import SweepOutcome


def table(made: SweepOutcome) -> dict[tuple[str, Any], tuple[Any, int, float, float]]:
    return {
        (g.axis, g.value): (g.against, g.pairs, round(g.score_pp, 9), round(g.latency_ratio, 9)) for g in gains_of(made)
    }


def test_each_axis_and_precision_and_backend_within_a_point() -> None:
    assert table(small()) == {
        ("model.name", "large"): ("small", 2, 0.5, 2.0), ("model.image_size", 64): (32, 2, 0.2, 4.0),
        ("precision", "int8"): ("fp32", 4, -0.1, 0.5), ("backend", "openvino"): ("onnxruntime", 4, 0.0, 0.8),
    }  # fmt: skip


def test_means_are_arithmetic_for_scores_and_geometric_for_latencies() -> None:
    figures = {("a", 1): (88.0, 1.0), ("a", 2): (88.0, 1.0), ("b", 1): (88.4, 2.0), ("b", 2): (88.1, 8.0)}

    def engines(values: dict[str, Any]) -> Engines:
        return [("openvino", "fp32", *figures[values["x.one"], values["x.two"]])]

    found = table(grid({"x.one": ["a", "b"], "x.two": [1, 2]}, engines))
    assert found["x.one", "b"] == ("a", 2, 0.25, 4.0)
    assert found["x.two", 2] == (1, 2, -0.15, 2.0)
    assert set(found) == {("x.one", "b"), ("x.two", 2)}, "one precision and one backend are compared with nothing"


def test_a_point_without_a_passing_engine_is_in_no_pair() -> None:
    def engines(values: dict[str, Any]) -> Engines | None:
        if values == {"model.name": "small", "model.image_size": 32}:
            return [("openvino", "fp32", 50.0, 1.0)]  # fails its gate
        return None if values["model.image_size"] == 64 and values["model.name"] == "large" else small_engines(values)

    made = grid(AXES, engines)
    assert {axis for axis, _ in table(made)} == {"precision", "backend"}
    assert axes_without_pairs(made, gains_of(made)) == ["model.name", "model.image_size"]


def test_values_are_those_of_yaml_lists_too() -> None:
    made = grid(
        {"model.image_size": [32, [32, 64]]},
        lambda v: [("openvino", "fp32", 88.0, 1.0 if v["model.image_size"] == 32 else 3.0)],
    )
    (gain,) = gains_of(made)
    assert (gain.value, gain.against) == ([32, 64], 32) and math.isclose(gain.latency_ratio, 3.0)


@pytest.mark.parametrize("change", [{"images": 500}, {"machine": {"cpu": "another", "gpu": None, "versions": {}}}])
def test_other_images_and_other_machines_are_not_paired(change: dict[str, Any]) -> None:
    made = grid({"model.name": ["small", "large"]}, lambda v: [("openvino", "fp32", 88.0, 1.0)])
    moved = dataclasses.replace(made.points[1], report=report("large", [("openvino", "fp32", 88.0, 1.0)], **change))
    assert gains_of(dataclasses.replace(made, points=[made.points[0], moved])) == []
