"""The qat stage: train the network with fake quantizers where its graph will have Q/DQ, and write the graph of `int8-qat`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import nn

from calib.calibration import CalibrationSet, load_calibration_set
from calib.errors import InputError
from calib.precision.policy import Layer
from calib.precision.smoothing import class_rows
from calib.preprocess import Preprocess
from export.engines import onnxruntime_backend
from export.merge import merge_branches
from export.onnx_export import INPUT, OUTPUT, export_onnx
from export.quantize.fake_quantize import CHECKED_IMAGES, FakeQuantized, look, weight_ranges
from export.quantize.int8 import Quantized, apply_policy, write_quantized
from export.simplify import simplify_onnx
from pipeline.artifact import Artifact
from pipeline.console.figures import counted
from pipeline.console.progress import track
from pipeline.quantize.graphs import quantize_options
from pipeline.quantize.qat_ranges import write_ranges
from pipeline.quantize.qat_training import QUANTIZE_KEYS, train_student
from pipeline.recipe import Recipe
from pipeline.tasks.statistics import agreement
from pipeline.tasks.task import task_named
from pipeline.tasks.words import Words
from pipeline.training.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from pipeline.training.distributed import open_world
from pipeline.training.loader import Normalise
from pipeline.training.weights import build_model

READS = (  # parts of the recipe; of `train` only the augmentation
    "data", "model", "export", "qat", *(f"quantize.{key}" for key in QUANTIZE_KEYS),
    "train.random_resize_scale", "train.random_crop_padding", "train.horizontal_flip",
)  # fmt: skip
COMPARED_IMAGES = (
    64  # calibration images, evenly spaced, on which the written graph is compared with the trained network
)
MAX_SHOWN = 8  # layers that are printed


def run(recipe: Recipe, inputs: Mapping[str, Artifact], folder: Path) -> dict[str, Any]:
    """Write `checkpoint.pt`, `fp32.onnx`, `int8.onnx`, `ranges.json`, `metrics.csv` and `last.pt` into `folder`.

    `int8.onnx` is `fp32.onnx` with the trained Q/DQ; `ranges.json` holds their ranges (`read_ranges`). The processes of
    torchrun train together; rank 0 writes.
    """
    checkpoint = read_checkpoint(inputs["train"].path("checkpoint.pt"))
    spec = Preprocess.from_dict(checkpoint.preprocess)
    calibration = load_calibration_set(inputs["calibrate"].path("calibration.npz"), spec)
    proto = onnx.load(inputs["export"].path("fp32.onnx"))
    student, found = make_student(recipe, checkpoint, proto, calibration)
    with open_world() as world:
        if world.rank == 0:
            _say(student, found)
        trained = train_student(recipe, student, build_model(checkpoint, recipe.model, recipe.data.task), folder, world)
        notes = trained.notes() | _counts(student, found)
        if world.rank > 0:
            return notes
        print(
            f"           {trained.words.score_name}: FP32 {trained.teacher_score:.2f} %, quantized {trained.before_score:.2f} %, "
            f"trained quantized {trained.after_score:.2f} % on {counted(trained.images, 'image')}"
        )
    return notes | write_student(recipe, checkpoint, student.cpu(), proto, found, calibration, folder)


def make_student(
    recipe: Recipe, checkpoint: Checkpoint, proto: onnx.ModelProto, calibration: CalibrationSet
) -> tuple[FakeQuantized, Quantized]:
    """The checkpoint's network with fake quantizers, on the CPU, and the policy's decisions with the ranges of activations.

    The ranges are the same as for post-training quantization: those of the FP32 graph `proto` on the calibration set.
    """
    part = recipe.quantize
    found = apply_policy(proto, calibration, quantize_options(part), track)
    spec = Preprocess.from_dict(checkpoint.preprocess)
    model, *_ = merge_branches(build_model(checkpoint, recipe.model, recipe.data.task), spec)  # what is exported
    images = calibration.first(CHECKED_IMAGES)
    placement, calls = look(model, proto, found.decisions, images, normalised(images, spec), spec)
    amax = {name: found_range.amax for name, found_range in found.ranges.items()}
    return FakeQuantized(model, placement, calls, amax, part.weight_bits), found


def normalised(images: NDArray[np.uint8], spec: Preprocess) -> torch.Tensor:
    """uint8 images (N, H, W, 3) as the network's input, float32 (N, 3, H, W)."""
    return Normalise(spec, torch.device("cpu"))(torch.from_numpy(images).permute(0, 3, 1, 2))


