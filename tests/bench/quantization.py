"""`make quantization`: four trained networks, every policy × method, two CPU engines; the tables of docs/quantization.md.

Every row that a recipe can express is a point of a sweep (`t2t-edge sweep`) or one of its precisions: interrupted, the same
command goes on. Rows are kept in results/quantization.json as long as the network's checkpoint, the number of images and the
CPU are theirs; else it says which are measured anew. Accuracy is against PyTorch FP32 on the same evaluation images; the speed
is FP32's time over the row's, one image, both on the same engine, taking turns. The first rows are nvidia-modelopt's.
"""

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

import yaml

sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1])]

from bench.kept_results import keep, read_kept, write_page
from bench.quantization_modelopt import LABELS, measure_modelopt
from bench.quantization_networks import DEMO, NETWORKS
from bench.quantization_rows import Row, points_of, row_of, rows_of
from bench.quantization_table import in_words, table

from calib.images import balanced_subset
from pipeline.artifact import read_artifact, read_manifest
from pipeline.cli import main as command
from pipeline.data.dataset import open_dataset
from pipeline.parts.data import DataPart

DATA = DataPart(name="fashion-mnist", root=Path("data/fashion-mnist"))
MARKERS = ("<!-- tables -->", "<!-- /tables -->")
REFUSES = "quantize"  # the stage: a policy or method that a network has no layer for is a row with the reason
Rows = dict[str, dict[str, Any]]


def main() -> None:
    """Make the runs of the rows that are not there, and write rows and tables."""
    options = arguments()
    names = options.networks or list(NETWORKS)
    root = images_of(options.images, options.runs)
    base = sweep([row for name in names for row in rows_of(name)[:1]], root, options)  # what the checkpoints are
    origins = {name: origin(base[name], options.runs / name) for name in names if base[name]["status"] == "done"}
    wanted = {name: missing(name, of, options) for name, of in origins.items()}
    rows = {name: [row for row in rows_of(name) if row.label in wanted[name]] for name in origins}
    points = sweep([row for of in rows.values() for row in of], root, options)
    for name, of in origins.items():
        measured = measured_rows(rows[name], points, options.runs)
        keep_rows(name, of, measured, options)
        others = [label for label in LABELS if label in wanted[name]]
        if others:
            keep_rows(name, of, measure_modelopt(options.runs / name, others, of["images"], options.threads), options)
    failed = [f"{point['name']}: {point['reason']}" for point in (base | points).values() if is_broken(point)]
    sys.exit("did not finish: " + "; ".join(failed) if failed else 0)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", help=f"of {', '.join(NETWORKS)}; default: all")
    parser.add_argument("--only", nargs="+", metavar="ROW", help="rows as the table calls them, 'full / max'")
    parser.add_argument("--again", action="store_true", help="rows that are there, too")
    parser.add_argument("--images", type=int, default=2000, help="evaluation images; default: %(default)s")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=Path, default=Path("runs/quantization"), help="default: %(default)s")
    parser.add_argument("--results", type=Path, default=Path("results/quantization.json"), help="default: %(default)s")
    parser.add_argument("--page", type=Path, default=Path("docs/quantization.md"), help="default: %(default)s")
    return parser.parse_args()


def images_of(count: int, folder: Path) -> Path:
    """The root of the photographs, of which so many evaluate."""
    train, val = open_dataset(DATA)
    if count >= len(val):
        return DATA.root
    root = folder / ".images" / str(count)
    chosen = [val.paths[index] for index in balanced_subset(val, count, seed=0)]
    for path in chosen:
        link = root / "val" / path.parent.name / path.name
        link.parent.mkdir(parents=True, exist_ok=True)
        if not link.exists():
            link.symlink_to(path.resolve())
    if not (root / "train").exists():
        (root / "train").symlink_to(train.root.resolve())
    return root


