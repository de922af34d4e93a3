"""The page of a segmentation in a real browser: its section on class maps, and the words of its chart and tables."""

import re
from pathlib import Path
from typing import Any

import pytest
from browser import find_chromium, settle, violations, watch
from playwright.sync_api import Browser, Page
from reports import MODE
from segmented import SPEC, answers, segmented, write_photos

from pipeline.report.page.page import html_page
from pipeline.report.page.pixels import pixels_section
from pipeline.report.strips import strips
from pipeline.report.write import write_report

pytestmark = pytest.mark.slow
needs_browser = pytest.mark.skipif(
    find_chromium() is None, reason="no Chromium here: apt-get install chromium, or set CHROMIUM"
)
EVIL = "<b>x"


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    return segmented()


@pytest.fixture(scope="module")
def folder(report: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("report")
    split = write_photos(place)
    write_report(report, place, report["reference"], MODE, (), strips(report, answers(), split, SPEC), "schema: 1\n")
    return place


@needs_browser
def test_the_section_holds_report_json(page: Page, report: dict[str, Any]) -> None:
    compared = {v["name"]: v for v in report["variants"] if "comparison" in v}
    shown = page.evaluate("""Object.fromEntries([...document.querySelectorAll(
        '[aria-label="What the engines change, a table"] tbody tr')].map(r =>
        [r.cells[0].textContent, [...r.cells].filter(c => c.dataset.value).map(c => Number(c.dataset.value))]))""")
    assert set(shown) == set(compared) - {"onnxruntime-fp32"}
    for name, figures in shown.items():
        found = compared[name]["comparison"]
        assert figures == [found["gained_pixels"], found["lost_pixels"], found["smallest_drop_pp"]]
    text = page.inner_text("#section-3")
    assert "The same class in every pixel as PyTorch FP32: onnxruntime-fp32." in text and "yes, worse" in text
    table = page.evaluate("""[...document.querySelectorAll('[aria-label="IoU of each class, a table"] tbody tr')].map(r =>
        [...r.cells].map(c => c.textContent))""")
    for index, cells in enumerate(table):
        ones = [of["comparison"]["per_class"][index] for of in compared.values()]
        assert cells == [
            ones[0]["label"], f"{ones[0]['pixels']:,}", f"{ones[0]['reference_iou']:.2f}", *(f"{one['iou']:.2f}" for one in ones)
        ]  # fmt: skip
    assert len(table) == 5, "each class of the masks, whether an engine changes it or not"
    rows = page.evaluate("""[...document.querySelectorAll('[aria-label="tensorrt-int8: classes"] tbody tr')].map(r =>
        [...r.cells].map(c => c.textContent))""")
    for cells, one in zip(rows, compared["tensorrt-int8"]["comparison"]["per_class"], strict=True):
        delta = one["iou"] - one["reference_iou"]
        assert cells == [
            one["label"], f"{one['pixels']:,}", f"{one['reference_iou']:.2f}", f"{one['iou']:.2f}",
            f"{delta:+.2f}".replace("-", "−"),
        ]  # fmt: skip


@needs_browser
def test_strips_have_five_pictures_and_a_legend(page: Page, report: dict[str, Any]) -> None:
    (chosen,) = [v for v in report["variants"] if v["name"] == "openvino-int8"]
    strips = page.locator(".pictures")
    assert strips.count() == len(chosen["comparison"]["images"]) == 6
    for index, one in enumerate(chosen["comparison"]["images"]):
        captions = strips.nth(index).locator("figcaption").all_inner_texts()
        assert [caption.split("\n")[0] for caption in captions] == [
            "Photo", "Truth", "PyTorch FP32", "openvino-int8", "They differ",
        ]  # fmt: skip
        assert f"{one['reference_accuracy']:.1f}" in captions[2] and f"{one['accuracy']:.1f}" in captions[3]
        assert f"{one['differing']:.1f}" in captions[4]
    assert page.evaluate(
        "[...document.querySelectorAll('.pictures img')].every(i => i.complete && i.naturalWidth > 0 && i.alt)"
    )
    widths = page.evaluate("[...document.querySelectorAll('.pictures img')].map(i => i.getBoundingClientRect().width)")
    assert max(widths) - min(widths) < 1 and min(widths) > 150
    assert page.locator(".classes li").all_inner_texts() == [
        "background", "cat", "tree", "boat", "cup", "no class, or left out", "they differ",
    ]  # fmt: skip
    colour = page.evaluate("getComputedStyle(document.querySelectorAll('.classes .box')[1]).backgroundColor")
    assert colour == "rgb(230, 159, 0)"


@needs_browser
def test_chart_table_and_sorting_speak_of_miou(page: Page) -> None:
    assert "mIoU, %" in page.evaluate("document.querySelector('#plot svg').textContent")
    assert "% mIoU in" in page.inner_text("#winner")
    label = page.get_attribute("#plot svg", "aria-label")
    assert label is not None and ": mIoU against latency" in label
    said = page.get_attribute(".point[data-name=openvino-int8]", "aria-label")
    assert said is not None and re.search(r"mIoU 85\.62 % \(−0\.\d\d pp", said)
    assert page.locator("#plot .point").count() == 4

    def press(column: str) -> list[str]:
        page.click(f".engines thead button:text-is('{column}')")
        return list(page.evaluate("[...document.querySelectorAll('.engines tbody th')].map(b => b.dataset.value)"))

    for column in ("mIoU %", "Pixel accuracy %"):
        assert press(column)[0] == "onnxruntime-fp32", "the most accurate first"


@needs_browser
def test_it_is_for_everyone_and_loads_nothing(page: Page, browser: Browser, folder: Path) -> None:
    place = (folder / "report.html").as_uri()
    seen = watch(page)
    page.reload()
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
        settle(page)
        assert violations(page) == []
    assert seen.problems == [] and {url for url in seen.requests if not url.startswith("data:")} == {place}
    with browser.new_page(viewport={"width": 360, "height": 780}, is_mobile=True) as phone:
        phone.goto(place)
        phone.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
        settle(phone)
        assert phone.evaluate("[document.documentElement.scrollWidth, document.body.scrollWidth]") == [360, 360]
        assert violations(phone) == []


def test_without_pictures_or_comparisons_the_page_is_made_all_the_same(report: dict[str, Any]) -> None:
    section = pixels_section(report, None)
    assert section is not None and "<img" not in section.body and "Confusions that moved" in section.body
    plain = report | {"variants": [{k: x for k, x in v.items() if k != "comparison"} for v in report["variants"]]}
    assert pixels_section(plain, None) is None


def test_too_few_images_are_said(report: dict[str, Any]) -> None:
    few = report["enough_images"] | {"smallest_drop_pp": 1.7, "images_needed": 96, "enough": False}
    section = pixels_section(report | {"enough_images": few}, None)
    assert section is not None and "Not enough images</b> to be sure of the gate." in section.body
    assert "±\u00a01.70 points, but the gate of 99 % allows 0.86 points. About 96 would be." in section.body


def test_names_are_never_markup(report: dict[str, Any], tmp_path: Path) -> None:
    split = write_photos(tmp_path)
    evil = segmented()
    found = strips(evil, answers(), split, SPEC)
    assert found is not None
    evil["reference"]["name"] += EVIL
    for variant in evil["variants"]:
        for key in ("name", "backend"):
            variant[key] += EVIL
        more = variant.get("comparison", {"per_class": (), "confusion_moved": (), "images": ()})
        for row in (*more["per_class"], *more["confusion_moved"]):
            for key in {"label", "predicted"} & set(row):
                row[key] += EVIL
    evil["recommended"] = None
    legend = tuple((name + EVIL, colour) for name, colour in found.legend)
    changed = type(found)(found.engine + EVIL, found.strips, legend, found.hatched)
    html = html_page(evil, evil["reference"], MODE, b"png", (), changed, "")
    assert EVIL not in html.split("<script type", 1)[0] and html.count("&lt;b&gt;x") > 60
