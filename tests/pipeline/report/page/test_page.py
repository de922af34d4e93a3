"""The report's page in a real browser: what it shows is report.json, it works by hand and by key, and it asks for nothing."""

import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from browser import find_chromium, settle, violations, watch
from matplotlib.image import imsave
from playwright.sync_api import Browser, Page
from reports import MODE, detailed

from pipeline.report.values.details import flipped
from pipeline.report.write import write_report

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_chromium() is None, reason="no Chromium here: apt-get install chromium, or set CHROMIUM"),
]
EVIL = '</script><img src=x onerror="alert(1)">'


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    found = detailed()
    found["variants"][3]["reason"] = f"top-1 is under the gate {EVIL}"
    return found


@pytest.fixture(scope="module")
def folder(report: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("report")
    buffer = io.BytesIO()
    imsave(buffer, np.zeros((8, 8, 3), dtype=np.uint8), format="png")
    pictures = dict.fromkeys(flipped(report, place), buffer.getvalue())
    write_report(report, place, report["reference"], MODE, (), pictures, f"schema: 1 # {EVIL}\n")
    return place


@pytest.fixture
def phone(browser: Browser, folder: Path) -> Iterator[Page]:
    """The report on a phone."""
    with browser.new_page(viewport={"width": 360, "height": 780}, is_mobile=True) as page:
        page.goto((folder / "report.html").as_uri())
        yield page


def row(report: dict[str, Any], name: str) -> dict[str, Any]:
    return next(variant for variant in report["variants"] if variant["name"] == name)


def budget(page: Page, ms: float) -> str:
    """Type a budget; the winner's name."""
    page.evaluate(
        f"{{ const e = document.getElementById('budget-ms'); e.value = {ms}; e.dispatchEvent(new Event('change')); }}"
    )
    return str(page.evaluate("document.getElementById('winner').dataset.winner"))


def points(page: Page) -> list[str]:
    return list(page.evaluate("[...document.querySelectorAll('#plot .point')].map(p => p.dataset.name)"))


def choose(page: Page, name: str, value: str) -> None:
    page.evaluate(f"document.querySelector('#chart input[name={name}][value=\"{value}\"]').click()")


def test_nothing_is_loaded_and_the_console_is_silent(page: Page, folder: Path) -> None:
    seen = watch(page)
    page.reload()
    budget(page, 2)
    assert seen.problems == []
    assert {url for url in seen.requests if not url.startswith("data:")} == {(folder / "report.html").as_uri()}
    assert page.evaluate("document.querySelectorAll('img[src=x]').length") == 0, "texts of the report are no markup"


def test_a_script_that_is_not_ours_does_not_run(page: Page) -> None:
    seen = watch(page)
    page.evaluate(
        "{ const s = document.createElement('script'); s.textContent = 'window.ran = 1'; document.body.append(s); }"
    )
    assert page.evaluate("window.ran === undefined")
    assert any("Content Security Policy" in text for text in seen.problems)


def test_the_table_holds_report_json_unrounded(page: Page, report: dict[str, Any], folder: Path) -> None:
    stored = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    assert stored == report
    cells = page.evaluate("""[...document.querySelectorAll('.engines tbody')].map(body => Object.fromEntries(
        [['name', body.rows[0].cells[0].dataset.value], ...[...body.rows[0].cells].filter(c => c.dataset.label)
        .map(c => [c.dataset.label, c.dataset.value === undefined ? null : Number(c.dataset.value)])]))""")
    assert [values["name"] for values in cells] == [variant["name"] for variant in stored["variants"]]
    for values, variant in zip(cells, stored["variants"], strict=True):
        latency, rates = variant["latency_ms"] or {}, variant["images_per_s"] or {}
        assert values == {
            "name": variant["name"], "Top-1 %": variant["top1"], "Top-5 %": variant["top5"],
            "Δ top-1 pp [95 %]": variant["delta_top1_pp"], "Agreement %": variant["agreement"],
            "p50 ms": latency.get("p50"), "p90 ms": latency.get("p90"), "p99 ms": latency.get("p99"),
            "Img/s b1": rates.get("1"), "Img/s b8": rates.get("8"), "Size MB": variant["size_bytes"],
            "Layers 8/16/32 bit": variant["layers"]["int8"] if variant["layers"] else None,
        }  # fmt: skip


def test_failures_are_kept_and_every_section_is_there(page: Page) -> None:
    assert page.evaluate("document.querySelectorAll('.engines tbody.fail').length") == 1
    assert page.evaluate("document.querySelectorAll('.engines tbody.unavailable').length") == 1
    assert "under the gate </script>" in page.evaluate("document.querySelector('.engines .fail .reason').textContent")
    headings = page.evaluate("[...document.querySelectorAll('h2')].map(h => h.textContent)")
    assert headings == [
        "Accuracy against latency", "Engines", "What the engines change", "How latency spreads",
            "On the GPU",
        "How this was measured, and how to reproduce it", "Machine", "Files",
    ]  # fmt: skip
    assert page.evaluate(
        "[...document.querySelectorAll('nav a')].every(a => document.querySelector(a.getAttribute('href')))"
    )


def test_changes_are_those_of_report_json_and_flips_have_their_pictures(page: Page, report: dict[str, Any]) -> None:
    shown = page.evaluate("""Object.fromEntries([...document.querySelectorAll('#section-3 > .scroll tbody tr')].map(r =>
        [r.cells[0].textContent, [...r.cells].filter(c => c.dataset.value).map(c => Number(c.dataset.value))]))""")
    for name in ("openvino-int8", "tensorrt-int8"):
        found = row(report, name)["comparison"]
        assert shown[name] == [found["gained"], found["lost"], found["mcnemar_p"], found["smallest_drop_pp"]]
    assert "onnxruntime-fp32" not in shown and "exactly the same images" in page.evaluate("document.body.textContent")
    assert page.evaluate("document.querySelectorAll('.changes figure').length") == sum(
        len(v["comparison"]["flips"]) for v in report["variants"] if "comparison" in v
    )
    assert page.evaluate(
        "[...document.querySelectorAll('figure img')].every(i => i.complete && i.naturalWidth > 0 && i.alt)"
    )
    assert "Not enough images" in page.evaluate("document.getElementById('enough-images').textContent")


def test_the_slider_names_the_winner(page: Page, report: dict[str, Any]) -> None:
    passing = [v for v in report["variants"] if v["status"] == "pass"]
    assert len(passing) == 3 and row(report, "tensorrt-int8")["latency_ms"]["p50"] < 1
    for ms in (1.0, 1.5, 1.9, 2.2, 2.6):
        inside = [v for v in passing if v["latency_ms"]["p50"] <= ms]
        best = max(inside, key=lambda v: (v["top1"], -v["latency_ms"]["p50"]), default=None)
        assert budget(page, ms) == (best["name"] if best else ""), ms
        said = page.evaluate("document.getElementById('winner').textContent")
        assert (best["name"] in said and f"{best['top1']:.2f} %" in said) if best else "no engine that passes" in said
    moved = page.evaluate("""(() => { const s = document.getElementById('budget'), seen = new Set();
        for (let v = 0; v <= 1000; v += 5) { s.value = v; s.dispatchEvent(new Event('input')); seen.add(document.getElementById('winner').dataset.winner); }
        return [...seen]; })()""")  # noqa: E501
    fastest = min(passing, key=lambda v: v["latency_ms"]["p50"])["name"]
    assert moved[0] == "" and moved[1] == fastest and "tensorrt-int8" not in moved, "never one that fails"


def test_the_slider_moves_by_key(page: Page) -> None:
    page.evaluate("document.getElementById('budget').focus()")
    page.keyboard.press("Home")
    assert page.evaluate("document.getElementById('winner').dataset.winner") == ""
    page.keyboard.press("End")
    assert page.evaluate("document.getElementById('winner').dataset.winner") != ""
    assert page.evaluate("document.getElementById('budget').getAttribute('aria-valuetext')") == "no budget"


def test_backend_batch_and_percentile_switches(page: Page, report: dict[str, Any]) -> None:
    assert sorted(points(page)) == sorted(v["name"] for v in report["variants"] if v["latency_ms"])
    choose(page, "series", "openvino")
    assert sorted(points(page)) == ["onnxruntime-fp32", "tensorrt-int8"]
    assert budget(page, 100) == "onnxruntime-fp32"
    choose(page, "series", "openvino")
    choose(page, "batch", "8")
    assert "batch 8" in page.evaluate("document.querySelector('#plot svg').textContent")
    said = page.evaluate("document.querySelector('.point[data-name=openvino-int8]').getAttribute('aria-label')")
    measured = row(report, "openvino-int8")
    assert (
        f"batch 8: p50 {8e3 / measured['images_per_s']['8']:.2f}" in said
        or f"{8e3 / measured['images_per_s']['8']:.1f}" in said
    )
    choose(page, "tail", "p99")
    limit = measured["percentiles_ms"]["8"][99]
    others = [v for v in report["variants"] if v["status"] == "pass" and v["percentiles_ms"]["8"][99] <= 1.001 * limit]
    assert budget(page, 1.001 * limit) == max(others, key=lambda v: v["top1"])["name"]


def test_the_front_is_that_of_report_json(page: Page, report: dict[str, Any]) -> None:
    front = sorted((v for v in report["variants"] if v["pareto"]), key=lambda v: v["latency_ms"]["p50"])
    path = page.evaluate("document.querySelector('#plot path.front').getAttribute('d')")
    assert len(front) >= 2 and path.count("V") == len(front) - 1
    first = page.evaluate(
        f"document.querySelector('.point[data-name=\"{front[0]['name']}\"]').getAttribute('transform')"
    )
    start = re.findall(r"[\d.]+", path)[:2]
    assert start == re.findall(r"[\d.]+", first)


def test_points_tell_themselves_by_pointer_and_by_key(page: Page, report: dict[str, Any]) -> None:
    page.evaluate(
        "document.documentElement.style.scrollBehavior = 'auto'"
    )  # a mark's place is read once it stands still
    page.evaluate("document.querySelector('#plot').scrollIntoView()")
    settle(page)
    where = page.evaluate(
        "(r => [r.x + r.width / 2, r.y + r.height / 2])"
        "(document.querySelector('.point[data-name=openvino-int8] .mark').getBoundingClientRect())"
    )
    page.mouse.move(*where)
    settle(page)
    text = page.evaluate("document.getElementById('tip').hidden ? '' : document.getElementById('tip').textContent")
    assert "openvino-int8" in text and f"{row(report, 'openvino-int8')['top1']:.2f} %" in text
    page.mouse.move(2, 2)
    settle(page)
    assert page.evaluate("document.getElementById('tip').hidden")
    order = page.evaluate(
        "[...document.querySelectorAll('#plot .point')].map(p => "
        "{ p.focus(); return document.querySelector('#tip b').textContent; })"
    )
    timed = [v for v in report["variants"] if v["latency_ms"]]
    assert order == [v["name"] for v in sorted(timed, key=lambda v: v["latency_ms"]["p50"])]
    page.keyboard.press("Escape")
    assert page.evaluate("document.getElementById('tip').hidden")


def test_columns_sort_with_what_was_not_measured_last(page: Page, report: dict[str, Any]) -> None:
    def press(column: str) -> list[str]:
        page.evaluate(
            f"[...document.querySelectorAll('.engines thead button')].find(b => b.textContent === '{column}').click()"
        )
        return list(
            page.evaluate("[...document.querySelectorAll('.engines tbody')].map(b => b.rows[0].cells[0].dataset.value)")
        )

    timed = sorted((v for v in report["variants"] if v["latency_ms"]), key=lambda v: v["latency_ms"]["p50"])
    names = [v["name"] for v in timed]
    assert press("p50 ms") == [*names, "tensorrt_rtx-int8-fp16-sm86"]
    assert press("p50 ms") == [*names[::-1], "tensorrt_rtx-int8-fp16-sm86"]
    assert page.evaluate("document.querySelector('.engines th[aria-sort]').getAttribute('aria-sort')") == "descending"
    assert press("Top‑1 %")[-2:] == ["tensorrt-int8", "tensorrt_rtx-int8-fp16-sm86"], "the most accurate first"


@pytest.mark.parametrize("dark", [False, True])
def test_a_phone_of_360_pixels_has_no_sideways_scroll(phone: Page, dark: bool) -> None:
    page = phone
    page.emulate_media(color_scheme="dark" if dark else "light")
    page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    settle(page)
    assert page.evaluate("[document.documentElement.scrollWidth, document.body.scrollWidth]") == [360, 360]
    outside = page.evaluate("""[...document.querySelectorAll('main *')].filter(
        e => !e.closest('.scroll, .picture, .columns, pre') && e.getBoundingClientRect().right > 361
    ).map(e => e.outerHTML.slice(0, 80))""")
    assert outside == []
    assert page.evaluate("document.querySelectorAll('#plot .point').length") == 4
    assert page.evaluate("getComputedStyle(document.querySelector('.sorter')).display") == "block"


def contrast(page: Page, selector: str) -> float:
    """WCAG's contrast ratio of a text and what is behind it."""
    return float(
        page.evaluate(f"""(() => {{
        const rgb = text => text.match(/[\\d.]+/g).map(Number);
        const light = c => c.slice(0, 3).map(v => v / 255).map(v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
            .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
        const node = document.querySelector({selector!r});
        let back = node, colour;
        do {{ colour = rgb(getComputedStyle(back).backgroundColor); back = back.parentElement; }} while (back && colour[3] === 0);
        const [a, b] = [light(rgb(getComputedStyle(node).color)), light(colour)].sort((x, y) => y - x);
        return (a + .05) / (b + .05);
    }})()""")
    )


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_have_contrast_in_light_and_dark(page: Page, scheme: Literal["light", "dark"]) -> None:
    page.emulate_media(color_scheme=scheme)
    selectors = [
        ".verdict p",
        "#winner",
        ".note",
        ".engines .fail .mark",
        ".facts dt",
        "nav a",
        "#enough-images",
        "figcaption .wrong",
    ]
    ratios = {selector: contrast(page, selector) for selector in selectors}
    assert min(ratios.values()) >= 4.5, ratios


def test_print_shows_the_chart_without_its_controls_on_white(page: Page, folder: Path) -> None:
    page.emulate_media(media="print", color_scheme="dark")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    for selector in (".controls", "nav"):
        assert page.evaluate(f"getComputedStyle(document.querySelector('{selector}')).display") == "none"
    assert page.evaluate("document.querySelector('#plot svg').getBoundingClientRect().height") > 200
    page.pdf(path=folder / "report.pdf", prefer_css_page_size=True)
    assert (folder / "report.pdf").read_bytes().startswith(b"%PDF-")
    assert page.evaluate("[...document.querySelectorAll('details.changes')].every(d => d.open)"), (
        "paper cannot be opened"
    )


def test_names_roles_and_labels_for_a_screen_reader(page: Page) -> None:
    assert page.evaluate("document.documentElement.lang") == "en"
    assert page.evaluate("[...document.querySelectorAll('input, select')].every(i => i.labels.length || i.ariaLabel)")
    assert page.evaluate(
        "[...document.querySelectorAll('section')].every(s => document.getElementById(s.getAttribute('aria-labelledby')))"
    )
    assert page.evaluate("document.getElementById('winner').getAttribute('role')") == "status"
    assert page.evaluate("[...document.querySelectorAll('img')].every(i => i.alt)")
    assert page.evaluate("[...document.querySelectorAll('table th')].every(t => t.scope)")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_that_keeps_people_out(page: Page, phone: Page, scheme: Literal["light", "dark"]) -> None:
    """axe-core on the whole page, on a desktop and on a phone, with every part opened."""
    for shown in (page, phone):
        shown.emulate_media(color_scheme=scheme)
        shown.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
        settle(shown)
        assert violations(shown) == []


def test_axe_would_find_something(page: Page) -> None:
    """The check itself: a picture without a text, and a text that nobody can read."""
    page.evaluate("document.querySelector('main').insertAdjacentHTML('beforeend', '<img src=\"data:,\">"
                  "<p style=\"color:#eee;background:#fff\">pale</p>')")  # fmt: skip
    found = [line.partition(":")[0] for line in violations(page)]
    assert {"image-alt", "color-contrast"} <= set(found)
