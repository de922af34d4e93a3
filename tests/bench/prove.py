"""`make prove`: every model in FP16, INT8 and FP8, built ahead of time for three GPU architectures, and what came out.

No GPU is needed. Each engine is a row of results/prove.json as soon as it is built: started again, the command goes on
where it was. Beside our FP16 graph stands the literal one (nn.Unfold, LayerNorm, Linear, nothing in FP32) for the
T2T-ViT family. Ends with status 1 where a row breaks a promise: INT8 layers, fused attentions, nothing in FP32 that is not
pinned. The tables go to docs/tensorrt-graph.md.
"""

import argparse
import fcntl
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]

from calib.errors import InputError
from export.engines.tensorrt import rtx_backend as tensorrt_rtx_backend
from export.runner import Unavailable

# What needs torch is imported where it is used: every build is a process of its own, which imports this file again.

TARGETS = ("sm86", "sm89", "sm120")
PRECISIONS = ("fp16", "int8", "int8+attention", "fp8")
BATCHES = {"1": (1, 1, 1), "1–8": (1, 8, 8)}
LITERAL = "fp16 literal"
NO_FP8 = ("sm86",)
DATA, RESULTS, PAGE = Path("data/fashion-mnist.npz"), Path("results/prove.json"), Path("docs/tensorrt-graph.md")
MARKERS = ("<!-- prove -->", "<!-- /prove -->")
Rows = dict[str, dict[str, Any]]


def main() -> None:
    """Build what is not built yet, write the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", help="default: the whole zoo")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--again", action="store_true", help="build the rows of these models again")
    parser.add_argument("--tables", action="store_true", help="only write the tables again")
    options = parser.parse_args()
    import torch

    from models.zoo import BASELINES, FAMILY, SEGMENTATION

    torch.set_num_threads(options.threads)
    for name in [] if options.tables else options.models or [*FAMILY, *BASELINES, *SEGMENTATION]:
        if options.again:
            write_rows({key: row for key, row in read_rows().items() if row["model"] != name})
        prove_model(name)
    rows = read_rows()
    write_page(rows)
    broken = [f"{key}: {'; '.join(row['broken'])}" for key, row in rows.items() if row.get("broken")]
    if broken:
        sys.exit("\n".join(broken))


def read_rows() -> Rows:
    """The rows by `model precision target batch`."""
    return json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else {}


def add_row(key: str, row: dict[str, Any]) -> None:
    """One more row, of a file that another process may be adding rows to."""
    with (Path(tempfile.gettempdir()) / "t2t-edge-prove.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        write_rows(read_rows() | {key: row})


def write_rows(rows: Rows) -> None:
    """All of them, or none: a rename."""
    partial = RESULTS.with_suffix(".partial")
    partial.write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(partial, RESULTS)


def prove_model(name: str) -> None:
    """Build every engine of one model that has no row yet. Others may build others' beside it."""
    rows = read_rows()
    missing = [key for key in wanted(name) if " ".join(key) not in rows]
    if not missing:
        return
    from engine_graphs import (
        build_network,
        count_attentions,
        count_fusable,
        export_network,
        image_size,
        photographs,
        write_literal,
        write_precision,
    )  # fmt: skip

    calibration = photographs(DATA, image_size(name))
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        model = build_network(name)
        proto = export_network(model, folder / "fp32.onnx", calibration)
        attentions = {"attentions_in_graph": count_attentions(proto), "attentions_fusable": count_fusable(proto)}
        for precision in dict.fromkeys(key[1] for key in missing):
            path = folder / "graph.onnx"
            failed = ""
            try:
                if precision == LITERAL:
                    write_literal(model, path, calibration)
                else:
                    write_precision(proto, precision, path, calibration)
            except InputError as error:  # a policy that finds nothing of its kind in this model
                failed = error.what
            for key in missing:
                if key[1] == precision:
                    row = {"error": failed} if failed else prove(path, key, attentions)
                    row = {"model": name} | row
                    add_row(" ".join(key), row)
                    print(f"{' '.join(key):<44}{describe(row)}", flush=True)


