"""`make bench-gpu`: what one NVIDIA GPU makes of the networks in PyTorch alone, within nine minutes.

Forward passes at batch 1 and 64 in FP32, TF32, BF16, FP16 and INT8, compiled and as CUDA graphs, with agreement and SNR against
FP32 and their share of the GPU's roofline; a training step in BF16, our form of the soft split against the literal one; and
whether TensorRT-RTX loads. Needs torch (2.11 or later), timm, numpy and OpenCV, and no installation of this project.

The parts are measured one after another, most important first, each in a process of its own, and each is kept in the file as soon
as it is measured. Started again with the same file, the command goes on with what is missing. What fails is a row with the
reason. Without a GPU it measures small networks on the CPU, which only shows that the command works.

To take it to another machine: git archive HEAD models calib data/*.npz tests/literal.py tests/bench | ssh MACHINE tar x
"""

import argparse
import json
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1])]

NEEDED = {"torch": "torch", "timm": "timm", "numpy": "numpy", "cv2": "opencv-python-headless"}
if missing := [package for name, package in NEEDED.items() if find_spec(name) is None]:
    sys.exit(f"not installed: {', '.join(missing)}; next: pip install {' '.join(missing)}")

import torch
from bench.gpu_parts.machine import default_path, settings
from bench.gpu_parts.measure import measure
from bench.gpu_parts.parts import CPU, GPU, Part, Scale
from bench.gpu_parts.run import Outcome, run_parts
from bench.gpu_parts.table import part_in_words, tables
from bench.kept_results import differences, keep, read_kept, write_page

MINUTES = 9.0
MARKERS = ("<!-- gpu -->", "<!-- /gpu -->")
RESULTS = Path(__file__).parents[2] / "results"


def main() -> None:
    """Measure what is missing and print the tables; or write the page; or, as a child, measure one part."""
    options = arguments()
    device = torch.device(options.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    scale = GPU if device.type == "cuda" else CPU
    if options.part:
        part = next(part for part in scale.parts if part.name == options.part)
        measure(part, scale, device, options.write, json.loads(options.without), options.compiler)
    elif options.page:
        write_tables(options.page, [options.out] if options.out else sorted(RESULTS.glob("gpu-*.json")))
    elif options.list:
        print("\n".join(part.name for part in scale.parts))
    else:
        go_on(options, scale, device)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", help="names of parts (--list); default: all that are missing in the file")
    parser.add_argument("--out", type=Path, help="the file; default: results/gpu-<name of the GPU>.json")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="stop after these; default: %(default)g")
    parser.add_argument("--again", action="store_true", help="measure parts that are in the file, too")
    parser.add_argument("--retry", action="store_true", help="measure parts in which something failed once more")
    parser.add_argument("--list", action="store_true", help="print the names of the parts, and end")
    parser.add_argument("--page", type=Path, metavar="PAGE", help="write the tables into it (docs/gpu.md), and end")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: the GPU where there is one")
    # What the command starts itself with, for one part; and what tests have torch.compile do, which takes minutes otherwise.
    parser.add_argument("--part", help=argparse.SUPPRESS)
    parser.add_argument("--write", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--without", default="{}", help=argparse.SUPPRESS)
    parser.add_argument("--compiler", default="inductor", help=argparse.SUPPRESS)
    options = parser.parse_args()
    names = [part.name for scale in (GPU, CPU) for part in scale.parts]
    if unknown := sorted(set(options.parts) - set(names)):
        parser.error(f"there is no part {', '.join(unknown)}; --list prints their names")
    return options


def go_on(options: argparse.Namespace, scale: Scale, device: torch.device) -> None:
    """Measure the parts that the file has not, while there is time."""
    deadline = time.monotonic() + 60 * options.minutes
    here = settings(device)
    path = options.out or default_path(RESULTS, here)
    refuse_another_machine(path, here)
    kept = read_kept(path)
    wanted = [part for part in scale.parts if part.name in options.parts or not options.parts]
    missing = [part for part in wanted if options.again or is_missing(kept.get(part.name), options.retry)]
    print(f"{here['gpu'] or here['cpu']}; {len(missing)} of {len(wanted)} parts to measure; {path}", flush=True)

    def finished(part: Part, outcome: Outcome) -> None:
        row = {"settings": here, "seconds": outcome.seconds, **part_settings(part), **outcome.row}
        keep(path, part.name, row)
        print(f"{part.name}: {part_in_words(row)} ({outcome.seconds:.0f} s)", flush=True)

    command = [sys.executable, str(Path(__file__).resolve()), "--device", device.type, "--compiler", options.compiler]
    left = run_parts(missing, command, scale.limit, deadline, finished)
    print("\n" + tables([read_kept(path)]))
    if left:
        print(f"not measured for lack of time: {', '.join(left)}; the same command goes on with them")


def write_tables(page: Path, files: list[Path]) -> None:
    """The tables of all `files` into the page."""
    write_page(page, [tables([read_kept(path) for path in files]), ""], *MARKERS)


def refuse_another_machine(path: Path, here: dict[str, Any]) -> None:
    """One file is of one GPU and one PyTorch: times of two do not stand side by side. Its machine may be another one."""
    same = {"gpu": here["gpu"], "versions": {"torch": here["versions"]["torch"]}}
    for name, row in read_kept(path).items():
        if found := differences(row, same):
            how = f"{name}: {'; '.join(found)}"
            sys.exit(f"{path} was measured elsewhere ({how}): give another file with --out, or delete it")


def is_missing(row: dict[str, Any] | None, retry: bool) -> bool:
    """Whether a part is not in the file, or has failed, whole or in parts, and is to be tried once more."""
    if row is None:
        return True
    rows = [row, *row.get("variants", {}).values(), *row.get("forms", {}).values()]
    return retry and any("failed" in of for of in rows)


def part_settings(part: Part) -> dict[str, Any]:
    """What the part was, for the tables."""
    if not part.network:
        return {"kind": part.kind}
    return {
        "kind": part.kind, "network": part.network, "size": part.size, "batch": part.batch, "compiled": part.compiled,
    }  # fmt: skip


if __name__ == "__main__":
    main()
