"""The system's Chromium, driven by Playwright, and axe-core's check of a page's accessibility."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, ConsoleMessage, Page, sync_playwright

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_WORST = ("serious", "critical")


def find_chromium() -> str | None:
    """The browser's path, from CHROMIUM or the usual names; None where there is none. Playwright's own are not asked for."""
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, _NAMES)), None)


@contextmanager
def open_browser() -> Iterator[Browser]:
    """A headless browser with a fresh profile; RuntimeError where no Chromium is found."""
    program = find_chromium()
    if program is None:
        raise RuntimeError("no Chromium here: apt-get install chromium, or set CHROMIUM to its path")
    options = ["--disable-gpu", "--disable-dev-shm-usage", *(["--no-sandbox"] if os.geteuid() == 0 else [])]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=options)
        try:
            yield browser
        finally:
            browser.close()


@dataclass
class Seen:
    """What a page did: `problems` are console errors and warnings and uncaught exceptions, `requests` all that it asked for."""

    problems: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)


def watch(page: Page) -> Seen:
    """Keep what `page` does from now on."""
    seen = Seen()

    def note(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning", "assert"):
            seen.problems.append(message.text)

    page.on("console", note)
    page.on("pageerror", lambda error: seen.problems.append(str(error)))
    page.on("request", lambda request: seen.requests.append(request.url))
    return seen


def settle(page: Page) -> None:
    """Wait until what was changed is drawn."""
    page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")


def violations(page: Page) -> list[str]:
    """What axe-core finds on the page that keeps people out (serious or critical): rule, and the elements."""
    found = Axe().run(page).response["violations"]
    return [
        f"{one['id']}: {one['help']}: {[node['html'][:120] for node in one['nodes'][:4]]}"
        for one in found
        if one["impact"] in _WORST
    ]
