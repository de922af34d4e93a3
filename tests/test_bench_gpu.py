"""tests/bench/gpu.py on a CPU: INT8, precisions, what is counted, parts that fail, what is kept, tables, a bare checkout."""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bench import gpu
from bench.gpu_parts.clock import allow_tf32
from bench.gpu_parts.failures import Progress
from bench.gpu_parts.forward import Forward, measure_forward
from bench.gpu_parts.int8 import (
    NO_CONVOLUTION,
    Int8Linear,
    Seen,
    calibrate,
    decide_layers,
    quantize,
)
from bench.gpu_parts.machine import default_path
from bench.gpu_parts.networks import build_network, embedded_images, lower
from bench.gpu_parts.parts import CPU, GPU, RTX, Part, Variant, forward, training
from bench.gpu_parts.roofline import count_work, datasheet, least_seconds
from bench.gpu_parts.rtx import try_tensorrt_rtx
from bench.gpu_parts.run import Outcome, run_part, run_parts
from bench.gpu_parts.table import NOTHING, part_in_words, tables
from bench.gpu_parts.training import measure_training
from bench.kept_results import keep, read_kept
from only_packages import only
from torch import nn

from calib.precision.closeness import compare_logits
from calib.precision.smoothing import quantize_dequantize

ROOT = Path(__file__).parents[1]
DEVICE = torch.device("cpu")
MINI = "t2t_vit_mini"
QUICK = replace(CPU, rounds=1, images=4, calibration_images=4, turn_seconds=0.0)
KERNEL = "feeds or belongs to the token attention's kernel"
ONE_ROW = "one row per image: a matrix-vector product gains nothing"


@pytest.fixture(autouse=True)
def switches() -> Iterator[None]:
    """What the benchmark sets for a whole process."""
    precision, cudnn = torch.get_float32_matmul_precision(), torch.backends.cudnn
    before = cudnn.allow_tf32, cudnn.benchmark
    yield
    torch.set_float32_matmul_precision(precision)
    cudnn.allow_tf32, cudnn.benchmark = before


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.from_numpy(embedded_images("val", 4, 32))


# --- INT8 -----------------------------------------------------------------------------------------------------------


def test_an_int8_layer_computes_on_the_grid_and_sums_exactly() -> None:
    torch.manual_seed(0)
    linear = nn.Linear(24, 8)
    x = 3 * torch.randn(2, 17, 24)
    amax = 4.0  # clips
    expected = quantize_dequantize(x.numpy(), amax) @ quantize_dequantize(
        linear.weight.detach().numpy().T, linear.weight.detach().abs().amax(1).numpy()
    )
    expected += linear.bias.detach().numpy()
    got = Int8Linear(linear, amax, torch.float32)(x).numpy()
    assert got.shape == (2, 17, 8)
    difference = np.abs(got - expected)
    assert difference.max() < 1e-5, f"max {difference.max():.1e}, mean {difference.mean():.1e}"


def test_sums_beyond_fp16_do_not_overflow() -> None:
    linear = nn.Linear(1024, 8, bias=False)
    nn.init.constant_(linear.weight, 1.0)
    y = Int8Linear(linear, 1.0, torch.float16)(torch.ones(17, 1024, dtype=torch.float16))
    assert y.dtype == torch.float16
    assert torch.equal(y.float(), torch.full((17, 8), 1024.0))  # the integer sum is 127² · 1024


def test_a_layer_without_signal_gives_its_bias() -> None:
    linear = nn.Linear(8, 8)
    nn.init.zeros_(linear.weight)
    y = Int8Linear(linear, 0.0, torch.float32)(torch.zeros(17, 8))
    assert torch.equal(y, linear.bias.detach().expand(17, 8))


def test_layers_of_a_t2t_vit_are_those_of_the_policy(images: torch.Tensor) -> None:
    network = build_network(MINI, 32, DEVICE)
    decisions = decide_layers(network, calibrate(network, images, 2), 4)
    assert (
        sum(of.int8 for of in decisions) == 22
    )  # qkv, proj, fc1, fc2 of four blocks, proj and MLP of two token attentions
    left = {of.layer.name: of.reason for of in decisions if not of.int8}
    assert left == {
        "network.tokens_to_token.attention1.kqv": KERNEL,
        "network.tokens_to_token.attention2.kqv": KERNEL,
        "network.tokens_to_token.project": NO_CONVOLUTION,
        "network.head": ONE_ROW,
    }


