"""`make quantization`: four trained networks, every policy × method, two CPU engines; the tables of docs/quantization.md.

The networks are trained on the embedded photographs (quantization_networks.py) and kept under runs/quantization. Each
row is kept in results/quantization.json as it is finished: started again, the command goes on where it was, as long as
the network's checkpoint, the number of images and the CPU are those of its rows; else it measures the network anew.
Accuracy is against PyTorch FP32 on the same evaluation images; the speed is FP32's time over the row's, one image, both
on the same engine, taking turns. The first row is what nvidia-modelopt does by default to the literal-unfold export.
"""

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2]), str(Path(__file__).parent)]

from literal_export import export_literal
from quantization_networks import NETWORKS, load_network

from calib.calibration import load_calibration_set
from calib.errors import InputError
from calib.images import ImageSplit, balanced_subset
from calib.precision.policy import POLICIES, decide, performer_kernel
from calib.preprocess import load_batch
from export.engines import onnxruntime_backend, openvino_backend
from export.graph.layers import count_precisions, read_layers
from export.onnx_export import INPUT, OUTPUT, export_onnx, read_metadata
from export.quantize.cast_fp16 import cast_fp16
from export.quantize.int8 import apply_policy, write_quantized
from export.runner import Runner
from models.t2t_vit import T2TViT
from pipeline.artifact import read_artifact
from pipeline.data.batches import evaluation_split
from pipeline.machine.describe import cpu_name
from pipeline.measure.warm_up import begin_turn
from pipeline.parts.quantize import QuantizePart
from pipeline.quantize.graphs import quantize_options, smooth
from pipeline.stages import run_stages
from pipeline.tasks.statistics import accuracy, agreement, correct_rows, paired_interval
from pipeline.training.checkpoint import read_checkpoint
from pipeline.training.weights import build_model

MODELOPT = {"modelopt's defaults": {}, "modelopt, max": {"calibration_method": "max"}}  # its default is entropy
METHODS = ("max", "entropy", "percentile", "mse", "smoothquant")
FOUR_BITS = {"policy": "full", "weight_bits": 4}  # where quantization after training loses most
COUNTS = (32, 128, 512)  # calibration images
BATCH = 100
ENGINES = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}
Rows = dict[str, dict[str, Any]]


