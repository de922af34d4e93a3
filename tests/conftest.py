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
        items[:] = slow_files_first(items, config.workerinput["workercount"])


def slow_files_first(items: list[pytest.Item], workers: int) -> list[pytest.Item]:
    """Each worker's share of the tests, which is what it begins with, starts with its share of the slow files and ends with quick
    tests: small enough that what one worker takes from another keeps all busy to the end."""
    slow = sorted({item.path for item in items if item.get_closest_marker("slow")})
    quick = [item for item in items if item.path not in set(slow)]
    ordered: list[pytest.Item] = []
    for worker in range(workers):
        chosen = set(slow[worker::workers])
        ordered += [item for item in items if item.path in chosen]
        cut = max(0, len(items) * (worker + 1) // workers - len(ordered)) if worker < workers - 1 else len(quick)
        ordered, quick = [*ordered, *quick[:cut]], quick[cut:]
    return ordered
