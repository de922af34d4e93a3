"""The pictures of docs/report.md: a run's report as a desktop, a phone and paper show it, and a comparison of runs.

`python tests/bench/report_pictures.py runs/demo [runs/other …]`; needs Chromium. The comparison is drawn where a second
run is given. Look at the pictures before they are committed: tests see no ugliness.
"""

import argparse
import sys
import tempfile
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]

from chromium import Page, open_browser

from pipeline.report.compare import write_comparison
from pipeline.report.values.compared import read_compared

PAPER = (1032, 720)  # A4 landscape less the margins, in CSS pixels


def main() -> None:
    """Open the page of the first run, and draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--docs", type=Path, default=Path("docs"), help="where the pictures go; default: %(default)s")
    options = parser.parse_args()
    report = options.runs[0] / "report" / "report.html"
    with open_browser() as page:
        draw_report(page, report, options.docs)
        if len(options.runs) > 1:
            draw_comparison(page, options.runs, options.docs / "report-compare.png")
    print(f"drawn: {options.docs}/report-*.png")


def draw_report(page: Page, report: Path, docs: Path) -> None:
    """Desktop in light, its chart with a budget, what changed in dark, a phone, and paper."""
    page.media(prefers_color_scheme="light")
    page.size(1180, 1330)
    page.open(report)
    page.picture(docs / "report-light.png", whole=False)
    show_budget(page)
    page.size(1180, 640)
    to_section(page, "Accuracy against latency")
    page.picture(docs / "report-budget.png", whole=False)
    page.media(prefers_color_scheme="dark")
    page.size(1180, 1100)
    page.run("{ const first = document.querySelector('details.changes'); if (first) first.open = true; }")
    to_section(page, "What the engines change")
    page.picture(docs / "report-dark.png", whole=False)
    page.media(prefers_color_scheme="light")
    page.size(360, 900, phone=True, scale=1.5)
    page.open(report)
    to_section(page, "Accuracy against latency")
    page.picture(docs / "report-phone.png", whole=False)
    page.size(*PAPER)
    page.open(report)
    page.media("print")
    page.picture(docs / "report-print.png", whole=False)


def draw_comparison(page: Page, runs: list[Path], place: Path) -> None:
    """The top of the page that `t2t-edge report --compare` writes."""
    with tempfile.TemporaryDirectory() as folder:
        write_comparison(read_compared(runs), Path(folder))
        page.media(prefers_color_scheme="light")
        page.size(1180, 860)
        page.open(Path(folder) / "compare.html")
        page.picture(place, whole=False)


def show_budget(page: Page) -> None:
    """Set the budget to the middle of the slider, so that some engines are late."""
    page.run("{ const s = document.getElementById('budget'); s.value = 500; s.dispatchEvent(new Event('input')); }")
    page.settle()


def to_section(page: Page, heading: str) -> None:
    """Scroll a section's heading to the top of the window."""
    page.run(
        "document.documentElement.style.scrollBehavior = 'auto';"
        f"[...document.querySelectorAll('h2')].find(h => h.textContent === {heading!r}).scrollIntoView()"
    )
    page.settle()


if __name__ == "__main__":
    main()