class Widths(nn.Module):
    """Layers that torch._int_mm takes, and layers that it does not; tokens (B, 5, 24)."""

    def __init__(self) -> None:
        super().__init__()
        self.good, self.odd, self.narrow = nn.Linear(24, 32), nn.Linear(24, 20), nn.Linear(24, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat((self.good(x), self.odd(x), self.narrow(x)), -1)


@pytest.mark.parametrize("batch, good", [(4, "weight layer"), (3, "torch._int_mm takes more than 16 rows")])
def test_what_int_mm_does_not_take_stays_in_floating_point(batch: int, good: str) -> None:
    network = Widths()
    decisions = decide_layers(network, calibrate(network, torch.randn(8, 5, 24), 4), batch)
    reasons = {of.layer.name: of.reason for of in decisions}
    assert reasons["good"] == good
    assert reasons["narrow"] == "narrower than 16 channels"
    if batch == 4:
        assert reasons["odd"] == "torch._int_mm takes widths that are multiples of 8"


def test_calibration_sees_rows_and_the_largest_magnitude() -> None:
    network = Widths()
    x = torch.randn(8, 5, 24)
    seen = calibrate(network, x, 3)
    assert seen["good"] == Seen(5, float(x.abs().max()))
    assert not network.good._forward_pre_hooks


# --- precisions -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name, size", [(MINI, 32), ("t2t_vit_t_mini", 32), ("deit_tiny_patch16_224", 32)])
@pytest.mark.parametrize("dtype, least", [(torch.float16, 50.0), (torch.bfloat16, 30.0)])
def test_half_precision_is_near_fp32(
    name: str, size: int, dtype: torch.dtype, least: float, images: torch.Tensor
) -> None:
    network = build_network(name, size, DEVICE)
    half = lower(network, dtype)
    with torch.inference_mode():
        reference, logits = network(images), half(images)
    assert logits.dtype == torch.float32
    close = compare_logits(reference.numpy(), logits.numpy())
    assert least < close.snr_db < 90, str(close)
    assert all(parameter.dtype == torch.float32 for parameter in network.parameters())


def test_the_kernel_and_the_moments_stay_in_float32() -> None:
    half = lower(build_network(MINI, 32, DEVICE), torch.float16)
    kept = {name for name, value in half.named_parameters() if value.dtype == torch.float32}
    prefix = "network.tokens_to_token.attention"
    assert kept and all(name.startswith(prefix) for name in kept)
    assert {f"{prefix}1.attention.w", f"{prefix}1.attention.norm1.weight", f"{prefix}1.attention.kqv.weight"} <= kept


def test_int8_in_a_half_network_keeps_its_scales_and_is_near_fp32(images: torch.Tensor) -> None:
    network = build_network(MINI, 32, DEVICE)
    seen = calibrate(network, images, 4)
    copy = build_network(MINI, 32, DEVICE)
    quantized = quantize(copy, decide_layers(copy, seen, 4), seen, torch.float16)
    assert (quantized.int8, quantized.layers) == (22, 26)
    assert quantized.left_out == {KERNEL: 2, NO_CONVOLUTION: 1, ONE_ROW: 1}
    half = lower(copy, torch.float16)
    layers = [module for module in half.modules() if isinstance(module, Int8Linear)]
    assert len(layers) == 22
    assert {(layer.weight.dtype, layer.scale.dtype) for layer in layers} == {(torch.int8, torch.float32)}
    with torch.inference_mode():
        close = compare_logits(network(images).numpy(), half(images).numpy())
    assert 20 < close.snr_db < 50, str(close)


def test_weights_and_images_are_the_same_each_time() -> None:
    first, second = (build_network(MINI, 32, DEVICE).state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    photographs, drawings = np.split(embedded_images("val", 4, 32), 2)
    assert (photographs[..., 0] == photographs[..., 1]).all() and not (drawings[..., 0] == drawings[..., 1]).all()
    assert np.array_equal(embedded_images("val", 4, 32), np.concatenate((photographs, drawings)))


@pytest.mark.parametrize("allowed", [False, True])
def test_tf32_is_switched_for_products_and_for_convolutions(allowed: bool) -> None:
    allow_tf32(allowed)
    assert torch.backends.cuda.matmul.allow_tf32 is allowed and torch.backends.cudnn.allow_tf32 is allowed


# --- roofline -------------------------------------------------------------------------------------------------------


class Products(nn.Module):
    """One of each kind that is counted; x (2, 3, 8, 8)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.linear = nn.Conv2d(3, 16, 4, 4, bias=False), nn.Linear(16, 32, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = self.linear(self.conv(x).flatten(2).transpose(1, 2)).view(2, 4, 2, 16).transpose(1, 2)  # B heads T 16
        return nn.functional.scaled_dot_product_attention(tokens, tokens, tokens).relu()


def test_operations_and_bytes_are_those_on_paper() -> None:
    work = count_work(Products().requires_grad_(False), torch.randn(2, 3, 8, 8))
    operations = sorted(times * count for times, count, _, _ in work)
    conv, linear, attention = 2 * 2 * 4 * 16 * 48, 2 * 8 * 16 * 32, 2 * 2 * (2 * 2 * 4 * 4 * 16)
    assert operations == sorted((conv, linear, attention))
    moved = {count: of for _, count, of, _ in work}
    assert moved[conv] == 4 * (2 * 3 * 64 + 16 * 48 + 2 * 16 * 4)
    assert moved[linear] == 4 * (8 * 16 + 16 * 32 + 8 * 32)
    assert {kind for *_, kind in work} == {"float32"}


def test_int8_counts_bytes_of_int8_and_the_sums_that_are_written() -> None:
    layer = Int8Linear(nn.Linear(64, 32), 1.0, torch.float16)
    assert count_work(layer, torch.randn(17, 64)) == [(1, 2 * 17 * 64 * 32, 17 * 64 + 64 * 32 + 4 * 17 * 32, "int8")]


def test_the_least_time_is_the_longer_of_both_for_each_operator() -> None:
    peak = {"float32": 1.0, "tf32": 2.0, "half": None, "int8": 4.0, "bytes": 1.0}
    work = [(2, 3 * 10**12, 10**12, "float32"), (1, 10**12, 5 * 10**12, "int8")]
    assert least_seconds(work, peak, tf32=False) == pytest.approx(2 * 3 + 5)
    assert least_seconds(work, peak, tf32=True) == pytest.approx(2 * 1.5 + 5)
    assert least_seconds([(1, 1, 1, "half")], peak, tf32=False) is None
    assert least_seconds(work, None, tf32=False) is None


@pytest.mark.parametrize(
    "name, half",
    [
        ("NVIDIA H200", 989.4), ("NVIDIA H100 80GB HBM3", 989.4), ("NVIDIA H100 PCIe", 756), ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA A100-PCIE-40GB", 312), ("NVIDIA L4", 121), ("NVIDIA L40S", 362), ("Tesla T4", 65),
        ("NVIDIA GeForce RTX 4090", 165.2), ("NVIDIA H200 NVL", None), ("NVIDIA A10G", None),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None), ("Orin", None),
    ],
)  # fmt: skip
def test_gpus_are_known_by_name_and_unknown_ones_are_not_guessed(name: str, half: float | None) -> None:
    found = datasheet(name)
    assert (found["half"] if found else None) == half


# --- parts ----------------------------------------------------------------------------------------------------------


def test_the_parts_that_decide_the_targets_come_first() -> None:
    names = [part.name for part in GPU.parts]
    assert len(set(names)) == len(names)
    assert names[:3] == ["ceiling", "training-t2t_vit_14-256", "forward-t2t_vit_14-64"]
    deciding = [part for part in GPU.parts if part.batch >= 64 and not part.name.startswith(("bf16", "autotuned"))]
    assert {part.network for part in deciding} == {"t2t_vit_14", "deit_small_patch16_224", "t2t_vit_7"}
    assert (
        sum(part.seconds for part in GPU.parts[:7]) <= 60 * gpu.MINUTES and GPU.parts[6].name == "forward-t2t_vit_7-64"
    )
    assert all(part.seconds < GPU.limit for part in GPU.parts)


def test_a_forward_part_has_a_row_for_each_variant(tmp_path: Path) -> None:
    part = forward(MINI, 3, 10, size=32)
    row = measure_forward(part, QUICK, DEVICE, Progress(tmp_path / "p"), {"bf16": "signal 11"}, "eager")
    rows = row["variants"]
    assert list(rows) == [variant.name for variant in part.variants]
    assert {name for name, of in rows.items() if of == {"unavailable": "needs a GPU"}} == {
        "tf32", "fp16 graph", "fp16 compiled graph", "int8 compiled graph",
    }  # fmt: skip
    assert rows["bf16"] == {"failed": "signal 11"}
    assert rows["fp32"]["agreement"] == 100 and rows["fp32"]["snr_db"] is None and rows["fp32"]["speed"] == [1, 1, 1]
    assert rows["fp16"]["snr_db"] == pytest.approx(rows["fp16 compiled"]["snr_db"], abs=1)
    assert rows["fp16"]["snr_db"] > rows["int8 compiled"]["snr_db"] > 20
    assert rows["int8 compiled"]["weights_mib"] < 0.8 * rows["fp16"]["weights_mib"] < 0.5 * rows["fp32"]["weights_mib"]
    assert row["int8_layers"]["int8"] == 22 and row["images"] == 4
    assert set(row["work"]) == {"fp32", "fp16", "int8"} and row["work_failed"] == {}
    json.dumps(row)  # a file can hold it


def test_a_variant_that_fails_is_a_row_and_the_next_one_goes_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    made = Forward.network_in

    def network_in(self: Forward, precision: str) -> Any:
        if precision == "bf16":
            raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 2.00 GiB")
        return made(self, precision)

    monkeypatch.setattr(Forward, "network_in", network_in)
    tried = (Variant("fp32"), Variant("bf16"), Variant("bf16", graph=True), Variant("fp16"))
    part = replace(forward(MINI, 2, 10, size=32), variants=tried)
    rows = measure_forward(part, QUICK, DEVICE, Progress(None), {}, "eager")["variants"]
    assert rows["bf16"] == {"failed": "OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB"}
    assert rows["bf16 graph"] == rows["bf16"], "not tried once more"
    assert "ms" in rows["fp32"] and "ms" in rows["fp16"]


def test_without_fp32_there_is_nothing_to_compare_with() -> None:
    row = measure_forward(forward(MINI, 2, 10, size=32), QUICK, DEVICE, Progress(None), {"fp32": "signal 9"}, "eager")
    assert row == {"failed": "signal 9"}


def test_both_forms_of_a_training_learn_the_same(tmp_path: Path) -> None:
    part = training(2, 10, network=MINI, size=32)
    rows = measure_training(part, QUICK, DEVICE, Progress(None), {}, "eager")["forms"]
    assert rows["ours"]["loss"] == pytest.approx(rows["literal"]["loss"], abs=0.05)
    assert rows["literal"]["speed"] == [1, 1, 1] and rows["ours"]["images_per_s"] > 0
    assert rows["ours"]["peak_mib"] is None, "a CPU's is not measured"


def test_a_form_that_fails_leaves_the_other() -> None:
    part = training(2, 10, network=MINI, size=32)
    rows = measure_training(part, QUICK, DEVICE, Progress(None), {"literal": "out of memory"}, "eager")["forms"]
    assert rows["literal"] == {"failed": "out of memory"}
    assert rows["ours"]["speed"] is None and rows["ours"]["ms"] > 0


def test_rtx_without_a_gpu_is_a_plain_no() -> None:
    row = try_tensorrt_rtx(DEVICE)
    assert row["loads"] is False and row["reason"]


# --- processes ------------------------------------------------------------------------------------------------------

# Stands for the command: what it does depends on the part's name, and on what it is told to leave out.
CHILD = """
import json, os, sys, time
from pathlib import Path
given = dict(zip(sys.argv[1::2], sys.argv[2::2]))
name, folder, without = given["--part"], Path(given["--write"]), json.loads(given["--without"])
at = lambda variant, reason="": (folder / "progress.json").write_text(json.dumps({"at": variant, "reason": reason}))
at("fp32")
if "crash" in name and "int8" not in without:
    at("int8")
    os.abort()
if "poison" in name and "int8" not in without:
    at("int8", "CUDA error: an illegal memory access")
    sys.exit("gone")
if "hang" in name and "int8" not in without:
    at("int8")
    time.sleep(60)
if "turns" in name:
    at("turns")
    raise RuntimeError("in the turns")
if "broken" in name:
    (folder / "progress.json").unlink()
    raise ImportError("no torch")
(folder / "result.json").write_text(json.dumps({"without": without}))
"""
COMMAND = [sys.executable, "-c", CHILD]


def outcome(name: str, limit: float = 20, left: float = 60) -> dict[str, Any] | None:
    found = run_part(Part(name, "forward", 1), COMMAND, limit, time.monotonic() + left)
    return None if found is None else found.row


def test_a_part_that_ends_well_is_its_row() -> None:
    assert outcome("good") == {"without": {}}


def test_a_crash_leaves_the_variant_out_of_the_next_try() -> None:
    assert outcome("crash") == {"without": {"int8": "signal 6 (SIGABRT): it said nothing"}}


def test_a_device_that_a_variant_left_unusable_is_that_variants_failure() -> None:
    assert outcome("poison") == {"without": {"int8": "CUDA error: an illegal memory access"}}


def test_what_hangs_is_stopped() -> None:
    assert outcome("hang", limit=2) == {"without": {"int8": "not ready after 2 s"}}


@pytest.mark.parametrize(
    "name, reason",
    [("turns", "exit status 1: RuntimeError: in the turns"), ("broken", "exit status 1: ImportError: no torch")],
)
def test_a_failure_of_no_variant_is_the_parts(name: str, reason: str) -> None:
    assert outcome(name) == {"failed": reason}


def test_the_time_that_is_over_is_no_failure() -> None:
    assert outcome("hang", limit=20, left=1) is None


def test_each_part_is_handed_on_when_it_ends_and_what_has_no_time_is_named() -> None:
    parts = [
        Part("one", "forward", 1),
        Part("turns", "forward", 1),
        Part("long", "forward", 1000),
        Part("two", "forward", 1),
    ]
    finished: list[tuple[str, dict[str, Any]]] = []

    def note(part: Part, found: Outcome) -> None:
        finished.append((part.name, found.row))

    assert run_parts(parts, COMMAND, 20, time.monotonic() + 60, note) == ["long"]
    assert [name for name, _ in finished] == ["one", "turns", "two"] and "failed" in finished[1][1]


# --- what is kept ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "row, retry, missing",
    [
        (None, False, True), ({"kind": "ceiling"}, True, False), ({"failed": "x"}, False, False), ({"failed": "x"}, True, True),
        ({"variants": {"fp32": {"ms": 1}, "int8": {"failed": "x"}}}, True, True),
        ({"variants": {"fp32": {"ms": 1}, "int8": {"unavailable": "x"}}}, True, False),
        ({"forms": {"ours": {"failed": "x"}}}, True, True),
    ],
)  # fmt: skip
def test_what_is_measured_once_more(row: dict[str, Any] | None, retry: bool, missing: bool) -> None:
    assert gpu.is_missing(row, retry) is missing


def test_a_file_of_another_gpu_is_refused_and_another_host_is_not(tmp_path: Path) -> None:
    here = {"gpu": "NVIDIA H200", "cpu": "Intel", "versions": {"torch": "2.12.1"}}
    path = default_path(tmp_path, here)
    assert path == tmp_path / "gpu-nvidia-h200.json"
    gpu.refuse_another_machine(path, here)  # there is none yet
    keep(path, "ceiling", {"settings": here})
    gpu.refuse_another_machine(path, here | {"cpu": "AMD"})
    with pytest.raises(SystemExit, match=r"ceiling: gpu NVIDIA H200 → NVIDIA L4.*--out"):
        gpu.refuse_another_machine(path, here | {"gpu": "NVIDIA L4"})
    with pytest.raises(SystemExit, match=r"torch 2\.12\.1 → 2\.13\.0"):
        gpu.refuse_another_machine(path, here | {"versions": {"torch": "2.13.0"}})


def test_a_cpu_writes_no_results() -> None:
    assert default_path(ROOT / "results", {"gpu": None}) == ROOT / "runs" / "gpu-cpu.json"


# --- tables ---------------------------------------------------------------------------------------------------------

H200 = {"gpu": "NVIDIA H200", "cpu": "Intel Xeon", "versions": {"torch": "2.12.1"}}


def timed(ms: float, speed: float, **more: Any) -> dict[str, Any]:
    quartiles = [speed - 0.1, speed, speed + 0.1]
    return {
        "ms": ms,
        "images_per_s": 64e3 / ms,
        "speed": quartiles,
        "agreement": 99.0,
        "ties": 0,
        "snr_db": 40.0,
    } | more


@pytest.fixture
def kept() -> dict[str, dict[str, Any]]:
    """Invented, of the form that a GPU's results have."""
    work = [[10, 10**11, 10**8, "float32"]]
    memory = {"weights_mib": 80.0, "call_mib": 920.0}
    variants = {
        "fp32": timed(40.0, 1.0, **memory) | {"snr_db": None, "agreement": 100.0},
        "tf32": timed(20.0, 2.0, **memory),
        "fp16 compiled graph": timed(8.0, 5.0, weights_mib=40.0, call_mib=None),
        "int8 compiled": {"failed": "RuntimeError: no kernel"},
        "bf16": {"unavailable": "needs another GPU"},
    }
    forms = {
        "literal": {"loss": 7.0, "peak_mib": 1000.0, **timed(100.0, 1.0)},
        "ours": {"loss": 7.0, "peak_mib": 1020.0, **timed(60.0, 1.67)},
    }
    shape = {"network": "t2t_vit_14", "size": 224, "compiled": False}
    peak = {"float32": 50.0, "tf32": 400.0, "half": 700.0, "int8": None, "bytes": 4.0}
    layers = {"int8": 62, "layers": 66, "left_out": {NO_CONVOLUTION: 1}}
    rows: dict[str, dict[str, Any]] = {
        "ceiling": {"kind": "ceiling", "peak": peak, "reasons": {"int8": "RuntimeError: none"}},
        "training-t2t_vit_14-256": {"kind": "training", "batch": 256, "forms": forms, **shape},
        "forward-t2t_vit_14-64": {
            "kind": "forward", "batch": 64, "variants": variants, "work": {"fp32": work}, "work_failed": {},
            "int8_layers": layers, **shape,
        },
        "tensorrt-rtx": {"kind": "tensorrt_rtx", "loads": False, "version": "1.7.1", "reason": "no SM90"},
        "forward-t2t_vit_7-64": {
            "kind": "forward", "batch": 64, "failed": "exit status 1: none", **shape, "network": "t2t_vit_7",
        },
    }  # fmt: skip
    return {name: {"settings": H200, "seconds": 30.0, **row} for name, row in rows.items()}


def test_the_table_says_what_was_reached_and_what_was_not(kept: dict[str, dict[str, Any]]) -> None:
    text = tables([kept])
    lines = text.splitlines()
    assert lines[0] == "### NVIDIA H200"
    # 10¹² operations at 67 and at 50 · 10¹² a second, of 40 ms
    assert (
        "| `t2t_vit_14` | 64 | FP32 | 40.000 | 1600 | 1.00 (0.90 to 1.10) | 100.0 | – | 37.3 | 50.0 | 1000 |" in lines
    )
    assert (
        "| `t2t_vit_14` | 64 | TF32 | 20.000 | 3200 | 2.00 (1.90 to 2.10) | 99.0 | 40.0 | 10.1 | 12.5 | 1000 |" in lines
    )
    assert any(line.startswith("| `t2t_vit_14` | 64 | FP16, compiled, CUDA graph | 8.000") for line in lines)
    assert any("| off | convolution |" in line and line.endswith("| 1020 | 1.02 |") for line in lines)
    for said in (
        f"INT8 in `t2t_vit_14`: 62 of 66 layers. Not: {NO_CONVOLUTION} (1).",
        "- TensorRT-RTX 1.7.1 does not run: no SM90",
        "- forward-t2t_vit_14-64, int8 compiled failed: RuntimeError: no kernel",
        "- forward-t2t_vit_7-64 failed: exit status 1: none",
        "- ceiling: no ceiling of int8: RuntimeError: none",
        "- bf16: needs another GPU",
        "- Target, training at 1.5× the images/s of the literal form: reached, 1.67×.",
        "- Target, training at 0.7× its memory: **missed**, 1.02×.",
        "- Target, `t2t_vit_14` in FP16 or INT8 at 4× FP32 eager, batch 64: reached, 5.00×.",
        "- Target, `t2t_vit_7` in FP16 or INT8 at 4× FP32 eager, batch 64: not measured.",
    ):
        assert said in lines


def test_a_part_in_one_line(kept: dict[str, dict[str, Any]]) -> None:
    said = {name: part_in_words(row) for name, row in kept.items()}
    assert said["ceiling"] == "FP32 50 TFLOP/s, TF32 400 TFLOP/s, FP16 700 TFLOP/s, copy 4 TB/s"
    assert said["tensorrt-rtx"] == "TensorRT-RTX does not load: no SM90"
    assert said["forward-t2t_vit_7-64"] == "failed: exit status 1: none"
    assert "fp32 40.00 ms" in said["forward-t2t_vit_14-64"] and "int8 compiled –" in said["forward-t2t_vit_14-64"]


def test_the_page_is_what_the_results_say(tmp_path: Path) -> None:
    page = tmp_path / "gpu.md"
    shutil.copyfile(ROOT / "docs" / "gpu.md", page)
    gpu.write_tables(page, sorted((ROOT / "results").glob("gpu-*.json")))
    assert page.read_text(encoding="utf-8") == (ROOT / "docs" / "gpu.md").read_text(encoding="utf-8")
    assert tables([]) == NOTHING


# --- a bare checkout ------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_files_that_the_page_names_are_enough_and_so_are_four_packages(tmp_path: Path) -> None:
    """The copy of docs/gpu.md, in a Python that has torch, timm, numpy and OpenCV alone; started again it goes on."""
    page = (ROOT / "docs" / "gpu.md").read_text(encoding="utf-8")
    (line,) = [line for line in page.splitlines() if "git archive HEAD" in line]
    for name in line.split("HEAD ")[1].split(" |")[0].split():
        target = tmp_path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            target.symlink_to(ROOT / name)
    own = ["models", "calib", "literal", "bench"]
    (tmp_path / "hook").mkdir()
    packages = ["torch", "timm", "numpy", "opencv-python-headless"]
    environment = only(packages, own, tmp_path / "hook")

    def start(*arguments: str) -> str:
        command = [sys.executable, "tests/bench/gpu.py", "--compiler", "eager", "--device", "cpu", *arguments]
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=600
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    said = start("--out", "mine.json", RTX.name, f"forward-{MINI}-4")
    kept = read_kept(tmp_path / "mine.json")
    assert list(kept) == [f"forward-{MINI}-4", RTX.name], "most important first"
    assert all("failed" not in of for of in kept[f"forward-{MINI}-4"]["variants"].values())
    assert kept[f"forward-{MINI}-4"]["variants"]["int8 compiled"]["snr_db"] > 20
    assert "No module named 'tensorrt_rtx'" in kept[RTX.name]["reason"], "nothing but the four packages is there"
    assert "2 of 2 parts to measure" in said and "| INT8, compiled |" in said
    said = start("--out", "mine.json", "--minutes", "0")
    assert "4 of 6 parts to measure" in said
    assert f"not measured for lack of time: ceiling, training-{MINI}-4" in said
    assert read_kept(tmp_path / "mine.json") == kept
