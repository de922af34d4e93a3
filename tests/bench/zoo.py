"""`make zoo`: every model of the zoo through the whole chain on a few embedded photographs.

Each is trained for a few epochs on a few hundred images, which is enough for logits that mean something and far too
little for accuracy: the columns that count are the agreements and the INT8 layers. Prints as it goes; a model that
fails prints its message and the others go on.
"""

import argparse
import contextlib
import io
import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import yaml

sys.path.insert(0, str(Path(__file__).parents[2]))

from models.zoo import BASELINES, FAMILY
from pipeline.cli import main as run_command
from pipeline.data.dataset import open_dataset
from pipeline.machine.describe import cpu_name
from pipeline.parts.data import DataPart

ENGINES = ("onnxruntime", "openvino")
PRECISIONS = ("fp32", "fp16", "int8")
HEADER = f"{'model':<24}{'ONNX − torch':>13}  {'INT8 layers':>11}  " + "".join(
    f"{short + ' ' + precision:>12}" for short in ("ORT", "OV") for precision in PRECISIONS
) + f"  {'RTX sm86 fp16, int8: layers':<44}{'s':>4}"  # fmt: skip


def main() -> None:
    """Run the chain for each model and print a row."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", help="default: the whole zoo")
    parser.add_argument("--size", type=int, default=64, help="pixels per side; default: %(default)s")
    parser.add_argument("--epochs", type=int, default=4, help="default: %(default)s")
    parser.add_argument("--folder", type=Path, default=Path("runs/zoo"), help="default: %(default)s")
    options = parser.parse_args()
    images = few_images(options.folder / "images", train=60, val=30)
    heading = (
        f"{options.size} px, {options.epochs} epochs of 600 images; agreement with PyTorch FP32 in % of 300 images"
    )
    print(f"{cpu_name()}\n{heading}, and the gate's status\n{HEADER}")
    failed = [name for name in options.models or (*FAMILY, *BASELINES) if not one_model(name, images, options)]
    if failed:
        sys.exit(f"did not finish: {', '.join(failed)}")


def few_images(root: Path, *, train: int, val: int) -> Path:
    """A folder with the first images of each class of the embedded set."""
    for split, count in zip(
        open_dataset(DataPart(name="demo", root=Path("data/fashion-mnist"))), (train, val), strict=True
    ):
        for label in range(len(split.classes)):
            chosen = [path for path, of in zip(split.paths, split.labels, strict=True) if of == label][:count]
            folder = root / split.root.name / split.classes[label]
            folder.mkdir(parents=True, exist_ok=True)
            for path in chosen:
                if not (
                    folder / path.name
                ).exists():  # a copy is a change, after which every model would be trained again
                    shutil.copyfile(path, folder / path.name)
    return root


def one_model(name: str, images: Path, options: argparse.Namespace) -> bool:
    """Run the chain and print its row; False where it fails."""
    recipe = options.folder / f"{name}.yaml"
    recipe.write_text(yaml.safe_dump(recipe_values(name, images, options.size, options.epochs)))
    started, said = time.monotonic(), io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        status = run_command(["run", "--recipe", str(recipe), "--runs", str(options.folder), "--run", name])
    if status not in (0, 3):  # 3: no engine passed the gate, which an hour of training would mend
        print(f"{name:<24}exit {status}\n{said.getvalue()}", flush=True)
        return False
    print(row(name, options.folder / name, time.monotonic() - started), flush=True)
    return True


def recipe_values(name: str, images: Path, size: int, epochs: int) -> dict[str, Any]:
    """A short training, every engine a CPU builds."""
    return {
        "schema": 1,
        "data": {"name": "few photographs", "root": str(images)},
        "model": {"name": name, "image_size": size},
        "preprocess": {"crop_pct": 1.0, "interpolation": "bilinear"},
        "train": {
            "epochs": epochs, "batch_size": 20, "lr": 5e-4, "warmup_epochs": min(1, epochs - 1), "mixup": 0, "cutmix": 0,
            "auto_augment": None, "random_erasing": 0, "random_resize_scale": [0.8, 1.0], "drop_path": 0, "ema_decay": 0,
            "clip_grad": 1.0, "workers": 0, "eval_every": epochs,
        },
        "calibrate": {"images": 100},
        "build": [
            *({"backend": backend, "precisions": list(PRECISIONS)} for backend in ENGINES),
            {"backend": "tensorrt_rtx", "precisions": ["fp16", "int8-fp16"], "targets": ["sm86"]},
        ],
        "benchmark": {"batch_sizes": [1], "warmup": 1, "rounds": 2, "calls": 2},
    }  # fmt: skip


def row(name: str, run: Path, seconds: float) -> str:
    """The model's line of the table."""
    rows = {entry["name"]: entry for entry in json.loads((run / "report/report.json").read_text())["variants"]}
    notes = json.loads((run / "export/manifest.json").read_text())["notes"]
    cells = [cell(rows[f"{engine}-{precision}"]) for engine in ENGINES for precision in PRECISIONS]
    int8 = rows["onnxruntime-int8"]["layers"]
    share = f"{int8['int8']} of {sum(int8.values())}" if int8 else "–"
    built = ", ".join(engine_layers(rows[f"tensorrt_rtx-{precision}-sm86"]) for precision in ("fp16", "int8-fp16"))
    return (
        f"{name:<24}{notes['logit_difference_max']:>13.1e}  {share:>11}  {''.join(cells)}  {built:<44}{seconds:>4.0f}"
    )


def cell(entry: dict[str, Any]) -> str:
    agreement = "–" if entry["agreement"] is None else f"{entry['agreement']:.1f}"
    return f"{agreement + ' ' + entry['status']:>12}"


def engine_layers(entry: dict[str, Any]) -> str:
    if entry["sha256"] is None:
        return "not built"
    return " ".join(
        f"{count} {kind}" for kind, count in (entry["layers"] or {"layers not counted": ""}).items() if count != 0
    )


if __name__ == "__main__":
    main()
