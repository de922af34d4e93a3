"""`make bench`: our graphs beside those of other tools, on both CPU engines: speed, and for trained networks accuracy.

Graphs: the literal FP32 export, ours in FP32, BF16 and INT8; of the literal export NNCF's (told that a transformer is one),
ONNX Runtime's own quantizer's and nvidia-modelopt's, each on the same calibration images. All graphs of an engine take their
turn in every round; speeds are medians of the rounds' ratios. Every network is kept in results/peers-MACHINE.json when it is
finished, and not measured again without --again. NNCF comes with `pip install -e '.[bench]'`.
"""

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[3])]

from bench.kept_results import Results, differences, keep, read_kept, write_page
from bench.peers.graphs import installed
from bench.peers.kept import results_path
from bench.peers.measure import compare
from bench.peers.networks import names_at_hand, open_network
from bench.peers.table import network_text

from calib.errors import InputError
from pipeline.machine.describe import cpu_name

MARKERS = ("<!-- peers -->", "<!-- /peers -->")


def main() -> None:
    """Measure what is not kept yet, print the tables."""
    options = arguments()
    torch.set_num_threads(options.threads)
    settings = {
        "cpu": cpu_name(), "threads": options.threads, "rounds": options.rounds, "calls": options.calls,
        "batches": options.batches, "images": options.images, "versions": installed(),
    }  # fmt: skip
    path = results_path(options.results, cpu_name())
    try:
        names = options.networks or names_at_hand(options.runs)
        for name in names:
            measure_or_skip(name, path, settings, again=options.again)
    except InputError as error:
        sys.exit(str(error))
    kept = read_kept(path)
    print("\n".join(network_text(name, kept[name]) for name in names))
    if options.page:
        every = {file: read_kept(file) for file in sorted(options.results.glob("peers-*.json"))}
        write_page(options.page, [text for results in every.values() for text in texts(results)], *MARKERS)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--networks", nargs="+", metavar="NAME", help="names, or folders of finished runs; default: all at hand"
    )
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8], help="default: 1 8")
    parser.add_argument("--rounds", type=int, default=15, help="default: %(default)s")
    parser.add_argument("--calls", type=int, default=3, help="timed calls a round; default: %(default)s")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="default: %(default)s")
    parser.add_argument("--images", type=int, default=1000, help="evaluation images of runs; default: %(default)s")
    parser.add_argument("--again", action="store_true", help="measure networks that are kept, too")
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder; default: %(default)s")
    parser.add_argument("--page", type=Path, help="write all machines' tables into it: docs/quantization.md")
    return parser.parse_args()


def measure_or_skip(name: str, path: Path, settings: dict[str, Any], *, again: bool) -> None:
    """Measure one network and keep its result, unless it is kept already."""
    kept = read_kept(path)
    if name in kept and not again:
        other = "; ".join(differences(kept[name], settings))
        print(
            f"{name}: kept{', measured with other settings: ' + other if other else ''}. --again measures it anew",
            flush=True,
        )
        return
    started = time.monotonic()
    network = open_network(name, settings["images"])
    with tempfile.TemporaryDirectory() as scratch:
        rows = compare(
            network, settings["batches"], settings["rounds"], settings["calls"], settings["threads"], Path(scratch),
            lambda text: print(f"{name} {time.monotonic() - started:5.0f} s  {text}", flush=True),
        )  # fmt: skip
    keep(path, name, {"told": network.told, "settings": settings, "rows": rows})


def texts(results: Results) -> list[str]:
    return [network_text(name, result) for name, result in results.items()]


if __name__ == "__main__":
    main()