def sweep(rows: list[Row], root: Path, options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """The points of `rows` by name, as sweep.json tells of them; their runs are in the sweep's folder."""
    if not rows:
        return {}
    folder = options.runs
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "points.yaml"
    path.write_text(yaml.safe_dump(sweep_file(rows, root, options.threads), sort_keys=False), encoding="utf-8")
    outcome = folder / "sweep.json"
    outcome.unlink(missing_ok=True)
    status = command(["sweep", str(path), "--runs", str(folder.parent), "--run", folder.name])
    if not outcome.is_file():  # interrupted, or refused, and said so
        sys.exit(status)
    found = json.loads(outcome.read_text(encoding="utf-8"))["points"]
    return {point["name"]: point for point in found}


def sweep_file(rows: list[Row], root: Path, threads: int) -> dict[str, Any]:
    """Training gets all threads, as its weights depend on their number; speed is measured as long for every row."""
    return {
        "schema": 1,
        "recipe": str(DEMO),
        "set": {
            "data.root": str(root),
            "benchmark": {"batch_sizes": [1], "rounds": 15, "calls": 10, "threads": threads, "energy_seconds": 0},
            "visualize": {"images": 2, "blocks": 2, "channels": 1},
        },
        "points": points_of(rows),
        "needs": {stage: {"cpus": threads} for stage in ("train", "qat")},
    }


def origin(point: dict[str, Any], run: Path) -> dict[str, Any]:
    """What a network's rows are of: where it is another, they are not comparable."""
    train = read_artifact(run / "train")
    assert train is not None
    machine, dataset = point["report"]["machine"], point["report"]["dataset"]
    return {"cpu": machine["cpu"], "images": dataset["eval_images"], "checkpoint": train.outputs["checkpoint.pt"]}


def missing(name: str, of: dict[str, Any], options: argparse.Namespace) -> list[str]:
    """The labels of the rows that are to be measured; what is given up for that is said, and not for a few rows."""
    labels = [*LABELS, *(row.label for row in rows_of(name))]
    if unknown := [label for label in options.only or () if label not in labels]:
        sys.exit(f"{name} has no row {', '.join(map(repr, unknown))}; there are {', '.join(labels)}")
    asked = [label for label in labels if not options.only or label in options.only]
    kept = read_kept(options.results).get(name)
    if kept is None:
        return asked
    if kept["of"] != of:
        told = "; ".join(f"{key} {kept['of'][key]}, now {of[key]}" for key in of if kept["of"][key] != of[key])
        if options.only:
            sys.exit(f"{name}: {options.results} has {len(kept['rows'])} rows of {told}: give --results another file")
        print(f"{name}: {len(kept['rows'])} rows are measured anew and replaced, they are of {told}", flush=True)
        return asked
    return [label for label in asked if options.again or label not in kept["rows"]]


def is_broken(point: dict[str, Any]) -> bool:
    """Whether it failed by accident: an exception has its name before the reason, and what left no result says so."""
    accident = re.match(r"\w+(Error|Exception): |no result from its process", point["reason"] or "")
    return point["status"] != "done" and (point["stage"] != REFUSES or accident is not None)


def measured_rows(rows: list[Row], points: dict[str, dict[str, Any]], runs: Path) -> Rows:
    """By label: what was measured, and what a network refuses; not what failed otherwise."""
    found: Rows = {}
    for row in rows:
        point = points[row.point]
        if point["status"] == "done":
            found[row.label] = row_of(row, point["report"], read_manifest(runs / row.point / REFUSES) or {})
        elif not is_broken(point):
            found[row.label] = {"unavailable": point["reason"]}
    return found


def keep_rows(name: str, of: dict[str, Any], rows: Rows, options: argparse.Namespace) -> None:
    """Put rows beside those of the same origin, in the table's order, and write the page."""
    if not rows:
        return
    for label, row in rows.items():
        print(f"{name:<24}{label:<32}{in_words(row)}", flush=True)
    kept = read_kept(options.results).get(name, {"of": of, "rows": {}})
    both = (kept["rows"] if kept["of"] == of else {}) | rows
    order = [label for label in (*LABELS, *(row.label for row in rows_of(name))) if label in both]
    results = keep(options.results, name, {"of": of, "rows": {label: both[label] for label in order}})
    write_page(options.page, [table(key, one["of"], one["rows"]) for key, one in results.items()], *MARKERS)


if __name__ == "__main__":
    main()
