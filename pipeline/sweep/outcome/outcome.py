"""The points of a sweep and what became of each: what a sweep hands over to be written and printed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Status = Literal["done", "failed", "skipped", "stopped"]


@dataclass(frozen=True)
class PointOutcome:
    """A point of the grid, which is an ordinary run.

    `values` has a plain YAML value for each axis. `skipped`: it cannot meet the budget or the accuracy; `stopped`: by
    successive halving. `probe_ms` is the latency of random weights before training, by engine's name, where there is a budget.
    """

    name: str  # its run: runs/SWEEP/NAME
    values: Mapping[str, Any]  # {"model.name": "t2t_vit_7", "model.image_size": 64, "quantize.policy": "default"}
    status: Status
    reason: str | None  # one line, of all but done
    stage: str | None  # the stage that failed, or before which it was skipped or stopped
    report: Mapping[str, Any] | None  # report.json of a done point
    probe_ms: Mapping[str, float] | None
    seconds: float  # of the stages that this point made itself


@dataclass(frozen=True)
class SweepOutcome:
    """All points, in the sweep's order. `axes` has only keys that differ between points, each with its values in order."""

    name: str
    base: str  # the base recipe's path
    axes: Mapping[str, Sequence[Any]]
    points: Sequence[PointOutcome]
    budget_ms: float | None  # p50 at batch 1
    min_score: float | None  # percent of the task's score
    seconds: float
    stages: Mapping[
        str, tuple[int, int]
    ]  # stage -> (made, shared): how often it ran, and how often a point took another's
    runs: str = "runs"  # the folder in which the sweep's folder is
