"""What TensorRT-RTX makes of our graphs, built ahead of time: INT8 layers, fused attentions, no FP32 that is not pinned.

`make prove` does this for every model, precision and GPU architecture; its rows are held to the same promises here.
"""

import json
import shutil
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import onnx
import pytest
from engine_graphs import (
    broken_promises,
    build_network,
    build_row,
    count_attentions,
    count_fusable,
    export_network,
    find_islands,
    image_size,
    photographs,
    write_precision,
)
from once import Once

from calib.calibration import CalibrationSet
from export.onnx_export import CLASS_KEY, MODULE_KEY

ROOT = Path(__file__).parents[4]
DATA, RESULTS = ROOT / "data" / "fashion-mnist.npz", ROOT / "results" / "prove.json"
BATCHES = {"1": (1, 1, 1), "1–8": (1, 8, 8)}
TARGET, FP8_TARGET = "sm86", "sm89"
SAME = ("entries", "kernels", "products", "attentions", "fp32", "islands")  # of a row that is built again
PINNED = {"performer": 2 * 4, "transformer": 0}  # products in FP32: one convolution and three products each

needs_rtx = pytest.mark.skipif(
    find_spec("tensorrt_rtx_bindings") is None or find_spec("onnxruntime_ep_nv_tensorrt_rtx") is None,
    reason="TensorRT-RTX is not installed (it exists for x86 Linux only)",
)

# Blocks that are kept: the others are the same again. Entries of each engine are at most those of TensorRT-RTX 1.7.1.
NETWORKS: dict[str, tuple[int | None, str]] = {
    "t2t_vit_mini": (None, "performer"), "t2t_vit_7": (2, "performer"), "t2t_vit_t_14": (2, "transformer"),
    "t2t_vit_t_mini": (None, "transformer"),
}  # fmt: skip
MOST_ENTRIES = {
    ("t2t_vit_mini", "fp16", "1"): 59, ("t2t_vit_mini", "fp16", "1–8"): 77,
    ("t2t_vit_mini", "int8", "1–8"): 74, ("t2t_vit_mini", "int8+attention", "1–8"): 70,
    ("t2t_vit_mini", "fp8", "1–8"): 70,
    ("t2t_vit_7", "fp16", "1"): 80, ("t2t_vit_7", "fp16", "1–8"): 111, ("t2t_vit_7", "int8", "1–8"): 105,
    ("t2t_vit_t_14", "fp16", "1"): 41, ("t2t_vit_t_14", "int8", "1–8"): 60,
    ("t2t_vit_t_mini", "fp16", "1"): 53, ("t2t_vit_t_mini", "int8+attention", "1"): 64,
}  # fmt: skip


class Network:
    """One exported network, and its graphs as they are asked for. `exported` is its FP32 graph where others have made it."""

    def __init__(self, name: str, once: Once, exported: Path | None):
        self.name, self._once = name, once
        self._calibration: CalibrationSet = photographs(DATA, image_size(name), 2)
        self._proto = onnx.load((exported or once(f"{name}-fp32", self._export)) / "fp32.onnx")
        self.attentions, self.fusable = count_attentions(self._proto), count_fusable(self._proto)

    def _export(self, folder: Path) -> None:
        export_network(build_network(self.name, NETWORKS[self.name][0]), folder / "fp32.onnx", self._calibration)

    def graph(self, precision: str, folder: Path) -> Path:
        """A copy in `folder`, where an engine may be built beside it."""

        def write(place: Path) -> None:
            write_precision(self._proto, precision, place / "graph.onnx", self._calibration)

        return shutil.copy(self._once(f"{self.name}-{precision}", write) / "graph.onnx", folder / f"{precision}.onnx")


@pytest.fixture(scope="module")
def networks(once: Once, transformer_onnx: Path) -> Callable[[str], Network]:
    """t2t_vit_t_mini has three classes here and weights by rule; its engines are those of the table all the same."""
    return cache(lambda name: Network(name, once, transformer_onnx if name == "t2t_vit_t_mini" else None))


