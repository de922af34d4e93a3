"""`python tests/bench/visual_transformer.py FORM [MODEL TOKENIZER OPTIMIZER STEPS]`: does a VT-ResNet learn, and in FP16, INT8?

FORM is `built`; `undivided` (no division in front of a softmax; the start is as small as the division would make it);
`unnormalised` (no LayerNorm); or `printed` (neither, as the paper's equations stand: the model's own option). Prints a
row of the table in docs/visual-transformer.md: 32 photographs of the embedded set a step at 64 px, 400 held out. About a
minute on one core.
"""

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

import models  # noqa: F401  (registers the models)
from calib.calibration import CalibrationSet
from calib.preprocess import Preprocess
from export.onnx_export import INPUT, NormalisedModel, export_onnx
from export.quantize.cast_fp16 import cast_fp16
from export.quantize.int8 import quantize_int8
from export.simplify import simplify_onnx
from models.visual_transformer import Projector, RecurrentTokenizer, TokenMixer

SIZE, BATCH, HELD_OUT, SEED = 64, 32, 400, 0
SPEC = Preprocess(SIZE, SIZE, 1.0, "bilinear", (0.286, 0.286, 0.286), (0.353, 0.353, 0.353))
RATES = {"adamw": 1e-3, "sgd": 0.005}


class LargestLogit(TorchFunctionMode):
    """The largest |logit| of any softmax."""

    value = 0.0

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.softmax:
            self.value = max(self.value, float(args[0].abs().max()))
        return func(*args, **(kwargs or {}))


def change_form(model: nn.Module, form: str) -> None:
    """Take the division or the normalisations out of a fresh network."""
    for part in model.modules():
        if form == "undivided" and isinstance(part, RecurrentTokenizer | TokenMixer | Projector):
            pair = (part.groups,) if isinstance(part, RecurrentTokenizer) else (part.key, part.query)
            for layer in pair:
                layer.weight.data *= part.scale ** (1 / len(pair))
            part.scale = 1.0
        if form == "unnormalised" and isinstance(part, TokenMixer):
            part.norm1 = part.norm2 = nn.Identity()


def photographs() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Train images (1024, 64, 64, 3) uint8 and labels, held-out images and labels."""
    stored, draw = np.load(ROOT / "data" / "fashion-mnist.npz", allow_pickle=False), np.random.default_rng(SEED)
    parts: list[np.ndarray] = []
    for split, count in (("train", 1024), ("val", HELD_OUT)):
        chosen = draw.permutation(len(stored[f"{split}_labels"]))[:count]
        grey = torch.from_numpy(stored[f"{split}_images"][chosen]).float()[:, None]
        large = F.interpolate(grey, size=(SIZE, SIZE), mode="bilinear").round().to(torch.uint8)
        parts += [large.permute(0, 2, 3, 1).repeat(1, 1, 1, 3).numpy(), stored[f"{split}_labels"][chosen].astype(int)]
    return parts[0], parts[1], parts[2], parts[3]


def train(model: nn.Module, images: np.ndarray, labels: np.ndarray, optimizer: str, steps: int) -> list[float]:
    """The loss of every step: warm-up over ten steps, then a cosine."""
    network, draw = NormalisedModel(model, SPEC).train(), np.random.default_rng(SEED)
    if optimizer == "sgd":
        update: torch.optim.Optimizer = torch.optim.SGD(model.parameters(), momentum=0.9, weight_decay=4e-5)
    else:
        update = torch.optim.AdamW(model.parameters(), weight_decay=0.05)
    losses = []
    for step in range(steps):
        for group in update.param_groups:
            group["lr"] = RATES[optimizer] * min(1, (step + 1) / 10) * (1 + np.cos(np.pi * step / steps)) / 2
        chosen = draw.choice(len(labels), BATCH, replace=False)
        loss = F.cross_entropy(network(torch.from_numpy(images[chosen])), torch.from_numpy(labels[chosen]))
        update.zero_grad()
        loss.backward()
        update.step()
        losses.append(loss.item())
    return losses


def percent(logits: np.ndarray | Tensor, labels: np.ndarray) -> str:
    """Top-1."""
    found = np.asarray(logits)
    return f"{(found.argmax(1) == labels).mean() * 100:.1f}" if np.isfinite(found).all() else "not finite"


def low_precisions(model: nn.Module, calibration: CalibrationSet, images: np.ndarray, labels: np.ndarray) -> list[str]:
    """Top-1 of the FP16 and INT8 graphs on ONNX Runtime."""
    results = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        export_onnx(model, SPEC, [str(index) for index in range(10)], folder / "raw.onnx")
        simplify_onnx(folder / "raw.onnx", folder / "fp32.onnx", images[:4])
        cast_fp16(folder / "fp32.onnx", folder / "fp16.onnx", calibration, [])
        quantize_int8(folder / "fp32.onnx", folder / "int8.onnx", calibration)
        for name in ("fp16", "int8"):
            session = onnxruntime.InferenceSession(str(folder / f"{name}.onnx"), providers=["CPUExecutionProvider"])
            results.append(percent(session.run(None, {INPUT: images})[0], labels))
    return results


def main(
    form: str, name: str = "vt_resnet18", tokenizer: str = "filter", optimizer: str = "adamw", steps: str = "60"
) -> None:
    """Train, measure, print one row."""
    torch.manual_seed(SEED)
    torch.set_num_threads(1)
    own = {"img_size": SIZE, "tokenizer": tokenizer, "printed": form == "printed"} if name.startswith("vt_") else {}
    model = timm.create_model(name, num_classes=10, **own)
    change_form(model, form)
    train_images, train_labels, images, labels = photographs()
    losses = train(model, train_images, train_labels, optimizer, int(steps))
    model.eval()
    with torch.no_grad(), LargestLogit() as largest:
        logits = NormalisedModel(model, SPEC)(torch.from_numpy(images))
    cells = [
        form,
        name,
        tokenizer if own else "",
        optimizer,
        f"{np.mean(losses[:10]):.2f}",
        f"{np.mean(losses[-10:]):.2f}",
    ]
    cells.append(percent(logits, labels))
    if torch.isfinite(logits).all():
        calibration = CalibrationSet(train_images[:64], train_labels[:64])
        cells += [f"{largest.value:.0f}", *low_precisions(model, calibration, images, labels)]
    print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