def wanted(name: str) -> list[tuple[str, str, str, str]]:
    """Model, precision, target and batch of each engine; the literal form where there is one, on one target."""
    from models.t2t_vit import VARIANTS

    keys = [(name, precision, target, batch) for precision in PRECISIONS for target in TARGETS for batch in BATCHES]
    if name in VARIANTS:
        keys += [(name, LITERAL, TARGETS[0], batch) for batch in BATCHES]
    return keys


def prove(path: Path, key: tuple[str, str, str, str], attentions: dict[str, int]) -> dict[str, Any]:
    """One engine and the promises that it breaks; `attentions` counts those of the network."""
    from engine_graphs import broken_promises, build_row

    _, precision, target, batch = key
    if precision == "fp8" and target in NO_FP8:
        return {"error": f"{target} has no FP8"}
    try:
        row = build_row(path, target, BATCHES[batch])
    except (InputError, Unavailable) as error:
        return {"error": " ".join(str(error).split()), "broken": ["it does not build"]}
    row |= attentions | {"version": tensorrt_rtx_backend.version()}
    return row | {"broken": [] if precision == LITERAL else broken_promises(row, precision)}


def describe(row: dict[str, Any]) -> str:
    """A row in one line."""
    if "error" in row:
        return row["error"][:90]
    products = " ".join(f"{count} {kind}" for kind, count in row["products"].items() if count)
    return (
        f"{row['entries']:>4} entries, {row['kernels']:>3} kernels; {products}; {fused(row)} fused; "
        f"{row['fp32']} in FP32; {row['seconds']} s; {row['megabytes']} MB  {'; '.join(row['broken'])}"
    )


def fused(row: dict[str, Any]) -> str:
    kinds = " ".join(f"{count} {kind}" for kind, count in row["attentions"].items()) or "0"
    return f"{kinds} of {row['attentions_in_graph']}"


def write_page(rows: Rows) -> None:
    """The table between the markers of the page: a line per model, precision and batch; numbers for each target."""
    groups: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for key, row in rows.items():
        model, rest = key.split(" ", 1)
        precision, target, batch = rest.rsplit(" ", 2)
        groups.setdefault((model, precision, batch), []).append(row | {"target": target})
    head = [f"Entries of the layer report and, of these, kernels on the GPU, for {', '.join(TARGETS)}; the rest for the first.\n",
            "| model | precision | batch | entries | kernels | products | attentions fused | kernels in FP32 | engine, MB |",
            "|---|---|---|---|---|---|---|---|---|"]  # fmt: skip
    lines = [line(*key, group) for key, group in sorted(groups.items(), key=lambda item: order(item[0]))]
    text = PAGE.read_text(encoding="utf-8")
    before, after = text.split(MARKERS[0])[0], text.split(MARKERS[1])[1]
    PAGE.write_text("\n".join([before + MARKERS[0], *head, *lines, MARKERS[1] + after]), encoding="utf-8")


def order(key: tuple[str, str, str]) -> tuple[int, int, str]:
    from models.zoo import BASELINES, FAMILY, SEGMENTATION

    model, precision, batch = key
    names, precisions = (*FAMILY, *BASELINES, *SEGMENTATION), (LITERAL, *PRECISIONS)
    return names.index(model) if model in names else len(names), precisions.index(precision), batch


def line(model: str, precision: str, batch: str, group: list[dict[str, Any]]) -> str:
    built = [row for row in group if "error" not in row]
    if not built:
        return f"| {model} | {precision} | {batch} | {group[0]['error'][:80]} | | | | | |"
    each = {kind: " / ".join(str(row[kind]) for row in built) for kind in ("entries", "kernels")}
    first = built[0]
    products = ", ".join(f"{count} {kind}" for kind, count in first["products"].items() if count)
    return (
        f"| {model} | {precision} | {batch} | {each['entries']} | {each['kernels']} | {products} | {fused(first)} | "
        f"{first['fp32']} | {first['megabytes']} |"
    )


if __name__ == "__main__":
    main()
