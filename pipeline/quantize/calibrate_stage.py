"""The calibrate stage: draw a class-balanced calibration set from the training images or `calibrate.source`, and audit it."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray

from calib.audit import Against, audit_calibration_set
from calib.calibration import write_calibration_set
from calib.calibration_source import DEFAULT_IMAGES, draw_calibration_images
from calib.colour_order import Logits
from calib.preprocess import Image, Preprocess
from export.engines import onnxruntime_backend
from export.onnx_export import INPUT, OUTPUT
from pipeline.artifact import Artifact
from pipeline.console.figures import counted
from pipeline.console.progress import track
from pipeline.data.batches import evaluation_split, training_split
from pipeline.data.remarks import left_out_line
from pipeline.recipe import Recipe
from pipeline.training.checkpoint import read_checkpoint


def run(recipe: Recipe, inputs: Mapping[str, Artifact], folder: Path) -> dict[str, Any]:
    """Write `calibration.npz` and `audit.json` into `folder`; InputError where the audit finds the set unfit.

    Where `inputs` has the exported FP32 network, the audit uses it to check the colour order.
    """
    checkpoint = read_checkpoint(inputs["train"].path("checkpoint.pt"))
    spec, classes = Preprocess.from_dict(checkpoint.preprocess), tuple(checkpoint.classes)
    train, evaluation, part = training_split(recipe.data, classes), evaluation_split(recipe, classes), recipe.calibrate
    pool = train if len(train) else evaluation
    draw = draw_calibration_images(part.source, pool, spec, part.images, part.seed)
    if part.images is None and len(draw.names) < DEFAULT_IMAGES:
        print(
            f"           takes all {counted(len(draw.names), 'image')} there are: calibrate.images is not in the recipe, "
            f"and its default is {DEFAULT_IMAGES}"
        )
    if part.source is not None and draw.left_out:  # what is left out of the training images is said by the command
        print(f"           {left_out_line([f'{part.source}/{name}' for name in draw.left_out])}")
    made = write_calibration_set(draw, spec, folder / "calibration.npz", track)
    with _network(inputs) as logits:
        against = Against(spec, train, evaluation, draw.files, logits, part.source is None and pool is evaluation)
        audit = audit_calibration_set(made, against, track)
    (folder / "audit.json").write_text(json.dumps(audit.to_dict(), indent=1), encoding="utf-8")
    print(f"           calibration set from {part.source or pool.root}, audited:")
    for line in audit.lines():
        print(f"           {line}")
    if audit.problems:  # then `folder` is not moved to where a finished stage is
        print(f"           the audit is in {folder / 'audit.json'}")
    audit.refuse()
    return {
        "images": audit.images,
        "per_class": [min(audit.per_class), max(audit.per_class)] if audit.per_class is not None else None,
        "fingerprint": audit.fingerprint,
        "preprocess_sha256": spec.sha256(),
        "warnings": audit.warnings,
    }


@contextmanager
def _network(inputs: Mapping[str, Artifact]) -> Iterator[Logits | None]:
    """The exported FP32 network as a function from images to logits; None where `inputs` has none."""
    if "export" not in inputs:
        yield None
        return
    with onnxruntime_backend.load(inputs["export"].path("fp32.onnx"), torch.get_num_threads()) as runner:

        def logits(images: Image) -> NDArray[Any]:
            return runner.infer({INPUT: images})[OUTPUT]

        yield logits
