"""The pure parts of tests/bench/peers: what is kept and when it is measured anew, the table, and who is called the fastest."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from bench.kept_results import differences, keep, read_kept, write_page
from bench.peers.graphs import LABELS, LITERAL, NNCF, NNCF_ONNX, OURS, OURS_BF16, OURS_FP32, PEERS, last_error, no_bf16
from bench.peers.kept import results_path
from bench.peers.measure import BACKENDS, speeds, take_turns
from bench.peers.table import network_text, table, verdict, wrong
from literal_export import restore_epsilon

from export.runner import TensorInfo


def timed(speed: float, *, against_ours: float, spread: float = 0.02, **more: Any) -> dict[str, Any]:
    """A row that ran at batch 1; `against_ours` is how much faster than our INT8 it is."""
    around = {"ms": 10 / speed, "to_fp32": [speed - spread, speed, speed + spread]}
    around["to_ours"] = [against_ours - spread, against_ours, against_ours + spread]
    layers = {"int8": 40, "fp16": 0, "fp32": 6}
    return {"layers": layers, "finite": True, "snr_db": 40.0, "speeds": {"1": around}} | more


@pytest.fixture
def rows() -> dict[str, dict[str, Any]]:
    """Ours is the fastest; one tool is not installed, one stops."""
    absent = {label: {"unavailable": "not here"} for label in LABELS}
    return absent | {
        LITERAL: timed(1.0, against_ours=0.5),
        OURS_FP32: timed(1.1, against_ours=0.55),
        OURS: timed(2.0, against_ours=1.0, agreement=99.8),
        NNCF: {"unavailable": "pip install -e '.[bench]'"},
        NNCF_ONNX: timed(1.8, against_ours=0.9, agreement=99.5),
        PEERS[3]: timed(1.6, against_ours=0.8, agreement=99.1),
        PEERS[4]: {"error": "it stops: ValueError: a | b"},
    }


def test_the_fastest_is_called_so(rows: dict[str, Any]) -> None:
    assert verdict(rows, "1") == f"ours is the fastest of 3: 2.00×, then {NNCF_ONNX} 1.80×; agreement 99.80 %"


def test_a_faster_tool_is_named_with_both_accuracies(rows: dict[str, Any]) -> None:
    rows[NNCF_ONNX] = timed(2.4, against_ours=1.2, agreement=99.5)
    told = f"slower than {NNCF_ONNX}: 2.00× against 2.40×, agreement 99.80 % against 99.50 %"
    assert verdict(rows, "1") == told
    rows[PEERS[3]] = timed(2.2, against_ours=1.1, agreement=99.9)
    assert verdict(rows, "1") == (told.replace(":", " and 1 more:", 1) + f"; {PEERS[3]} agrees more often: 99.90 %")


def test_within_the_quartiles_nobody_is_faster(rows: dict[str, Any]) -> None:
    rows[NNCF_ONNX] = timed(2.02, against_ours=1.01, agreement=99.5)
    assert verdict(rows, "1").startswith(f"as fast as {NNCF_ONNX}: 2.00× against 2.02×")
    rows[NNCF_ONNX] = timed(1.9, against_ours=1.1, agreement=99.5)  # what a busy machine can print
    assert verdict(rows, "1").startswith(f"as fast as {NNCF_ONNX}: 2.00× against 1.90×")


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"finite": False, "snr_db": None}, "its logits are not finite"),
        ({"snr_db": 0.0}, "its logits are others, 0.0 dB"),
        ({"top1": 87.0, "fp32_top1": 88.7}, "top-1 87.00, FP32 88.70"),
    ],
)
def test_a_graph_that_does_not_compute_the_network_beats_nobody(
    rows: dict[str, Any], changed: dict[str, Any], reason: str
) -> None:
    rows[NNCF_ONNX] = timed(4.0, against_ours=2.0, **changed)
    assert wrong(rows[NNCF_ONNX]) == reason
    assert verdict(rows, "1").startswith("ours is the fastest of 2: ")
    assert verdict(rows, "1").endswith(f"{NNCF_ONNX} is faster and wrong: {reason}")
    assert not wrong(timed(4.0, against_ours=2.0, top1=88.0, fp32_top1=88.7))


def test_our_own_failures_are_told(rows: dict[str, Any]) -> None:
    rows[OURS_FP32] = timed(2.5, against_ours=1.25)
    assert verdict(rows, "1").endswith("; slower than its own FP32")
    rows[OURS]["finite"] = False
    assert verdict(rows, "1").startswith("ours is wrong: its logits are not finite; ")
    rows[OURS] = {"error": "OpenVINO: no"}
    assert verdict(rows, "1") == "ours does not run: OpenVINO: no"


def test_the_table_has_a_line_for_each_row_and_says_what_is_missing(rows: dict[str, Any]) -> None:
    rows[NNCF_ONNX]["finite"] = False
    lines = table({"openvino": rows, "onnxruntime": rows | {NNCF: {"unavailable": "it is made for OpenVINO"}}}, [1])
    assert len({line.replace("\\|", "").count("|") for line in lines}) == 1
    shown = {tuple(line.split(" | ")[:2]): line for line in lines[2:]}
    assert len(shown) == 2 * len(LABELS) - 1 and ("| ONNX Runtime", NNCF) not in shown
    assert "| OpenVINO | ours INT8 | 40 of 46 | 5.00 | 2.00 (1.98–2.02) | 99.80 | 40.0 |" in lines
    assert "| unavailable: pip install -e '.[bench]' |" in shown["| OpenVINO", NNCF]
    assert "| it stops: ValueError: a \\| b |" in shown["| OpenVINO", PEERS[4]]
    assert shown["| OpenVINO", NNCF_ONNX].endswith("| NaN |") and "top-1" not in lines[0]


def result(rows: dict[str, Any], **settings: Any) -> dict[str, Any]:
    of = {
        "cpu": "Some CPU",
        "threads": 2,
        "rounds": 5,
        "calls": 5,
        "batches": [1],
        "versions": {"nncf": None},
    } | settings
    return {"told": "random weights, 224 px", "settings": of, "rows": dict.fromkeys(BACKENDS, rows)}


def test_a_network_has_a_heading_and_a_verdict_for_each_backend(rows: dict[str, Any]) -> None:
    text = network_text("t2t_vit_7", result(rows))
    assert text.startswith("### t2t_vit_7\n\nrandom weights, 224 px; Some CPU; 2 threads; 5 rounds of 5 calls; ")
    assert [line.split(": ")[0] for line in text.splitlines() if line.startswith("- ")] == [
        "- OpenVINO, batch 1", "- ONNX Runtime, batch 1",
    ]  # fmt: skip


def test_results_are_kept_by_machine_and_network(tmp_path: Path, rows: dict[str, Any]) -> None:
    path = results_path(tmp_path / "results", "AMD EPYC, 2 cores, INT8 instructions: none")
    assert path.name == "peers-amd-epyc-2-cores-no-int8-instructions.json" and read_kept(path) == {}
    keep(path, "a", result(rows))
    keep(path, "b", result(rows))
    keep(path, "a", result(rows, rounds=15))
    kept = read_kept(path)
    assert kept == json.loads(path.read_text()) and sorted(kept) == ["a", "b"] and kept["a"]["settings"]["rounds"] == 15
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_what_is_otherwise_is_named(rows: dict[str, Any]) -> None:
    now = result(rows, rounds=15, versions={"nncf": "3.4.0"})["settings"]
    assert differences(result(rows), now) == ["rounds 5 → 15", "nncf None → 3.4.0"]
    assert differences(result(rows), result(rows)["settings"]) == []


def test_the_page_gets_the_tables_between_its_markers(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- a -->\nold\n<!-- /a -->\nafter\n", encoding="utf-8")
    write_page(page, ["one\n", "two\n"], "<!-- a -->", "<!-- /a -->")
    assert page.read_text(encoding="utf-8") == "before\n<!-- a -->\n\none\n\ntwo\n\n<!-- /a -->\nafter\n"


class Counted:
    """A runner that counts its calls."""

    inputs = outputs = (TensorInfo("images", (None, 2, 2, 3), "uint8"),)

    def __init__(self, order: list[str], name: str):
        self.order, self.name = order, name

    def infer(self, feeds: Any) -> dict[str, Any]:
        self.order.append(self.name)
        return {}


def test_all_take_turns_and_the_first_round_is_not_timed() -> None:
    order: list[str] = []
    runners: Any = {name: Counted(order, name) for name in "ab"}
    seconds = take_turns(runners, np.zeros((1, 2, 2, 3), np.uint8), rounds=2, calls=3)
    # each turn begins with untimed calls, three at least, and has three timed ones; a round to warm up
    assert re.fullmatch("(a{6,}b{6,}){3}", "".join(order))
    assert {name: len(times) for name, times in seconds.items()} == {"a": 2, "b": 2}


def test_ratios_are_of_each_round() -> None:
    measured = speeds({LITERAL: [4.0, 8.0, 4.0], OURS: [2.0, 2.0, 1.0], NNCF: [1.0, 2.0, 1.0]})
    assert measured[OURS] == {"ms": 2000.0, "to_fp32": [3.0, 4.0, 4.0], "to_ours": [1.0, 1.0, 1.0]}
    assert measured[NNCF]["to_ours"] == [1.0, 1.0, 1.5]
    assert speeds({OURS_FP32: [2.0], OURS: [1.0]})[OURS]["to_fp32"] == [2.0, 2.0, 2.0]  # no literal form
    assert speeds({OURS_FP32: [2.0]})[OURS_FP32]["to_ours"] is None


def test_bf16_says_why_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert OURS_BF16 in LABELS and "goes with openvino" in no_bf16("onnxruntime")
    monkeypatch.setattr("bench.peers.graphs.bf16_instructions", lambda: [])
    assert no_bf16("openvino") == "this CPU has neither AVX512_BF16 nor AMX_BF16"
    monkeypatch.setattr("bench.peers.graphs.bf16_instructions", lambda: ["avx512_bf16"])
    assert no_bf16("openvino") == ""


def test_the_literal_export_gets_back_its_epsilon() -> None:
    nodes = [
        onnx.helper.make_node("Unsqueeze", ["normaliser", "axis"], ["column"]),
        onnx.helper.make_node("Div", ["context", "column"], ["y"]),
    ]
    values = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
        for name, shape in (("context", [2, 3]), ("normaliser", [2]), ("y", [2, 3]))
    ]
    axis = onnx.numpy_helper.from_array(np.array([1]), "axis")
    graph = onnx.helper.make_graph(nodes, "performer", values[:2], values[2:], [axis])
    proto = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10)
    assert restore_epsilon(proto) == 1
    onnx.checker.check_model(proto, full_check=True)
    context, normaliser = np.array([[0, 1, 2], [0, 3e-8, 0]], np.float32), np.array([4, 0], np.float32)
    (y,) = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"]).run(
        None, {"context": context, "normaliser": normaliser}
    )
    np.testing.assert_allclose(y, [[0, 0.25, 0.5], [0, 3, 0]], rtol=1e-6)


def test_a_tool_that_stops_is_told_by_its_exception() -> None:
    told = "noise\nTraceback (most recent call last):\n  File x\nonnx.ModelError: two\n  lines\n"
    assert last_error(told) == "onnx.ModelError: two lines"
    assert last_error("first\nKilled\n") == "Killed" and last_error("") == "it says nothing"
