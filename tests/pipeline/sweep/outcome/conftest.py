"""For the tests of the sweep's page: one browser for all."""

from collections.abc import Iterator

import pytest
from browser import open_browser
from playwright.sync_api import Browser


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """The system's Chromium; tests that use it are skipped where there is none."""
    with open_browser() as found:
        yield found
