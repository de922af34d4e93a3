import json
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

import pytest
from browser import find_chromium, settle, violations, watch
from PIL import Image
from playwright.sync_api import Browser
from reports import detailed

from calib.errors import InputError
from pipeline.cli import main
from pipeline.console.exit_status import DONE, WRONG_INPUT
from pipeline.report.values.compared import read_compared
from pipeline.report.values.results import BEGIN, END, results_table, save_results, write_table

pytestmark = pytest.mark.slow
SCHEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")


def write_run(runs: Path, name: str, **changes: Any) -> Path:
    """A run's folder with its report."""
    report = detailed(changes.pop("run", name), changes.pop("speed", 1.0)) | changes
    folder = runs / name
    (folder / "report").mkdir(parents=True)
    (folder / "report" / "report.json").write_text(json.dumps(report), encoding="utf-8")
    return folder


ORIN = {"cpu": "Cortex-A78AE, 6 cores, INT8 instructions: asimddp", "gpu": "Orin", "versions": {"tensorrt": "10.3.0"}}


@pytest.fixture
def runs(tmp_path: Path) -> list[str]:
    return [str(write_run(tmp_path, "a")), str(write_run(tmp_path, "b", speed=0.4, machine=ORIN))]


def test_runs_side_by_side_on_the_terminal_as_page_and_as_picture(
    runs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", "--compare", *runs, "--out", str(tmp_path / "out")]) == DONE
    shown = capsys.readouterr().out
    assert (
        shown.count("openvino-int8") == 2 and "different machines: Orin; a CPU, 2 cores, no INT8 instructions" in shown
    )
    picture = Image.open(BytesIO((tmp_path / "out" / "compare.png").read_bytes()))
    assert picture.size == (1280, 800)
    html = (tmp_path / "out" / "compare.html").read_text(encoding="utf-8")
    assert "2 runs" in html and "<h2" in html


@pytest.mark.skipif(find_chromium() is None, reason="no Chromium here: apt-get install chromium, or set CHROMIUM")
def test_the_comparison_in_a_browser_switches_by_run_and_names_a_winner_across_them(
    runs: list[str], tmp_path: Path, browser: Browser
) -> None:
    assert main(["report", "--compare", *runs, "--out", str(tmp_path / "out")]) == DONE
    reports = {c.label: c.report for c in read_compared([Path(run) for run in runs])}
    place = (tmp_path / "out" / "compare.html").as_uri()
    with browser.new_page(viewport={"width": 360, "height": 780}, is_mobile=True) as page:
        page.goto(place)
        assert page.evaluate("document.documentElement.scrollWidth") == 360
        assert violations(page) == []
    with browser.new_page(viewport={"width": 1280, "height": 900}) as page:
        seen = watch(page)
        page.goto(place)
        assert page.locator("#plot .point").count() == 8
        fast = reports["b"]["recommended"]["name"]
        ms = 1.01 * min(v["latency_ms"]["p50"] for v in reports["b"]["variants"] if v["status"] == "pass")
        page.fill("#budget-ms", str(ms))
        page.press("#budget-ms", "Tab")
        assert f"b: {fast}" in page.inner_text("#winner")
        page.click("input[name=series][value=b]")
        assert page.locator("#plot .point").count() == 4
        assert page.locator(".engines tbody").count() == 10
        assert seen.problems == []
        assert {url for url in seen.requests if not url.startswith("data:")} == {place}
        for scheme in SCHEMES:
            page.emulate_media(color_scheme=scheme)
            settle(page)
            assert violations(page) == []


@pytest.mark.skipif(find_chromium() is None, reason="no Chromium here: apt-get install chromium, or set CHROMIUM")
def test_runs_of_different_images_have_no_winner(tmp_path: Path, browser: Browser) -> None:
    """Accuracies on different images are not comparable: neither front nor winner, until runs of one set are left."""
    runs = [write_run(tmp_path, "a"), write_run(tmp_path, "b")]
    place = runs[1] / "report" / "report.json" if runs[1].is_dir() else runs[1]
    report = json.loads(place.read_text(encoding="utf-8"))
    report["dataset"]["name"] = "other photographs"
    place.write_text(json.dumps(report), encoding="utf-8")
    assert main(["report", "--compare", *map(str, runs), "--out", str(tmp_path / "out")]) == DONE
    with browser.new_page() as page:
        page.goto((tmp_path / "out" / "compare.html").as_uri())
        assert "No winner among engines that were evaluated on different images" in page.inner_text("#winner")
        assert page.locator("#plot path.front").count() == 0 and page.locator("#plot .best").count() == 0
        page.click("input[name=series][value=b]")
        assert "Most accurate" in page.inner_text("#winner") and page.locator("#plot path.front").count() == 1


def test_results_are_kept_by_machine_and_read_back(runs: list[str], tmp_path: Path) -> None:
    place = tmp_path / "results"
    command = ["report", "--compare", *runs, "--out", str(tmp_path / "out"), "--save", str(place)]
    assert main(command) == DONE
    assert sorted(path.name for path in place.iterdir()) == ["a-cpu-2-cores-no-int8-instructions.json", "orin.json"]
    before = (place / "orin.json").read_bytes()
    assert main(command) == DONE
    assert (place / "orin.json").read_bytes() == before, "the same run takes its own place"
    (kept,) = read_compared([place / "orin.json"])
    original = detailed("b", 0.4)
    assert [v["top1"] for v in kept.report["variants"]] == [v["top1"] for v in original["variants"]]
    assert not any("comparison" in v or "percentiles_ms" in v for v in kept.report["variants"])
    (place / "prove.json").write_text('{"another tool": 1}')
    assert [c.label for c in read_compared([place])] == ["a", "b"], "a folder of results files, and of other things"
    save_results([detailed("c")], place / "orin.json", "Orin")
    assert [c.label for c in read_compared([place / "orin.json"])] == ["b", "c"]


def test_the_table_goes_between_its_markers_and_nowhere_else(runs: list[str], tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n", encoding="utf-8")
    command = ["report", "--compare", *runs, "--out", str(tmp_path / "out"), "--table", str(readme)]
    assert main(command) == DONE
    text = readme.read_text(encoding="utf-8")
    assert (
        text.startswith(f"before\n{BEGIN}\n| Model, data |")
        and text.endswith(f"\n{END}\nafter\n")
        and "old" not in text
    )
    assert main(command) == DONE and readme.read_text(encoding="utf-8") == text
    (report,) = [c.report for c in read_compared([Path(runs[1])])]
    table = results_table([("Orin", report)])
    front = [v for v in report["variants"] if v["pareto"]]
    assert len(table.splitlines()) == 2 + len(front)
    others = [v | {"pareto": False, "images_per_s": {"1": 1.0, "8": None}} for v in report["variants"]]
    quick = next(v for v in others if v["status"] == "pass") | {"images_per_s": {"1": 2.0, "8": 9.0}}
    crowd = [quick if v["name"] == quick["name"] else v for v in others]
    (line,) = results_table([("Orin", report | {"variants": crowd})]).splitlines()[2:]
    assert quick["name"] in line and "9.00 (b8)" in line, "the most images/s, although it is on no front"
    best = next(v for v in front if v["name"] == report["recommended"]["name"])
    full = next(v for v in report["variants"] if v["precision"] == "fp32")
    assert f"**{best['name']}**" in table and "fail" not in table
    assert f"| {full['latency_ms']['p50'] / best['latency_ms']['p50']:.2f} |" in table


def test_a_folder_of_runs_and_one_document(runs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, place = tmp_path / "out", tmp_path / "results"
    assert (
        main(["report", "--compare", str(tmp_path), "--out", str(out), "--save", str(place / "all"), "--json"]) == DONE
    )
    found = json.loads(capsys.readouterr().out)
    name = detailed("a")["recommended"]["name"]
    assert found == {
        "command": "report", "recommended": {"a": name, "b": name},
        "written": [str(out / "compare.html"), str(out / "compare.png")], "next": f"open {out / 'compare.html'}",
        "saved": [str(place / "all" / name) for name in ("a-cpu-2-cores-no-int8-instructions.json", "orin.json")],
        "exit_status": DONE,
    }  # fmt: skip


def test_names_tell_runs_apart(tmp_path: Path) -> None:
    paths = [
        write_run(tmp_path / "1", "demo"),
        write_run(tmp_path / "2", "demo", machine=ORIN),
        write_run(tmp_path, "x"),
    ]
    labels = [c.label for c in read_compared([*paths, paths[0]])]
    assert len(set(labels)) == 4 and labels[1:3] == ["demo, Orin", "x"]


def test_wrong_input_is_said_clearly(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = write_run(tmp_path, "good")
    (tmp_path / "empty").mkdir()
    (tmp_path / "torn.json").write_text('{"schema": 1,', encoding="utf-8")
    (tmp_path / "other.json").write_text('{"schema": 1, "runs": [{"schema": 1}]}', encoding="utf-8")
    readme = tmp_path / "README.md"
    readme.write_text("no markers\n", encoding="utf-8")
    for arguments, message in [
        (["--compare", str(tmp_path / "empty")], "has no report"),
        (["--compare", str(tmp_path / "none")], "t2t-edge report --run NAME"),
        (["--compare", str(good), "--dry-run"], "there is nothing to plan"),
        (["--compare", str(tmp_path / "torn.json")], "is no report"),
        (["--compare", str(tmp_path / "other.json")], "run: Field required"),
        (["--compare", str(good), "--table", str(readme)], "a line <!-- results:begin -->"),
        (["--compare", str(good), "--save", str(tmp_path / "torn.json")], "is no results file"),
    ]:
        assert main(["report", *arguments, "--out", str(tmp_path / "out")]) == WRONG_INPUT
        assert message in capsys.readouterr().err
    assert readme.read_text(encoding="utf-8") == "no markers\n"
    with pytest.raises(InputError, match="has no place for the table"):
        write_table(tmp_path / "missing.md", "")


def test_one_file_does_not_take_two_machines(
    runs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["report", "--compare", *runs, "--out", str(tmp_path / "out"), "--save", str(tmp_path / "all.json")]
    assert main(command) == WRONG_INPUT
    assert "a results file holds one machine" in capsys.readouterr().err and not (tmp_path / "all.json").exists()
