"""What a stage takes: never more than a machine has; what measures takes the machine."""

from pathlib import Path

import pytest

from pipeline.recipe import Recipe, load_recipe
from pipeline.sweep.planning.file import Needs
from pipeline.sweep.running.needs import MACHINE, Machines, needs_of

ROOT = Path(__file__).parents[4]
SMALL, LARGE = Machines(2, 10**9, 0.0), Machines(64, 256 * 10**9, 8.0)


@pytest.fixture(scope="module")
def demo() -> Recipe:
    return load_recipe(ROOT / "recipes" / "demo.yaml")


def test_defaults_fit_the_machine(demo: Recipe) -> None:
    assert needs_of("train", demo, SMALL, {}) == {
        "num_cpus": 1, "num_gpus": 0.0, "memory": 10**9, "resources": {MACHINE: 0.001},
    }  # fmt: skip
    assert needs_of("train", demo, LARGE, {}) == {
        "num_cpus": 4, "num_gpus": 1.0, "memory": 2 * 10**9, "resources": {MACHINE: 0.001},
    }  # fmt: skip
    assert (
        needs_of("quantize", demo, LARGE, {})["num_gpus"] == 0.0
        and needs_of("quantize", demo, LARGE, {})["num_cpus"] == 1
    )
    engines = 3 + 3 + 2 * 3 + 2  # of the demo, with two threads each
    assert (
        needs_of("evaluate", demo, LARGE, {})["num_cpus"] == 2 * engines
        and needs_of("evaluate", demo, SMALL, {})["num_cpus"] == 2
    )
    assert needs_of("visualize", demo, LARGE, {})["num_cpus"] == 2
    assert needs_of("build", demo, LARGE, {})["num_gpus"] == 1.0, "the demo builds for TensorRT"


@pytest.mark.parametrize("stage", ["benchmark", "search"])
def test_what_measures_takes_the_whole_machine(demo: Recipe, stage: str) -> None:
    assert needs_of(stage, demo, LARGE, {})["resources"] == {MACHINE: 1}


def test_what_the_file_says_goes_before_and_is_cut_to_the_machine(demo: Recipe) -> None:
    given = {"train": Needs(cpus=16, gpus=0.5, memory_gb=20)}
    found = needs_of("train", demo, LARGE, given)
    assert (found["num_cpus"], found["num_gpus"], found["memory"]) == (16, 0.5, 20 * 10**9)
    found = needs_of("train", demo, SMALL, given)
    assert (found["num_cpus"], found["num_gpus"], found["memory"]) == (2, 0.0, 10**9)
