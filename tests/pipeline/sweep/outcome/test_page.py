"""The sweep's page in a real browser: filters, slider, front, and the command of the engine to take."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import find_chromium, settle, violations, watch
from playwright.sync_api import Browser, Page
from sweeps import small

from pipeline.sweep.outcome.write import write_outcome

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_chromium() is None, reason="no Chromium here: apt-get install chromium, or set CHROMIUM"),
]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sweep")
    write_outcome(small(budget_ms=3.0), folder)
    return folder / "sweep.html"


@pytest.fixture
def page(browser: Browser, place: Path) -> Iterator[Page]:
    with browser.new_page(viewport={"width": 1280, "height": 900}) as page:
        page.goto(place.as_uri())
        yield page


def front(page: Page) -> list[list[str]]:
    return list(
        page.evaluate(
            "[...document.querySelectorAll('#front tbody tr')].map(r => [...r.cells].slice(0, 5).map(c => c.textContent))"
        )
    )


def rows(page: Page, table: str) -> int:
    return int(page.evaluate(f"[...document.querySelectorAll('{table}')].filter(r => !r.hidden).length"))


def press(page: Page, name: str, value: str) -> None:
    page.evaluate(f'document.querySelector(\'#chart input[name="{name}"][value="{value}"]\').click()')


def test_it_begins_with_the_sweeps_budget_and_names_the_engine_and_its_command(page: Page) -> None:
    said = page.inner_text("#winner")
    assert "within 3.00 ms" in said and "large-32: openvino-fp32" in said and "88.10 %" in said
    assert "model.name large, model.image_size 32, precision fp32, backend openvino" in said
    assert "t2t-edge predict --run large-32 --runs runs/nets --engine openvino-fp32 IMAGE" in said


def test_the_front_that_is_served_is_the_one_that_the_script_draws(page: Page, browser: Browser, place: Path) -> None:
    with browser.new_context(java_script_enabled=False) as context:
        plain = context.new_page()
        plain.goto(place.as_uri())
        served = [row.locator("th, td").all_inner_texts()[:5] for row in plain.locator("#front tbody tr").all()]
        assert plain.locator(".picture img").count() == 1 and plain.locator(".engines tbody").count() == 20
    assert served == front(page) and len(served) == 6


def test_filters_hold_for_chart_tables_front_and_winner(page: Page) -> None:
    press(page, "axis-model.name", "large")
    assert [row[0] for row in front(page)] == ["small-32", "small-32", "small-64", "small-64"]
    assert rows(page, ".engines tbody") == 10 and rows(page, "#points tbody tr") == 2
    assert page.evaluate("document.querySelectorAll('.engines tbody:not([hidden]) .front').length") == 4
    assert page.locator("#plot .point").count() == 8
    press(page, "axis-precision", "fp32")
    assert [row[2] for row in front(page)] == ["onnxruntime-int8", "onnxruntime-int8"]
    assert "small-64: onnxruntime-int8" in page.inner_text("#winner") and "within 3.00 ms" in page.inner_text("#winner")
    press(page, "axis-model.name", "small")
    assert front(page) == [] and rows(page, ".engines tbody") == 0 and "Nothing to show" in page.inner_text("#plot")


def test_the_least_score_and_the_budget_hold_together(page: Page) -> None:
    page.fill("#least", "88.15")
    page.press("#least", "Tab")
    assert "no engine that passes" in page.inner_text("#winner")
    page.fill("#budget-ms", "4")
    page.press("#budget-ms", "Tab")
    assert "large-64: onnxruntime-int8" in page.inner_text("#winner")


def test_it_loads_nothing_and_keeps_nobody_out(page: Page, browser: Browser, place: Path) -> None:
    seen = watch(page)
    page.reload()
    settle(page)
    assert seen.problems == [] and {url for url in seen.requests if not url.startswith("data:")} == {place.as_uri()}
    page.emulate_media(color_scheme="dark")
    settle(page)
    assert violations(page) == []
    with browser.new_page(viewport={"width": 360, "height": 780}, is_mobile=True) as phone:
        phone.goto(place.as_uri())
        assert phone.evaluate("document.documentElement.scrollWidth") == 360
        assert violations(phone) == []
