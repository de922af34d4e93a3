"""Predict with the recommended engine of a run: numpy, OpenCV and an engine runtime are enough."""

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from calib.errors import InputError
from calib.preprocess import IMAGE_SUFFIXES, load_image, preprocess
from export.engines import Expected, load_engine
from export.runner import INPUT, OUTPUT, Unavailable
from pipeline.exit_status import DONE, WRONG_INPUT, say


@dataclass(frozen=True)
class Prediction:
    """One image's best class and its softmax probability (0–1), or why there is none."""

    path: Path
    label: str | None
    probability: float | None
    problem: str | None = None


def find_engine(run_folder: Path, name: str | None, next_step: str | None = None) -> tuple[Path, Expected]:
    """The folder of the recommended engine of a run, or of the engine `name`, and what the report says of it."""
    path = run_folder / "report" / "report.json"
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        runs = ", ".join(sorted(str(found.parents[1].name) for found in run_folder.parent.glob("*/report/report.json")))
        raise InputError(
            "this run has no report", got=f"no file {path}", allowed=f"finished runs: {runs or 'none'}",
            next_step=next_step or f"make export RUN={run_folder.name}",
        ) from error  # fmt: skip
    passed = [variant["name"] for variant in report["variants"] if variant["status"] == "pass"]
    chosen = name or (report["recommended"] or {}).get("name")
    if chosen not in passed:
        raise InputError(
            "no engine of this run passed the accuracy gate"
            if name is None
            else "that engine did not pass, or does not exist",
            got=name or "nothing recommended",
            allowed=", ".join(passed) or "none",
            next_step=f"read {path.with_suffix('.md')}",
        )
    (variant,) = [variant for variant in report["variants"] if variant["name"] == chosen]
    expected = Expected(preprocess_sha256=report["preprocess_sha256"], engine_sha256=variant["sha256"])
    return run_folder / "build" / str(chosen), expected


def find_images(paths: list[Path]) -> list[Path]:
    """Images among `paths`, folders searched to any depth, in order."""
    images: list[Path] = []
    for path in paths:
        if path.is_dir():
            found = sorted(entry for entry in path.rglob("*") if entry.suffix.lower() in IMAGE_SUFFIXES)
            if not found:
                raise InputError("this folder has no images", got=path, allowed=", ".join(IMAGE_SUFFIXES))
            images += found
        elif path.is_file():
            images.append(path)
        else:
            raise InputError("no such image or folder", got=path, next_step="check the path")
    return images


def predict(engine_folder: Path, images: list[Path], threads: int, expected: Expected) -> Iterator[Prediction]:
    """Predict image by image; one that cannot be read becomes a Prediction with a problem, and the rest go on."""
    try:
        sidecar, loaded = load_engine(engine_folder, threads, expected=expected)
    except Unavailable as reason:
        raise InputError("the engine cannot run on this machine", got=str(reason)) from reason
    spec = sidecar.preprocess_spec()
    with loaded as runner:
        for path in images:
            try:
                image = preprocess(load_image(path), spec)
            except InputError as error:
                yield Prediction(path, None, None, error.what)
                continue
            logits = runner.infer({INPUT: image[np.newaxis]})[OUTPUT][0].astype(np.float64)
            exponents = np.exp(logits - logits.max())
            best = int(logits.argmax())
            yield Prediction(path, sidecar.classes[best], float(exponents[best] / exponents.sum()))


def print_predictions(engine_folder: Path, images: list[Path], threads: int, expected: Expected) -> int:
    """Print a line for each image; the exit status says whether all could be read."""
    failed = 0
    for prediction in predict(engine_folder, images, threads, expected):
        if prediction.probability is None:
            failed += 1
            print(f"{prediction.path}: {prediction.problem}", file=sys.stderr)
        else:
            print(f"{prediction.path}  {prediction.label}  {100 * prediction.probability:.1f} %")
    return say(f"{failed} of {len(images)} images could not be read", WRONG_INPUT) if failed else DONE
