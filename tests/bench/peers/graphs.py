"""The graphs that are compared: ours, and what other tools make of the literal export with the same calibration images."""

import contextlib
import importlib.metadata
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
from bench.peers.networks import Network
from bench.peers.tools import MODELOPT, NNCF, NNCF_ONNX, ORT, ORT_UINT8

from calib.errors import InputError
from export.cpu import bf16_instructions
from export.engines.spec import graph_of, in_bf16, why_not
from export.quantize.dialects import DIALECTS
from export.quantize.fp32_tensors import list_fp32_tensors
from export.quantize.int8 import quantize_int8
from export.runner import Unavailable
from pipeline.quantize.graphs import quantize_options

LITERAL, OURS_FP32, OURS_BF16, OURS = "literal FP32", "ours FP32", "ours BF16", "ours INT8"
PEERS = (NNCF, NNCF_ONNX, ORT, ORT_UINT8, MODELOPT)
LABELS = (LITERAL, OURS_FP32, OURS_BF16, OURS, *PEERS)
TOOLS_SCRIPT = str(Path(__file__).with_name("tools.py"))
TOOLS = ("onnxruntime", "openvino", "nncf", "nvidia-modelopt", "torch", "timm")  # whose versions a result depends on


def write_graph(label: str, backend: str, network: Network, fp32: dict[str, Path], folder: Path) -> Path:
    """The graph of a row for a backend. Unavailable where it cannot be made here, InputError where a tool stops at it."""
    if label == LITERAL:
        if "literal" not in fp32:
            raise Unavailable("the network has one form only")
        return fp32["literal"]
    if label in (OURS_FP32, OURS_BF16, OURS):
        return our_graph(backend, label.split()[1].lower(), network, fp32["ours"], folder)
    return other_graph(label, backend, network, fp32.get("literal", fp32["ours"]), folder)


def our_graph(backend: str, precision: str, network: Network, source: Path, folder: Path) -> Path:
    """The graph of one of our precisions as the quantize stage makes it for a backend; Unavailable where that has none."""
    if reason := no_bf16(backend) if in_bf16(precision) else "":
        raise Unavailable(reason)
    target = folder / f"ours-{graph_of(backend, precision)}.onnx"
    if not target.is_file():
        graph = source
        if precision.startswith("int8"):
            graph = folder / "quantized.onnx"
            quantize_int8(source, graph, network.calibration, quantize_options(network.part), DIALECTS[backend])
        onnx.save(list_fp32_tensors(onnx.load(graph)), target)
    return target


def no_bf16(backend: str) -> str:
    """Why there is no BF16 on a backend here; "" where there is."""
    if reason := why_not(backend, "bf16"):
        return reason
    return "" if bf16_instructions() else "this CPU has neither AVX512_BF16 nor AMX_BF16"


def other_graph(label: str, backend: str, network: Network, source: Path, folder: Path) -> Path:
    """What another tool makes of `source`, in a process of its own; once for both backends, and so is its failure."""
    if label == NNCF and backend != "openvino":
        raise Unavailable(f"it is made for OpenVINO: see {NNCF_ONNX!r}")
    if label in (NNCF, NNCF_ONNX) and importlib.util.find_spec("nncf") is None:
        raise Unavailable("pip install -e '.[bench]'")
    target = folder / f"{label.replace(' ', '-')}.{'xml' if label == NNCF else 'onnx'}"
    said, images = target.with_suffix(".said"), folder / "calibration.npy"
    if not said.is_file():
        np.save(images, network.calibration.images)
        kind = ["transformer"] if network.transformer else []
        command = [sys.executable, "-I", TOOLS_SCRIPT, label, str(images), str(source), str(target), *kind]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        said.write_text("" if done.returncode == 0 else last_error(done.stderr), encoding="utf-8")
    if reason := said.read_text(encoding="utf-8"):
        raise InputError(f"it stops: {reason}")
    return target


def last_error(stderr: str) -> str:
    """The exception that ended a process, in one line; its last words where it ended otherwise."""
    lines = stderr.strip().splitlines() or ["it says nothing"]
    found = [index for index, line in enumerate(lines) if re.match(r"[A-Za-z_][\w.]*(Error|Exception|Exit)\b", line)]
    return " ".join(" ".join(lines[found[-1] if found else -1 :]).split())[:200]


def installed() -> dict[str, str | None]:
    """The versions of the tools, None of those not installed."""
    found: dict[str, str | None] = dict.fromkeys(TOOLS)
    for name in TOOLS:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found
