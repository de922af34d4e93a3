"""The export stage: PyTorch → ONNX, simplified, and compared with PyTorch on the evaluation images."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from calib.images import ImageSplit
from calib.precision.closeness import LIMITS, compare_logits
from calib.preprocess import Preprocess
from export.engines import onnxruntime_backend
from export.onnx_export import INPUT, OUTPUT, NormalisedModel, export_onnx
from export.simplify import simplify_onnx
from export.ways import SAYS, Exported
from pipeline.artifact import Artifact
from pipeline.data.batches import batches, evaluation_split
from pipeline.recipe import Recipe
from pipeline.training.checkpoint import read_checkpoint
from pipeline.training.weights import build_model


def run(recipe: Recipe, inputs: Mapping[str, Artifact], folder: Path) -> dict[str, Any]:
    """Write `raw.onnx`, `fp32.onnx`, `reference.npz` (PyTorch's logits and the labels) and `nodes.json` into `folder`."""
    checkpoint = read_checkpoint(inputs["train"].path("checkpoint.pt"))
    model = build_model(checkpoint, recipe.model)
    spec = Preprocess.from_dict(checkpoint.preprocess)
    split = evaluation_split(recipe, tuple(checkpoint.classes))
    exported = export_onnx(model, spec, checkpoint.classes, folder / "raw.onnx", opset=recipe.export.opset)
    say_way(exported)
    images, _ = next(batches(split, spec, recipe.evaluate.batch_size))
    if recipe.export.simplify:
        simplification = simplify_onnx(folder / "raw.onnx", folder / "fp32.onnx", images)
        before, after = simplification.nodes_before["total"], simplification.nodes_after["total"]
        print(f"           onnxsim: {before} → {after} nodes" + (f" (not taken: {simplification.reason})" if simplification.reason else ""))  # fmt: skip  # noqa: E501
        nodes = simplification.to_dict()
    else:
        (folder / "fp32.onnx").write_bytes((folder / "raw.onnx").read_bytes())
        nodes = {"accepted": False, "reason": "export.simplify is off"}
    (folder / "nodes.json").write_text(json.dumps(nodes, indent=1), encoding="utf-8")
    reference, found, labels = _logits(model, spec, split, folder / "fp32.onnx", recipe.evaluate.batch_size)
    np.savez_compressed(folder / "reference.npz", logits=reference, labels=labels)
    return _compare(reference, found) | _way_notes(exported) | {"simplified": nodes["accepted"]}


def say_way(exported: Exported) -> None:
    """Print the way that was taken where it was not the first, and why not that."""
    for way, reason in exported.failed.items():
        print(f"           not exported by {SAYS[way]}: {reason}")
    if exported.failed:
        print(f"           exported by {SAYS[exported.way]}, which computes the same")


def _way_notes(exported: Exported) -> dict[str, Any]:
    return {
        "way": exported.way, "way_text": SAYS[exported.way], "ways_failed": exported.failed,
        "unfolds_replaced": list(exported.unfolds),
    }  # fmt: skip


def _logits(
    model: torch.nn.Module, spec: Preprocess, split: ImageSplit, onnx_path: Path, batch_size: int
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64]]:
    network = NormalisedModel(model, spec).eval()
    reference, exported, labels = [], [], []
    with onnxruntime_backend.load(onnx_path, torch.get_num_threads()) as runner, torch.inference_mode():
        for images, batch_labels in batches(split, spec, batch_size, title="PyTorch and ONNX"):
            reference.append(network(torch.from_numpy(images)).numpy())
            exported.append(runner.infer({INPUT: images})[OUTPUT])
            labels.append(batch_labels)
    return np.concatenate(reference), np.concatenate(exported), np.concatenate(labels)


def _compare(reference: NDArray[np.float32], exported: NDArray[np.float32]) -> dict[str, Any]:
    """How near they are, for the manifest; RuntimeError where they differ by more than float32 rounding explains."""
    found = compare_logits(reference, exported)
    print(f"           ONNX against PyTorch: {found}")
    if not found.same:
        raise RuntimeError(f"the exported graph does not compute what PyTorch does: {found} (allowed: {LIMITS})")
    return found.to_dict() | {"logit_difference_mean": float(np.abs(reference - exported).mean())}
