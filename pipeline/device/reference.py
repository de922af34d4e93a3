"""The answers that every engine of a bundle is compared with: PyTorch's, and ONNX Runtime's on each graph."""

import numpy as np
from numpy.typing import NDArray

from calib.errors import InputError
from export.engines.spec import graph_of
from export.runner import INPUT, OUTPUT
from pipeline.console.figures import counted
from pipeline.console.known_runs import finishing
from pipeline.console.progress import track
from pipeline.device.choice import FinishedRun, backends_of, graph_failure
from pipeline.tasks.task import Answers, Labels

_CHUNK = 50  # images at once


def reference_answers(
    run: FinishedRun, chosen: list[int], pixels: NDArray[np.uint8]
) -> tuple[Answers, Labels]:  # fmt: skip
    """PyTorch's answers on the chosen images, and their labels; InputError where the image files have changed since."""
    answers, labels = _stored_reference(run)
    if max(chosen) >= len(answers):
        raise _other_images(run, f"at least {counted(max(chosen) + 1, 'image')}, {len(answers)} were evaluated")
    few = np.linspace(0, len(chosen) - 1, min(len(chosen), _CHUNK)).astype(int)
    if other := run.task.other_images(answers[chosen][few], _infer(run, "fp32", pixels[few])):
        raise _other_images(run, other)
    return answers[chosen], labels[chosen]


def _stored_reference(run: FinishedRun) -> tuple[Answers, Labels]:
    with np.load(run.artifacts["export"].path("reference.npz"), allow_pickle=False) as stored:
        return stored[run.task.words.kept], stored["labels"]


def _other_images(run: FinishedRun, got: str) -> InputError:
    return InputError(
        f"the images in {run.parts['data']['root']} are not those this run was evaluated on", got=got,
        next_step=finishing(run.folder),
    )  # fmt: skip


def graph_answers(
    run: FinishedRun, chosen: list[int], pixels: NDArray[np.uint8]
) -> tuple[dict[str, Answers], dict[str, str]]:  # fmt: skip
    """ONNX Runtime's answers of every graph on the chosen images, by its name, and why it fails the gate ("" if it passes).

    What the evaluate stage has computed was judged there on all images; the others, such as those that only GPU engines need,
    are run here.
    """
    task, (reference, labels) = run.task, _stored_reference(run)
    share = run.report["gate"][task.words.gate]
    answers: dict[str, Answers] = {}
    reasons: dict[str, str] = {}
    with np.load(run.artifacts["evaluate"].path(f"{task.words.kept}.npz"), allow_pickle=False) as stored:
        for name in _graphs(run):
            if f"graph:{name}" in stored.files:
                everywhere = stored[f"graph:{name}"]
                answers[name] = everywhere[chosen]
                reasons[name] = graph_failure(task, everywhere, reference, labels, share)
            else:
                answers[name] = _infer(run, name, pixels)
                reasons[name] = graph_failure(task, answers[name], reference[chosen], labels[chosen], share)
    return answers, reasons


def _graphs(run: FinishedRun) -> list[str]:
    """The graphs of every precision in the report, for every backend that the bundle may have engines of."""
    precisions = dict.fromkeys(row["precision"] for row in run.report["variants"])
    return list(dict.fromkeys(graph_of(backend, name) for name in precisions for backend in backends_of(run)))


def _infer(run: FinishedRun, name: str, pixels: NDArray[np.uint8]) -> Answers:
    from export.engines import onnxruntime_backend

    path, fp8 = run.artifacts["quantize"].path(f"{name}.onnx"), name.startswith("fp8")
    with onnxruntime_backend.load(path, run.parts["benchmark"]["threads"], literal=fp8) as runner:
        parts = [run.task.answers(np.asarray(runner.infer({INPUT: pixels[start : start + _CHUNK]})[OUTPUT], np.float32))
                 for start in track(range(0, len(pixels), _CHUNK), f"graph {name}")]  # fmt: skip
    return np.concatenate(parts)
