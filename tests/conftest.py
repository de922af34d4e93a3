"""Where tests run: threads, what is slow, and the fixtures of `common_fixtures.py`, which import torch."""

import os

import pytest

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")  # two workers on two cores, and all processes that they start

# What they make takes many seconds; a test that asks for one of them is no test for while one edits.
SLOW_FIXTURES = {"tiny_run", "small_onnx", "chain", "ready", "networks", "whole", "predict_run", "finished", "place"}


def pytest_configure(config: pytest.Config) -> None:
    """Load the fixtures, but not where xdist's workers do: the process that hands tests out starts them seconds earlier."""
    if not config.getoption("numprocesses", None) or hasattr(config, "workerinput"):
        config.pluginmanager.import_plugin("common_fixtures")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark as slow what uses a slow fixture; other slow tests say so themselves."""
    for item in items:
        if SLOW_FIXTURES & set(getattr(item, "fixturenames", ())):
            item.add_marker("slow")
