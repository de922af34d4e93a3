"""`python tests/bench/numerics.py [RUN]`: float32 logits of a trained run against the float64 literal form."""

import json
import sys
from pathlib import Path

import numpy as np
import torch

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]

from literal import literal

from calib.images import ImageSplit, read_split
from calib.preprocess import Preprocess
from export.onnx_export import NormalisedModel
from models import T2TViT
from pipeline.data.batches import batches
from pipeline.parts.data import DataPart
from pipeline.parts.model import ModelPart
from pipeline.training.checkpoint import read_checkpoint
from pipeline.training.weights import build_model


def compare(model: T2TViT, spec: Preprocess, split: ImageSplit) -> dict[str, float]:
    """Per image the largest logit difference between float32 and the float64 literal form: median, worst; same top-1."""
    ours = NormalisedModel(model, spec).eval()
    exact = NormalisedModel(literal(model).double(), spec).double().eval()
    worst, same = [], 0
    with torch.inference_mode():
        for images in batches(split, spec, 50):
            x = torch.from_numpy(images)
            first, second = ours(x).double(), exact(x)
            worst.append((first - second).abs().amax(1).numpy())
            same += int((first.argmax(1) == second.argmax(1)).sum())
    differences = np.concatenate(worst)
    return {
        "images": len(differences), "median": float(np.median(differences)), "worst": float(differences.max()),
        "same_top1_percent": 100 * same / len(differences),
    }  # fmt: skip


def main() -> None:
    """Compare and print."""
    run = Path("runs") / (sys.argv[1] if len(sys.argv) > 1 else "demo")
    checkpoint = read_checkpoint(run / "train" / "checkpoint.pt")
    recipe = json.loads((run / "train" / "manifest.json").read_text())["recipe"]
    split = read_split(DataPart(**recipe["data"]).root, "val")
    model = build_model(checkpoint, ModelPart(**recipe["model"]))
    assert isinstance(model, T2TViT), "the literal form is written for T2T-ViT alone"
    result = compare(model, Preprocess.from_dict(checkpoint.preprocess), split)
    print(f"{run}, {result['images']} images, float32 against the float64 literal form:")
    print(f"logits differ by {result['median']:.1e} on the median image, {result['worst']:.1e} on the worst; "
          f"same top-1 on {result['same_top1_percent']:.2f} %")  # fmt: skip


if __name__ == "__main__":
    main()
