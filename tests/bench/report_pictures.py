"""The pictures of docs/report.md: a run's report as a desktop, a phone and paper show it, and a comparison of runs.

`python tests/bench/report_pictures.py runs/demo [runs/other …]`; needs Chromium. The comparison is drawn where a second
run is given. Look at the pictures before they are committed: tests see no ugliness.
"""

import argparse
import sys
import tempfile
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]

from browser import open_browser, settle
from playwright.sync_api import Browser, Page, ViewportSize

from pipeline.report.compare import write_comparison
from pipeline.report.values.compared import read_compared

PAPER: ViewportSize = {"width": 1032, "height": 720}  # A4 landscape less the margins, in CSS pixels


def main() -> None:
    """Open the page of the first run, and draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--docs", type=Path, default=Path("docs"), help="where the pictures go; default: %(default)s")
    parser.add_argument("--scenes", type=Path, help="a segmentation's run, for a strip of its pictures")
    options = parser.parse_args()
    report = (options.runs[0] / "report" / "report.html").resolve()
    with open_browser() as browser:
        draw_report(browser, report, options.docs)
        if len(options.runs) > 1:
            draw_comparison(browser, options.runs, options.docs / "report-compare.png")
        if options.scenes:
            draw_strip(browser, options.scenes / "report" / "report.html", options.docs / "report-strip.png")
    print(f"drawn: {options.docs}/report-*.png")


def draw_strip(browser: Browser, report: Path, picture: Path) -> None:
    """The first image of a segmentation's page: photograph, mask, both maps, and where these differ."""
    with browser.new_page(viewport={"width": 1180, "height": 900}, color_scheme="light") as page:
        page.goto(report.resolve().as_uri())
        page.locator(".pictures").first.screenshot(path=picture)


def draw_report(browser: Browser, report: Path, docs: Path) -> None:
    """Desktop in light, its chart with a budget, what changed in dark, a phone, and paper."""
    with browser.new_page(viewport={"width": 1180, "height": 1330}, color_scheme="light") as page:
        page.goto(report.as_uri())
        page.screenshot(path=docs / "report-light.png")
        page.fill("#budget", "500")  # the middle of the slider, so that some engines are late
        page.set_viewport_size({"width": 1180, "height": 640})
        to_section(page, "Accuracy against latency")
        page.screenshot(path=docs / "report-budget.png")
    with browser.new_page(viewport={"width": 1180, "height": 1100}, color_scheme="dark") as page:
        page.goto(report.as_uri())
        page.evaluate("document.querySelectorAll('details.changes').forEach((d, i) => d.open = i === 0)")
        to_section(page, "What the engines change")
        page.screenshot(path=docs / "report-dark.png")
    phone = {"width": 360, "height": 900}
    with browser.new_page(viewport=phone, is_mobile=True, device_scale_factor=1.5, color_scheme="light") as page:
        page.goto(report.as_uri())
        to_section(page, "Accuracy against latency")
        page.screenshot(path=docs / "report-phone.png")
    with browser.new_page(viewport=PAPER) as page:
        page.goto(report.as_uri())
        page.emulate_media(media="print")
        page.screenshot(path=docs / "report-print.png")


def draw_comparison(browser: Browser, runs: list[Path], place: Path) -> None:
    """The top of the page that `t2t-edge report --compare` writes."""
    with tempfile.TemporaryDirectory() as folder, browser.new_page(color_scheme="light") as page:
        write_comparison(read_compared(runs), Path(folder))
        page.set_viewport_size({"width": 1180, "height": 860})
        page.goto((Path(folder) / "compare.html").as_uri())
        page.screenshot(path=place)


def to_section(page: Page, heading: str) -> None:
    """Scroll a section's heading to the top of the window."""
    page.evaluate(
        "document.documentElement.style.scrollBehavior = 'auto';"
        f"[...document.querySelectorAll('h2')].find(h => h.textContent === {heading!r}).scrollIntoView()"
    )
    settle(page)


if __name__ == "__main__":
    main()