def main() -> None:
    """Train what is not trained yet, measure what is not measured yet, write the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("networks", nargs="*", help="default: all")
    parser.add_argument("--images", type=int, default=2000, help="evaluation images; default: %(default)s")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=Path, default=Path("runs/quantization"))
    parser.add_argument("--results", type=Path, default=Path("results/quantization.json"))
    parser.add_argument("--page", type=Path, default=Path("docs/quantization.md"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    results = json.loads(options.results.read_text()) if options.results.is_file() else {}
    for name in options.networks or NETWORKS:
        bench = Bench(name, options.images, options.threads, options.runs)
        if name in results and results[name]["of"] != bench.identity:
            print(f"{name}: measured anew, its rows are of {results[name]['of']}", flush=True)
            del results[name]
        rows = results.setdefault(name, {"of": bench.identity, "rows": {}})["rows"]
        for label, row in measure_network(bench, rows):
            rows[label] = row
            options.results.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
            print(f"{name:<24}{label:<28}{describe(row)}", flush=True)
    write_page(options.page, results)


class Bench:
    """One network: its graphs, calibration set, evaluation images and reference logits."""

    def __init__(self, name: str, images: int, threads: int, runs: Path):
        self.name, self.recipe, self.threads = name, load_network(name), threads
        self.folder = runs / name
        run_stages(self.recipe, self.folder, "calibrate")
        train, export, calibrate = (read_artifact(self.folder / stage) for stage in ("train", "export", "calibrate"))
        assert train and export and calibrate
        self.checkpoint = read_checkpoint(train.path("checkpoint.pt"))
        self.source = export.path("fp32.onnx")
        self.proto = onnx.load(self.source)
        self.spec, classes = read_metadata(self.proto)
        self.calibration = load_calibration_set(calibrate.path("calibration.npz"), self.spec)
        split = evaluation_split(self.recipe, tuple(classes))
        chosen = balanced_subset(split, min(images, len(split)), seed=0)
        self.images = load_images(split, chosen, self.spec)
        self.labels = np.asarray([split.labels[index] for index in chosen])
        with np.load(export.path("reference.npz"), allow_pickle=False) as stored:
            self.reference = stored["logits"][chosen]
        self.identity = {"cpu": cpu_name(), "images": len(chosen), "checkpoint": train.outputs["checkpoint.pt"]}

    def part(self, **changes: Any) -> QuantizePart:
        return self.recipe.quantize.model_copy(update=changes)


def load_images(split: ImageSplit, chosen: list[int], spec: Any) -> NDArray[np.uint8]:
    return load_batch([split.paths[index] for index in chosen], spec)


def measure_network(bench: Bench, done: Rows) -> Any:
    """(label, row) of each row that is not in `done`; a graph that cannot be made is a row that says so."""
    wanted = [label for label in labels(bench.name) if label not in done]
    with tempfile.TemporaryDirectory() as scratch:
        for label in wanted:
            path, started = Path(scratch) / "row.onnx", time.monotonic()
            try:
                notes = maker(bench, label)(path)
            except InputError as error:
                yield label, {"unavailable": error.what}
                continue
            made = time.monotonic() - started
            row = {"seconds": made, "bytes": path.stat().st_size, "layers": count_layers(path)} | notes
            for engine in ENGINES:
                row[engine] = measure(bench, engine, path, Path(scratch))
            yield label, row


def labels(name: str) -> list[str]:
    grid = [f"{policy} / {method}" for policy in POLICIES if policy != "best" for method in METHODS]
    counts = [f"weights / {method} / {count}" for method in ("max", "percentile", "entropy") for count in COUNTS[:-1]]
    four = ["full / max / 4-bit weights", "full / trained / 4-bit weights"]
    return [*MODELOPT, "fp32", "fp16", *grid, *four, *(counts if name == next(iter(NETWORKS)) else [])]


def maker(bench: Bench, label: str) -> Callable[[Path], dict[str, Any]]:
    """What writes the graph of a row to a path and returns notes."""
    if label == "fp32":
        return lambda path: _save(bench.proto, path)
    if label == "fp16":
        pinned = [layer.name for layer in performer_kernel(read_layers(bench.proto))]
        return lambda path: cast_fp16(bench.source, path, bench.calibration, pinned) or {}
    if label in MODELOPT:
        return lambda path: modelopts(bench, MODELOPT[label], path)
    if label == "full / trained / 4-bit weights":
        return lambda path: trained(bench, path)
    if label == "full / max / 4-bit weights":
        return lambda path: quantized(bench, bench.part(**FOUR_BITS), None, path)
    policy, method, *count = label.split(" / ")
    return lambda path: quantized(
        bench, bench.part(policy=policy, method=method), int(count[0]) if count else None, path
    )


def _save(proto: onnx.ModelProto, path: Path) -> dict[str, Any]:
    onnx.save(proto, path)
    return {}


def quantized(bench: Bench, part: QuantizePart, count: int | None, path: Path) -> dict[str, Any]:
    """As the quantize stage does it, on `count` of the calibration images, evenly spaced, if that is given."""
    calibration = bench.calibration if count is None else bench.calibration.spread(count)
    proto, notes = bench.proto, dict[str, Any]()
    if part.method == "smoothquant":
        decide(read_layers(proto), part.policy)  # a policy without a layer says so before the sweep does anything
        proto, sweep = smooth(proto, part, calibration)
        notes["alpha"] = sweep["alpha"]
    found = apply_policy(proto, calibration, quantize_options(part))
    onnx.save(write_quantized(proto, found, weight_bits=part.weight_bits), path)
    return notes


def trained(bench: Bench, path: Path) -> dict[str, Any]:
    """The graph of the qat stage: one epoch with 4-bit weights and the policy `full` in the loop."""
    quantize = bench.part(precisions=["fp32", "int8", "int8-qat"], **FOUR_BITS)
    qat = bench.recipe.qat.model_copy(update={"epochs": 1, "lr": 1e-4})
    artifact = run_stages(bench.recipe.model_copy(update={"quantize": quantize, "qat": qat}), bench.folder, "qat")
    shutil.copyfile(artifact.path("int8.onnx"), path)
    return {}


def modelopts(bench: Bench, options: dict[str, str], path: Path) -> dict[str, Any]:
    """nvidia-modelopt's ONNX quantization of the export of the authors' form; of other networks' plain export.

    InputError (what it stopped with) where it does not come to an end.
    """
    from modelopt.onnx.quantization import quantize

    model = build_model(bench.checkpoint, bench.recipe.model)
    source = path.with_name("plain.onnx")
    export = export_literal if isinstance(model, T2TViT) else export_onnx
    export(model, bench.spec, list(bench.checkpoint.classes), source)
    try:
        quantize(
            str(source), quantize_mode="int8", calibration_data={INPUT: bench.calibration.images},
            calibration_eps=["cpu"], high_precision_dtype="fp32", output_path=str(path), log_level="ERROR", **options,
        )  # fmt: skip
    except Exception as error:  # whatever another tool stops with is its result here
        raise InputError(f"modelopt stops: {type(error).__name__}: {error}") from error
    return {}


def count_layers(path: Path) -> dict[str, int] | None:
    try:
        return count_precisions(onnx.load(path))
    except Exception as error:  # another tool's graph may defeat shape inference: the row says so
        print(f"  layers not counted: {error}")
        return None


def measure(bench: Bench, engine: str, path: Path, folder: Path) -> dict[str, Any]:
    """Top-1, agreement, paired interval and relative speed of a graph on one engine; or why it does not run."""
    try:
        with open_runner(engine, path, folder / "row", bench.threads) as runner:
            logits = np.concatenate(
                [runner.infer({INPUT: bench.images[i : i + BATCH]})[OUTPUT] for i in range(0, len(bench.images), BATCH)]
            )
            with open_runner(engine, bench.source, folder / "fp32", bench.threads) as fp32:
                latency, ratio = race(fp32, runner, bench.images[:1])
    except RuntimeError as error:
        return {"error": " ".join(str(error).split())[:200]}
    low, high = paired_interval(correct_rows(logits, bench.labels), correct_rows(bench.reference, bench.labels))
    top1 = accuracy(logits, bench.labels)
    return {
        "top1": top1, "delta": top1 - accuracy(bench.reference, bench.labels), "ci95": [low, high],
        "agreement": agreement(logits, bench.reference), "finite": bool(np.isfinite(logits).all()),
        "latency_ms": latency, "speed": ratio,
    }  # fmt: skip


def open_runner(engine: str, path: Path, folder: Path, threads: int) -> Runner:
    if engine == "onnxruntime":
        return onnxruntime_backend.load(path, threads)
    folder.mkdir(exist_ok=True)
    return openvino_backend.load(openvino_backend.build(path, folder / openvino_backend.ENGINE_NAME).path, threads)


def race(
    fp32: Runner, other: Runner, image: NDArray[np.uint8], rounds: int = 15, calls: int = 10
) -> tuple[float, float]:
    """Median milliseconds of `other`, and the median over rounds of FP32's time over its time."""
    seconds: dict[Runner, list[float]] = {fp32: [], other: []}
    for _ in range(rounds + 2):  # the first two warm up
        for runner in seconds:
            begin_turn(partial(runner.infer, {INPUT: image}))
            start = time.perf_counter()
            for _ in range(calls):
                runner.infer({INPUT: image})
            seconds[runner].append((time.perf_counter() - start) / calls)
    base, ours = (np.asarray(seconds[runner][2:]) for runner in (fp32, other))
    return float(np.median(ours)) * 1e3, float(np.median(base / ours))


