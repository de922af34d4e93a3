"""The page of a report in a browser."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page


@pytest.fixture
def page(browser: Browser, folder: Path) -> Iterator[Page]:
    """The report in a module's `folder`, freshly loaded in a desktop's window."""
    with browser.new_page(viewport={"width": 1280, "height": 900}) as page:
        page.goto((folder / "report.html").as_uri())
        yield page
