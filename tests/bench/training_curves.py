"""`make curves`: the demo's loss from one process and from two with the same global batch, as a table and a picture.

Trains recipes/demo.yaml twice, in OUT/one and OUT/two: the batch of the recipe in one process, half of it in each of two.
Both see the same images in the same updates; dropout in the token performer is drawn in each process, so the curves agree
but for chance. A third training in one process with another seed shows how much chance is.
"""

import argparse
import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import yaml

sys.path[:0] = [str(Path(__file__).parents[2])]

from pipeline.console.progress import track

ROOT = Path(__file__).parents[2]
RUNS = {"one process": (1, 0), "two processes": (2, 0), "one process, another seed": (1, 1)}  # processes, seed


def main() -> None:
    """Train, then write `curves.csv` and `curves.png` beside each other."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipe", type=Path, default=ROOT / "recipes" / "demo.yaml")
    parser.add_argument("--out", type=Path, default=Path("runs/curves"))
    parser.add_argument("--epochs", type=int, help="default: the recipe's")
    parser.add_argument("--images", type=int, help="so many training images of each class; default: all")
    options = parser.parse_args()
    values = yaml.safe_load(options.recipe.read_text(encoding="utf-8"))
    options.out.mkdir(parents=True, exist_ok=True)
    if options.images:
        values["data"]["root"] = str(fewer_images(values["data"], options.images, options.out))
    curves = {}
    for name in track(list(RUNS), "training"):
        processes, seed = RUNS[name]
        curves[name] = train(values, name, processes, seed, options)
    write(curves, options.out)


def fewer_images(data: dict[str, str], count: int, out: Path) -> Path:
    """Links to the first `count` training and count // 4 evaluation images of each class."""
    from pipeline.data.dataset import open_dataset
    from pipeline.parts.data import DataPart

    root = out / "images"
    for split in open_dataset(DataPart(**data)):
        for label, name in enumerate(split.classes):
            folder = root / split.root.name / name
            folder.mkdir(parents=True, exist_ok=True)
            paths = [path for path, of in zip(split.paths, split.labels, strict=True) if of == label]
            for path in paths[: count if split.root.name == "train" else count // 4]:
                link = folder / path.name
                if not link.exists():
                    link.symlink_to(path.resolve())
    return root


def train(
    values: dict[str, dict[str, object]], name: str, processes: int, seed: int, options: argparse.Namespace
) -> list[dict[str, str]]:
    """The rows of metrics.csv of one training."""
    batch = int(str(values["train"]["batch_size"]))
    changed = {"batch_size": batch // processes, "global_batch": batch, "eval_every": 1, "seed": seed}
    if options.epochs:
        changed["epochs"] = options.epochs
    folder = options.out / name.replace(",", "").replace(" ", "-")
    folder.mkdir(exist_ok=True)
    recipe = folder / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(values | {"train": values["train"] | changed}), encoding="utf-8")
    command = [sys.executable, "-m", "pipeline"]
    if processes > 1:
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", "-m"]
        command += ["--", "pipeline"]
    command += ["train", "--recipe", str(recipe.resolve()), "--runs", str(folder.resolve()), "--run", "run"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
    with (folder / "run" / "train" / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def write(curves: dict[str, list[dict[str, str]]], out: Path) -> None:
    """The table on the screen and in `curves.csv`, the picture in `curves.png`."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    with (out / "curves.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["epoch", *(f"{name}: {what}" for name in curves for what in ("train_loss", "val_top1"))])
        for rows in zip(*curves.values(), strict=True):
            table.writerow([rows[0]["epoch"], *(row[what] for row in rows for what in ("train_loss", "val_top1"))])
    figure, axes = pyplot.subplots(figsize=(7, 4))
    for (name, rows), line in zip(curves.items(), ("-", "--", ":"), strict=True):
        axes.plot(
            [int(row["epoch"]) for row in rows],
            [float(row["train_loss"]) for row in rows],
            line,
            marker="o",
            label=name,
        )
        print(f"{name:<26} loss " + "  ".join(f"{float(row['train_loss']):.4f}" for row in rows)
              + "   top-1 % " + "  ".join(f"{float(row['val_top1']):.2f}" for row in rows))  # fmt: skip
    axes.set_xlabel("epoch")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_ylabel("training loss")
    axes.legend()
    figure.tight_layout()
    figure.savefig(out / "curves.png", dpi=100)
    one, two, other = ([float(row["train_loss"]) for row in rows] for rows in curves.values())
    apart = [max(abs(a - b) / a for a, b in zip(one, rows, strict=True)) for rows in (two, other)]
    print(json.dumps({"largest_relative_difference": {"processes": round(apart[0], 5), "seed": round(apart[1], 5)}}))


if __name__ == "__main__":
    main()