def describe(row: dict[str, Any]) -> str:
    if "unavailable" in row:
        return str(row["unavailable"])
    texts = [f"{row['bytes'] / 1e6:6.1f} MB"]
    for engine, title in ENGINES.items():
        of = row[engine]
        texts.append(
            f"{title}: {of['error']}" if "error" in of
            else f"{title} {of['top1']:6.2f} ({of['delta']:+.2f}) same {of['agreement']:6.2f} ×{of['speed']:.2f}"
        )  # fmt: skip
    return "  ".join(texts)


def write_page(page: Path, results: dict[str, Any]) -> None:
    """Put the tables between the page's markers; the text around them is written by hand."""
    text = page.read_text(encoding="utf-8")
    start, end = "<!-- tables -->", "<!-- /tables -->"
    head, rest = text.split(start)
    _, tail = rest.split(end)
    tables = [table(name, of_network["of"], of_network["rows"]) for name, of_network in results.items()]
    page.write_text("\n".join([head + start, "", *tables, end + tail]), encoding="utf-8")


def table(name: str, of: dict[str, Any], rows: Rows) -> str:
    lines = [
        f"### {name}\n",
        f"{of['cpu']}; {of['images']} evaluation images; checkpoint {of['checkpoint'][:12]}; made by `make quantization`.\n",
        "| graph | INT8 layers | MB | ONNX Runtime: top-1 | against FP32, 95 % | agreement | speed "
        "| OpenVINO: top-1 | against FP32, 95 % | agreement | speed |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for label, row in rows.items():
        if "unavailable" in row:
            lines.append(f"| {label} | – | – | {row['unavailable']} | | | | | | | |")
            continue
        layers = row["layers"]
        alpha = f" (alpha {row['alpha']})" if "alpha" in row else ""
        count = f"{layers['int8']} of {sum(layers.values())}" if layers else "–"
        cells = [f"{label}{alpha}", count, f"{row['bytes'] / 1e6:.1f}"]
        for engine in ENGINES:
            cells += engine_cells(row[engine])
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def engine_cells(of: dict[str, Any]) -> list[str]:
    if "error" in of:
        return ["does not run", "–", "–", "–"]
    if not of["finite"]:
        return ["NaN", "–", "–", f"{of['speed']:.2f}"]
    low, high = of["ci95"]
    return [
        f"{of['top1']:.2f}", f"{of['delta']:+.2f} ({low:+.2f} … {high:+.2f})", f"{of['agreement']:.2f}", f"{of['speed']:.2f}"
    ]  # fmt: skip


if __name__ == "__main__":
    main()
