"""The export stage: PyTorch → ONNX, simplified, and compared with PyTorch on the evaluation images.

A network that came as an ONNX file gets our input in front, and is compared with that file on ONNX Runtime.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

from calib.images import ImageSplit
from calib.precision.closeness import LIMITS, ClosenessMeter
from calib.preprocess import Preprocess
from export.brought.file import NETWORK
from export.brought.graph import with_our_input
from export.brought.interface import read_interface
from export.brought.reference import Logits, open_reference
from export.engines import onnxruntime_backend
from export.merge import merge_branches
from export.onnx_export import INPUT, OUTPUT, NormalisedModel, export_onnx
from export.simplify import simplify_onnx
from export.ways import SAYS, Exported
from pipeline.artifact import Artifact
from pipeline.console.figures import counted
from pipeline.data.batches import batches, evaluation_split
from pipeline.recipe import Recipe
from pipeline.tasks.task import Answers, Task, task_named
from pipeline.training.checkpoint import Checkpoint, read_checkpoint
from pipeline.training.weights import build_model

PYTORCH = "PyTorch FP32"
COMPARED = 256  # images, spread over all, on which graph and network are compared; the engines are evaluated on all


def run(recipe: Recipe, inputs: Mapping[str, Artifact], folder: Path) -> dict[str, Any]:
    """Write `raw.onnx`, `fp32.onnx`, `reference.npz` (PyTorch's answers and the labels) and `nodes.json` into `folder`.

    Notes name the `reference`: whose logits they are.
    """
    checkpoint = read_checkpoint(inputs["train"].path("checkpoint.pt"))
    spec = Preprocess.from_dict(checkpoint.preprocess)
    task, split = task_named(recipe.data.task), evaluation_split(recipe, tuple(checkpoint.classes))
    with _exported(recipe, inputs["train"], checkpoint, folder / "raw.onnx") as (logits, notes):
        nodes = _simplify(recipe, spec, split, folder)
        reference, meter = _compare(task, logits, spec, split, folder / "fp32.onnx", recipe.evaluate.batch_size)
    labels = task.labels(split, slice(None), spec)
    score = task.scores(reference, labels)[task.words.score]
    print(f"           {notes['reference']}: {task.words.score_name} {score:.2f} % on {counted(len(split), 'image')}")
    np.savez_compressed(folder / "reference.npz", allow_pickle=False, **{task.words.kept: reference, "labels": labels})
    return notes | _say(meter, notes["reference"]) | {"simplified": nodes["accepted"]}


@contextmanager
def _exported(
    recipe: Recipe, train: Artifact, checkpoint: Checkpoint, path: Path
) -> Iterator[tuple[Logits, dict[str, Any]]]:
    """Write the network's graph to `path`; gives the network itself, as a function of images, and notes."""
    spec, classes = Preprocess.from_dict(checkpoint.preprocess), checkpoint.classes
    if recipe.model.onnx is not None:
        source = train.path(NETWORK)
        proto = onnx.load(source)
        of = read_interface(proto, source, spec, len(classes), recipe.model.output, recipe.logit_sides())
        onnx.save(with_our_input(proto, of, spec, classes, recipe.export.opset, recipe.data.task), path)
        say_batch(of.batch)
        with open_reference(proto, of, spec, torch.get_num_threads()) as logits:
            yield (
                logits,
                {"reference": f"{recipe.model.onnx.name} FP32", "unfolds_replaced": [], "fixed_batch": of.batch},
            )
        return
    model = build_model(checkpoint, recipe.model, recipe.data.task)
    deployed, merged, reason = merge_branches(model, spec)
    say_merged(merged, reason)
    exported = export_onnx(deployed, spec, classes, path, opset=recipe.export.opset, task=recipe.data.task)
    say_way(exported)
    say_batch(exported.fixed_batch)
    network = NormalisedModel(model, spec).eval()
    with torch.inference_mode():
        yield (
            lambda images: network(torch.from_numpy(images)).numpy(),
            {"reference": PYTORCH, "merged": merged} | _way_notes(exported),
        )


def _simplify(recipe: Recipe, spec: Preprocess, split: ImageSplit, folder: Path) -> dict[str, Any]:
    """Write `fp32.onnx` and `nodes.json`, and give back what the latter says."""
    images = next(batches(split, spec, recipe.evaluate.batch_size))
    if recipe.export.simplify:
        simplification = simplify_onnx(folder / "raw.onnx", folder / "fp32.onnx", images)
        before, after = simplification.nodes_before["total"], simplification.nodes_after["total"]
        print(f"           onnxsim: {before} → {after} nodes" + (f" (not taken: {simplification.reason})" if simplification.reason else ""))  # fmt: skip  # noqa: E501
        nodes = simplification.to_dict()
    else:
        (folder / "fp32.onnx").write_bytes((folder / "raw.onnx").read_bytes())
        nodes = {"accepted": False, "reason": "export.simplify is off"}
    (folder / "nodes.json").write_text(json.dumps(nodes, indent=1), encoding="utf-8")
    return nodes


def say_merged(merged: list[str], reason: str) -> None:
    """Print that the graph has other layers than the network, or why it has those for training, too."""
    if merged:
        modules = counted(len(merged), "module")
        print(f"           {modules} merged, which computes the same: branches for training, BatchNorm")
    elif reason:
        print(f"           its modules for training are not merged: {reason}")


def say_way(exported: Exported) -> None:
    """Print the way that was taken where it was not the first, and why not that."""
    for way, reason in exported.failed.items():
        print(f"           not exported by {SAYS[way]}: {reason}")
    if exported.failed:
        print(f"           exported by {SAYS[exported.way]}, which computes the same")


def say_batch(batch: int | None) -> None:
    """Print what a graph with a fixed batch means for every later stage."""
    if batch is not None:
        print(f"           the graph takes {batch} image(s) at a time: other batches are filled up or run in several")


def _way_notes(exported: Exported) -> dict[str, Any]:
    return {
        "way": exported.way, "way_text": SAYS[exported.way], "ways_failed": exported.failed,
        "unfolds_replaced": list(exported.unfolds), "fixed_batch": exported.fixed_batch,
    }  # fmt: skip


def _compare(
    task: Task, logits: Logits, spec: Preprocess, split: ImageSplit, onnx_path: Path, batch_size: int
) -> tuple[Answers, ClosenessMeter]:
    """The network's answers on the evaluation images, and how near ONNX Runtime's logits of the graph are to its own on some."""
    reference, meter, every = [], ClosenessMeter(), -(-len(split) // COMPARED)
    with onnxruntime_backend.load(onnx_path, torch.get_num_threads()) as runner:
        for images in batches(split, spec, batch_size, title="network and ONNX"):
            ours = logits(images)
            reference.append(task.answers(ours))
            meter.add(ours[::every], runner.infer({INPUT: images[::every]})[OUTPUT])
    return np.concatenate(reference), meter


def _say(meter: ClosenessMeter, name: str) -> dict[str, Any]:
    """How near they are, for the manifest; RuntimeError where they differ by more than float32 rounding explains."""
    found = meter.result()
    print(f"           ONNX against {name}: {found}")
    if not found.same:
        raise RuntimeError(f"the exported graph does not compute what {name} does: {found} (allowed: {LIMITS})")
    return found.to_dict() | {"logit_difference_mean": meter.mean_difference}