def _say(student: FakeQuantized, found: Quantized) -> None:
    placed, missed = student.placement.sites, student.placement.missed
    print(
        f"           fake quantization of {len(placed)} of the {len(placed) + len(missed)} layers that the policy names"
    )
    for layer, reason in missed[:MAX_SHOWN]:
        print(f"           quantized after training only: {_name(layer)}: {reason}")
    if len(missed) > MAX_SHOWN:
        print(f"           … and {len(missed) - MAX_SHOWN} more, listed in the manifest")


def _name(layer: Layer) -> str:
    return f"{layer.module or 'the network'} ({layer.operator} {layer.name})"


def _counts(student: FakeQuantized, found: Quantized) -> dict[str, Any]:
    missed = {_name(layer): reason for layer, reason in student.placement.missed}
    return {
        "policy_layers": sum(decision.int8 for decision in found.decisions),
        "trained_layers": len(student.placement.sites), "quantized_after_training_only": missed,
        "weight_bits": student.weight_bits,
    }  # fmt: skip


def write_student(
    recipe: Recipe, checkpoint: Checkpoint, student: FakeQuantized, before: onnx.ModelProto, found: Quantized,
    calibration: CalibrationSet, folder: Path,
) -> dict[str, Any]:  # fmt: skip
    """Write the trained student as a checkpoint, as a graph and as a graph with Q/DQ; compare the last with the student."""
    spec = Preprocess.from_dict(checkpoint.preprocess)
    snapped = student.snap_weights()
    weights = dict(student.model.state_dict())
    plain = Checkpoint(checkpoint.model, checkpoint.image_size, checkpoint.classes, checkpoint.preprocess, weights)
    write_checkpoint(plain, folder / "checkpoint.pt")
    _export(student.model, recipe, spec, checkpoint.classes, calibration, folder)
    proto = onnx.load(folder / "fp32.onnx")
    _check_same_graph(before, proto)
    images = calibration.spread(COMPARED_IMAGES).images
    amax = weight_ranges(student, proto, normalised(images[:CHECKED_IMAGES], spec))
    quantized = write_quantized(proto, found, weight_bits=student.weight_bits, weight_amax=amax)
    onnx.save(quantized, folder / "int8.onnx")
    write_ranges(folder / "ranges.json", found, amax, student.weight_bits)
    words = task_named(recipe.data.task).words
    return {"snapped_weights": snapped} | compare(student, folder / "int8.onnx", images, spec, words)


def _export(
    model: nn.Module,
    recipe: Recipe,
    spec: Preprocess,
    classes: Sequence[str],
    calibration: CalibrationSet,
    folder: Path,
) -> None:
    """Write `fp32.onnx` as the export stage does."""
    export_onnx(model, spec, classes, folder / "raw.onnx", opset=recipe.export.opset, task=recipe.data.task)
    if recipe.export.simplify:
        simplify_onnx(folder / "raw.onnx", folder / "fp32.onnx", calibration.first(COMPARED_IMAGES))
        (folder / "raw.onnx").unlink()
    else:
        (folder / "raw.onnx").replace(folder / "fp32.onnx")


def _check_same_graph(before: onnx.ModelProto, after: onnx.ModelProto) -> None:
    """InputError unless both graphs have the same nodes and names: decisions and ranges are found by these names.

    New weights do not change them; another torch, onnx or onnxsim than the export stage had may.
    """
    one, two = ([(n.name, n.op_type, *n.input, *n.output) for n in proto.graph.node] for proto in (before, after))
    if one != two:
        odd = next((pair for pair in zip(one, two, strict=False) if pair[0] != pair[1]), (len(one), len(two)))
        raise InputError(
            "the trained network's graph has other nodes than the exported one", got=odd,
            allowed="the same nodes and names", next_step="export again with the packages installed now: rm -r the run's "
            "export/ and run again",
        )  # fmt: skip


@torch.inference_mode()
def compare(
    student: FakeQuantized, graph: Path, images: NDArray[np.uint8], spec: Preprocess, words: Words
) -> dict[str, Any]:  # fmt: skip
    """How far the written graph is from the student on `images`: agreement in percent, mean difference of the logits.

    The graph is computed as written (`literal`), without the saturation of INT8 kernels on CPUs without INT8 instructions.
    """
    ours = student(normalised(images, spec)).numpy()
    with onnxruntime_backend.load(graph, torch.get_num_threads(), literal=True) as runner:
        theirs = runner.infer({INPUT: images})[OUTPUT]
    same, difference = agreement(class_rows(ours), class_rows(theirs)), float(np.abs(ours - theirs).mean())
    print(
        f"           the graph with Q/DQ against the trained network: same {words.answer} on {same:.2f} % of "
        f"{words.things_of(counted(len(images), 'image'))}"
    )
    return {"graph_agreement": same, "graph_difference_mean": difference, "graph_compared_images": len(images)}
