"""A made-up segmentation: photographs of ellipses with their masks, class maps of engines, and the report that these make."""

from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from matplotlib.image import imsave
from reports import MODE, evaluated, timed

from calib.masks import IGNORED, MaskedSplit, read_masked_split
from calib.preprocess import Preprocess
from pipeline.report.values.details import Answers, add_details
from pipeline.report.write import build_report
from pipeline.tasks.pixel_comparison import compare_maps
from pipeline.tasks.pixels import (
    NO_CLASS,
    Map,
    mean_iou,
    overlap,
    paired_iou_interval,
    pixel_accuracy,
    pixel_agreement,
)

CLASSES = ("background", "cat", "tree", "boat", "cup", "owl")  # no owl is in a mask
IMAGES, HEIGHT, WIDTH = 24, 96, 128
NAMES = tuple(f"images/{index:03d}.png" for index in range(IMAGES))
SPEC = Preprocess(HEIGHT, WIDTH, 1.0, "bilinear", (0.5,) * 3, (0.5,) * 3)
_ROWS, _COLUMNS = np.indices((HEIGHT, WIDTH))


@cache
def masks() -> Map:
    """(24, 96, 128): two to five ellipses each, with a margin of ignored pixels around the first."""
    generator, found = np.random.default_rng(1), np.zeros((IMAGES, HEIGHT, WIDTH), dtype=np.uint8)
    for one in found:
        for index in range(generator.integers(2, 6)):
            middle, radii = generator.uniform((20, 25), (76, 103)), generator.uniform(9, 26, 2)
            far = ((_ROWS - middle[0]) / radii[0]) ** 2 + ((_COLUMNS - middle[1]) / radii[1]) ** 2
            one[far < 1] = generator.integers(1, 5)
            if index == 0:
                one[(far >= 1) & (far < 1.2)] = IGNORED
    found.flags.writeable = False
    return found


def maps(seed: int = 0, noise: float = 0.0) -> Map:
    """(24, 96, 128): the masks with smeared edges and one image in six of another class; `noise` smears further."""
    found = np.where(masks() == IGNORED, 0, masks()).astype(np.uint8)
    for index, one in enumerate(found):
        if index % 6 == 5:
            one[one == 2] = 5
    return _smear(_smear(found, np.random.default_rng(0), 1.6), np.random.default_rng(seed), noise)


def _smear(found: Map, generator: np.random.Generator, far: float) -> Map:
    """Every pixel takes the class of one about `far` away, the same for squares of 4."""
    moves = (
        generator.normal(0, far, (2, IMAGES, HEIGHT // 4, WIDTH // 4)).round().astype(int).repeat(4, -1).repeat(4, -2)
    )
    rows, columns = np.clip(_ROWS + moves[0], 0, HEIGHT - 1), np.clip(_COLUMNS + moves[1], 0, WIDTH - 1)
    return np.asarray(found[np.arange(IMAGES)[:, None, None], rows, columns])


def engines() -> dict[str, Map]:
    """FP32 as the reference, two engines that pass, and one that fails, without a class in a corner of an image."""
    broken = maps(3, 4.0)
    broken[2, :30, :40] = NO_CLASS
    return {
        "onnxruntime-fp32": maps(), "openvino-fp16": maps(1, 0.2), "openvino-int8": maps(2, 0.28), "tensorrt-int8": broken,
    }  # fmt: skip


def answers() -> Answers:
    """What the stages keep."""
    return Answers(maps(), masks(), engines())


def comparisons() -> dict[str, dict[str, Any]]:
    return {name: compare_maps(ours, maps(), masks(), CLASSES, NAMES) for name, ours in engines().items()}


def scores(found: Map) -> dict[str, float]:
    counts = overlap(found, masks(), len(CLASSES))
    return {"miou": mean_iou(counts), "pixel_accuracy": pixel_accuracy(counts)}


def inputs(speed: float = 1.0) -> tuple[dict[str, Any], dict[str, Any]]:
    """evaluation.json and benchmark.json: four engines that ran, and one that cannot run here."""
    reference, rows, speeds, generator = scores(maps()), [], {}, np.random.default_rng(5)
    for (name, ours), p50 in zip(engines().items(), (24.0, 20.0, 14.0, 6.0), strict=True):
        backend, precision = name.split("-")
        found = scores(ours)
        passes = found["miou"] >= 0.99 * reference["miou"]
        pair = [overlap(of, masks(), len(CLASSES)) for of in (ours, maps())]
        rows.append(_without_top(evaluated(backend, precision, 100.0)) | found | {
            "status": "pass" if passes else "fail", "reason": "" if passes else f"mIoU {found['miou']:.2f} is under the gate",
            "delta_miou_pp": found["miou"] - reference["miou"], "ci95_pp": list(paired_iou_interval(*pair)),
            "agreement": pixel_agreement(ours, maps()), "layers": {"int8": 24 * (precision == "int8"), "fp16": 0, "fp32": 12},
        })  # fmt: skip
        speeds[name] = timed(p50 * speed, generator)
    nothing = dict.fromkeys(("miou", "pixel_accuracy", "delta_miou_pp"))
    rows.append(_without_top(evaluated("tensorrt_rtx", "int8-fp16", None, "sm86")) | nothing)
    evaluation = {
        "task": "segmentation", "reference": {"name": "PyTorch FP32"} | reference, "variants": rows,
        "dataset": {"name": "ellipses", "classes": len(CLASSES), "eval_images": IMAGES, "calibration_images": 64},
    }  # fmt: skip
    machine = {"cpu": "a CPU, 2 cores, INT8 instructions: none", "gpu": None, "versions": {"onnxruntime": "1.31.1"}}
    return evaluation, {"machine": machine, "mode": MODE, "failed": {}, "variants": speeds}


def _without_top(row: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if "top" not in key}


def build(evaluation: dict[str, Any], benchmark: dict[str, Any], run: str = "scenes") -> dict[str, Any]:
    return build_report(
        run=run, model="vt_fpn_18", evaluation=evaluation, benchmark=benchmark, preprocess_sha256=SPEC.sha256(), gate_share=0.99
    )  # fmt: skip


def segmented(run: str = "scenes", speed: float = 1.0) -> dict[str, Any]:
    """A report with comparisons and percentiles, from class maps."""
    evaluation, benchmark = inputs(speed)
    return add_details(build(evaluation, benchmark, run), evaluation["reference"], comparisons(), benchmark)


def write_photos(root: Path) -> MaskedSplit:
    """The photographs and masks as files under `root`, and their split."""
    colours = np.array([[120, 130, 90], [200, 140, 90], [40, 110, 50], [70, 90, 170], [220, 215, 200], [90, 60, 50]])
    generator = np.random.default_rng(7)
    for folder in ("images", "masks"):
        (root / "val" / folder).mkdir(parents=True)
    (root / "classes.txt").write_text("\n".join(CLASSES), encoding="utf-8")
    for name, mask in zip(NAMES, masks(), strict=True):
        picture = colours[np.where(mask == IGNORED, 0, mask)] + generator.normal(0, 12, (HEIGHT, WIDTH, 1))
        imsave(root / "val" / name, picture.clip(0, 255).astype(np.uint8))
        cv2.imwrite(str(root / "val" / name.replace("images", "masks")), mask)
    return read_masked_split(root, "val", CLASSES)