@needs_rtx
@pytest.mark.parametrize(("name", "precision", "batch"), list(MOST_ENTRIES))
def test_an_engine_keeps_its_promises(
    networks: Callable[[str], Network], tmp_path: Path, name: str, precision: str, batch: str
) -> None:
    network = networks(name)
    assert network.fusable == network.attentions, "every attention of these networks has a fused kernel"
    target = FP8_TARGET if precision == "fp8" else TARGET
    row = build_row(network.graph(precision, tmp_path), target, BATCHES[batch]) | {
        "attentions_fusable": network.fusable
    }
    assert broken_promises(row, precision) == [], row
    depth, kind = NETWORKS[name]
    if depth is None:
        kept = json.loads(RESULTS.read_text(encoding="utf-8"))[f"{name} {precision} {target} {batch}"]
        assert {key: row[key] for key in SAME} == {key: kept[key] for key in SAME}, "the table is of another graph"
    tokens = 2 if kind == "transformer" else 0
    assert network.attentions == (depth or {"t2t_vit_mini": 4, "t2t_vit_7": 7, "t2t_vit_t_mini": 4}[name]) + tokens
    fused = "int8" if precision == "int8+attention" else "fp16"
    assert row["attentions"] == {fused: network.attentions}
    assert row["products"]["fp32"] == PINNED[kind]
    assert row["entries"] <= MOST_ENTRIES[name, precision, batch], row


@pytest.mark.parametrize("key", [f"{name} {precision} {target} {batch}" for name in NETWORKS
                                 for precision in ("fp16", "int8", "int8+attention", "fp8")
                                 for target in ("sm86", "sm89", "sm120") for batch in BATCHES
                                 if (precision, target) != ("fp8", "sm86")])  # fmt: skip
def test_the_table_holds_these_networks_whole(key: str) -> None:
    """The rows that docs/tensorrt-graph.md shows: a promise broken there breaks this test, and so does a missing row."""
    row = json.loads(RESULTS.read_text(encoding="utf-8"))[key]
    assert "error" not in row and row["broken"] == []
    assert sum(row["attentions"].values()) == row["attentions_in_graph"] == row["attentions_fusable"]
    if key.startswith("t2t_vit_7 fp16") and key.endswith(" 1"):
        assert row["entries"] <= 80


SEGMENTATION = ("fpn_mini", "vt_fpn_mini", "fpn_resnet18", "vt_fpn_resnet18", "vt_fpn_resnet50")


@pytest.mark.parametrize("key", [f"{name} {precision} {target} {batch}" for name in SEGMENTATION
                                 for precision in ("fp16", "int8")
                                 for target in ("sm86", "sm89", "sm120") for batch in BATCHES])  # fmt: skip
def test_the_table_holds_segmentation_networks(key: str) -> None:
    """All of INT8 is INT8, no attention of VT-FPN must be fused, and up-sampling costs INT8 engines no kernel."""
    row = json.loads(RESULTS.read_text(encoding="utf-8"))[key]
    name, precision = key.split()[:2]
    assert row["broken"] == [] and row["products"][precision] == row["products_in_graph"][precision] > 0
    assert row["attentions_in_graph"] == (5 if name.startswith("vt_") else 0)
    assert row["attentions_fusable"] == 0
    if precision == "int8":
        assert row["resizes"] == {"alone": 0, "fused": 7 if name.startswith("vt_") else 10}


@needs_rtx
def test_a_segmentation_engine_is_that_of_the_table(once: Once, tmp_path: Path) -> None:
    calibration = photographs(DATA, image_size("vt_fpn_mini"), 2)

    def write(folder: Path) -> None:
        proto = export_network(build_network("vt_fpn_mini"), folder / "fp32.onnx", calibration)
        write_precision(proto, "int8", folder / "graph.onnx", calibration)

    graph = shutil.copy(once("vt_fpn_mini-int8", write) / "graph.onnx", tmp_path)
    row = build_row(Path(graph), TARGET, BATCHES["1"])
    kept = json.loads(RESULTS.read_text(encoding="utf-8"))[f"vt_fpn_mini int8 {TARGET} 1"]
    same = (*SAME, "products_in_graph", "scaling", "resizes")
    assert {key: row[key] for key in same} == {key: kept[key] for key in same}


@pytest.mark.parametrize(
    ("classes", "operator", "islands"),
    [
        ("T2TViT TokensToToken TokenPerformer", "Exp", []),
        ("T2TViT Block LayerNorm", "LayerNormalization", []),
        ("T2TViT Block Mlp", "Gelu", ["blocks.0"]),
        ("", "Cast", ["blocks.0"]),
    ],
)
def test_islands_are_what_is_neither_pinned_nor_a_norms_statistics(
    classes: str, operator: str, islands: list[str]
) -> None:
    node: Any = onnx.helper.make_node(operator, ["x"], ["y"], "node_00007")
    node.metadata_props.add(key=MODULE_KEY, value="blocks.0")
    node.metadata_props.add(key=CLASS_KEY, value=classes)
    proto = onnx.helper.make_model(onnx.helper.make_graph([node], "g", [], []))
    assert find_islands(proto, (("node_00007", "made_by_the_builder"),)) == islands
