"""The logits that every engine of a bundle is compared with: PyTorch's, and ONNX Runtime's on each graph."""

import numpy as np
from numpy.typing import NDArray

from calib.errors import InputError
from calib.precision.closeness import LIMITS, compare_logits
from export.engines.spec import graph_of
from export.runner import INPUT, OUTPUT
from pipeline.console.figures import counted
from pipeline.console.known_runs import finishing
from pipeline.console.progress import track
from pipeline.device.choice import FinishedRun, backends_of, graph_failure
from pipeline.measure.evaluate_stage import Logits

_CHUNK = 50  # images at once


def reference_logits(
    run: FinishedRun, chosen: list[int], pixels: NDArray[np.uint8]
) -> tuple[Logits, NDArray[np.int64]]:  # fmt: skip
    """PyTorch's logits on the chosen images, and their labels; InputError where the image files have changed since."""
    with np.load(run.artifacts["export"].path("reference.npz"), allow_pickle=False) as stored:
        logits, labels = stored["logits"], stored["labels"]
    if max(chosen) >= len(logits):
        raise _other_images(run, f"at least {counted(max(chosen) + 1, 'image')}, {len(logits)} were evaluated")
    few = np.linspace(0, len(chosen) - 1, min(len(chosen), _CHUNK)).astype(int)
    found = _infer(run, "fp32", pixels[few])
    closeness = compare_logits(logits[chosen][few], found)  # few images: one other top-1 among them is no sign
    if not closeness.near:
        raise _other_images(run, f"{closeness} (allowed: {LIMITS})")
    return logits[chosen], labels[chosen]


def _other_images(run: FinishedRun, got: str) -> InputError:
    return InputError(
        f"the images in {run.parts['data']['root']} are not those this run was evaluated on", got=got,
        next_step=finishing(run.folder),
    )  # fmt: skip


def graph_logits(
    run: FinishedRun, chosen: list[int], pixels: NDArray[np.uint8]
) -> tuple[dict[str, Logits], dict[str, str]]:  # fmt: skip
    """ONNX Runtime's logits of every graph on the chosen images, by its name, and why it fails the gate ("" if it passes).

    Most come from the evaluate stage, which judged them on all images; graphs that only GPU engines need are run here.
    """
    with np.load(run.artifacts["export"].path("reference.npz"), allow_pickle=False) as stored:
        reference, labels = stored["logits"], stored["labels"]
    share = run.report["gate"]["min_relative_top1"]
    logits: dict[str, Logits] = {}
    reasons: dict[str, str] = {}
    with np.load(run.artifacts["evaluate"].path("logits.npz"), allow_pickle=False) as stored:
        for name in _graphs(run):
            if f"graph:{name}" in stored.files:
                everywhere = stored[f"graph:{name}"]
                logits[name] = everywhere[chosen]
                reasons[name] = graph_failure(everywhere, reference, labels, share)
            else:
                logits[name] = _infer(run, name, pixels)
                reasons[name] = graph_failure(logits[name], reference[chosen], labels[chosen], share)
    return logits, reasons


def _graphs(run: FinishedRun) -> list[str]:
    """The graphs of every precision in the report, for every backend that the bundle may have engines of."""
    precisions = dict.fromkeys(row["precision"] for row in run.report["variants"])
    return list(dict.fromkeys(graph_of(backend, name) for name in precisions for backend in backends_of(run)))


def _infer(run: FinishedRun, name: str, pixels: NDArray[np.uint8]) -> Logits:
    from export.engines import onnxruntime_backend

    path, fp8 = run.artifacts["quantize"].path(f"{name}.onnx"), name.startswith("fp8")
    with onnxruntime_backend.load(path, run.parts["benchmark"]["threads"], literal=fp8) as runner:
        parts = [runner.infer({INPUT: pixels[start : start + _CHUNK]})[OUTPUT]
                 for start in track(range(0, len(pixels), _CHUNK), f"graph {name}")]  # fmt: skip
    return np.concatenate(parts).astype(np.float32)
