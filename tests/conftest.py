"""Where tests run: threads, what is slow, and the fixtures of `common_fixtures.py`, which import torch."""

import os

import pytest

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")  # two workers on two cores, and all processes that they start

# What they make takes many seconds; a test that asks for one of them is no test for while one edits.
SLOW_FIXTURES = {
    "tiny_run", "small_onnx", "chain", "ready", "networks", "whole", "predict_run", "finished", "place", "segmentation_run",
}  # fmt: skip


def pytest_configure(config: pytest.Config) -> None:
    """Load the fixtures, but not where xdist's workers do: the process that hands tests out starts them seconds earlier."""
    if not config.getoption("numprocesses", None) or hasattr(config, "workerinput"):
        config.pluginmanager.import_plugin("common_fixtures")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark as slow what uses a slow fixture; other slow tests say so themselves. For workers, put slow files first."""
    for item in items:
        if SLOW_FIXTURES & set(getattr(item, "fixturenames", ())):
            item.add_marker("slow")
    if hasattr(config, "workerinput"):
        items[:] = slow_files_first(items)


def slow_files_first(items: list[pytest.Item]) -> list[pytest.Item]:
    """Both halves of the tests, which is what two workers begin with, start with every second slow file and end with quick
    tests: small enough that what one worker takes from the other keeps both busy to the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    first, second = (set(sorted(slow)[start::2]) for start in (0, 1))
    halves = [[item for item in items if item.path in chosen] for chosen in (first, second)]
    quick = [item for item in items if item.path not in slow]
    cut = max(0, len(items) // 2 - len(halves[0]))
    return [*halves[0], *quick[:cut], *halves[1], *quick[cut:]]
