"""What devices measured, side by side: the best within a budget, and the page."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from reports import detailed

from pipeline.artifact import write_json
from pipeline.devices.check import difference
from pipeline.devices.joined import budgets_for, kept_reports, print_joined, within, write_page
from pipeline.devices.kept import ABOUT, Kept, take_files
from pipeline.devices.messages import Lost
from pipeline.devices.remote.supervisor import sha256
from pipeline.report.values.compared import Compared


@pytest.fixture
def kept(tmp_path: Path) -> Kept:
    """Two devices with the same engines, the second of them three times as slow, and one with an earlier bundle."""
    found = Kept.of(tmp_path)
    for name, speed, key in (("fast", 1.0, "k"), ("slow", 3.0, "k"), ("old", 1.0, "another")):
        folder = found.partial(name)
        (folder / "report").mkdir()
        write_json(folder / "report" / "report.json", detailed(speed=speed))
        found.keep(name, folder, {"bundle": key}, "log")
    return found


def test_the_most_accurate_within_a_budget(kept: Kept) -> None:
    fast, slow = kept_reports(kept, "k")
    assert (fast.label, slow.label) == ("fast", "slow")
    passing = [v for v in fast.report["variants"] if v["status"] == "pass"]
    best = max(passing, key=lambda v: v["top1"])
    assert within(fast.report, None) is not None and within(fast.report, None)["top1"] == best["top1"]  # type: ignore[index]
    assert within(fast.report, 0.0001) is None
    for budget in (1.0, 1.7, 2.1, 5.0):
        found = within(fast.report, budget)
        fitting = [v["top1"] for v in passing if v["latency_ms"]["p50"] <= budget]
        assert (found and found["top1"]) == (max(fitting) if fitting else None)
    assert budgets_for([fast], [5.0, 1.0, 5.0]) == [1.0, 5.0, None]
    assert budgets_for([fast, slow], [])[-1] is None


def test_the_page_has_every_engine_of_every_device(kept: Kept, capsys: pytest.CaptureFixture[str]) -> None:
    compared = kept_reports(kept, "k")
    text = write_page(kept, compared, [2.0]).read_text(encoding="utf-8")
    print_joined(compared, [2.0])
    printed = capsys.readouterr().out
    for one in compared:
        for variant in one.report["variants"]:
            assert f"{one.label} · {variant['backend']} · {variant['precision']}" in text
            assert variant["name"] in printed
    assert "2 devices" in text and "≤ 2 ms" in text and "Best within a budget" in text
    assert '"seriesTitle":"Device"' in text and "Devices, a table" in text and "Runs, a table" not in text
    assert "each device's FP32" in text.replace("&#39;", "'")
    assert "slow: most accurate within a budget: ≤ 2 ms: " in printed and "old" not in printed


def test_a_device_s_report_is_one_of_others(kept: Kept) -> None:
    assert [c.label for c in kept_reports(kept, "another")] == ["old"] and kept_reports(kept, "none") == []
    assert isinstance(kept_reports(kept, "k")[0], Compared)
    assert not (kept.results("fast") / ".partial").exists() and (kept.results("fast") / ABOUT).is_file()


class Stream:
    """Bytes, as a connection gives them."""

    def __init__(self, content: bytes):
        self.content = content

    def read(self, size: int) -> bytes:
        piece, self.content = self.content[:size], self.content[size:]
        return piece


def take(folder: Path, name: str, content: bytes, **changes: Any) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "x").write_bytes(b"{}")
    files = [{"name": name, "bytes": 2} | changes]
    take_files(folder, files, Stream(content), {"evaluation.json": sha256(folder / "x")})  # type: ignore[arg-type]


def test_only_results_are_taken_and_whole(tmp_path: Path) -> None:
    take(tmp_path / "a", "evaluation.json", b"{}")
    assert (tmp_path / "a" / "evaluation.json").read_bytes() == b"{}"
    for name, changes in (
        ("../x", {}),
        ("/etc/x", {}),
        ("log.txt", {}),
        ("benchmark.json", {}),
        ("evaluation.json", {"bytes": 1 << 50}),
    ):
        with pytest.raises(ValueError, match="no result of this run"):
            take(tmp_path / "b", name, b"{}", **changes)
    with pytest.raises(Lost, match="cut off"):
        take(tmp_path / "c", "evaluation.json", b"{")
    with pytest.raises(ValueError, match="its hash is another one"):
        take(tmp_path / "d", "evaluation.json", b"[]")


@pytest.mark.parametrize(
    ("theirs", "place"),
    [
        ({"a": [1.0, {"b": "x"}]}, ""), ({"a": [1.0 + 1e-9, {"b": "x"}]}, ""), ({"a": [1.1, {"b": "x"}]}, "report.a[0] is 1.1"),
        ({"a": [1.0, {"b": "y"}]}, "report.a[1].b is y"), ({"a": [1.0]}, "report.a: 1 entries"), ({}, "report: a"),
        ({"a": [True, {"b": "x"}]}, ""),
    ],
)  # fmt: skip
def test_where_two_values_differ(theirs: Any, place: str) -> None:
    ours = {"a": [1.0, {"b": "x"}]}
    assert difference(deepcopy(ours), theirs, "report").startswith(place) and bool(place) == bool(
        difference(ours, theirs, "report")
    )
