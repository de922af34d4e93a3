"""FPN and VT-FPN: what each part costs beside what the paper prints, and how fast the small ones train.

`python tests/bench/segmentation_networks.py costs` and `… steps [THREADS]` print the tables of
docs/segmentation-networks.md. Counting takes seconds (meta device), the steps about a minute.
"""

import statistics
import sys
import time
from pathlib import Path

import timm
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).parents[2]))

import models  # noqa: F401  (registers them)

# arXiv 2006.03677, section 5.3: MACs of the whole network and of its FPN part, G, at 800 × 1216 px (COCO-stuff) and
# 473 × 473 px (LIP), of which 480 is the nearest size that the trunk divides.
COCO, LIP = (800, 1216), (480, 480)
PUBLISHED = {
    ("fpn_resnet50", COCO): ("159", "55.1"),
    ("vt_fpn_resnet50", COCO): ("113", "8.5"),
    ("fpn_resnet101", COCO): ("231", "55.1"),
    ("vt_fpn_resnet101", COCO): ("185", "8.5"),
    ("fpn_resnet50", LIP): ("37.1", "12.8"),
    ("vt_fpn_resnet50", LIP): ("26.4", "2.0"),
    ("fpn_resnet101", LIP): ("54.4", "12.8"),
    ("vt_fpn_resnet101", LIP): ("43.6", "2.0"),
}
CLASSES = {COCO: 54, LIP: 20}
STEP_SIZES, BATCH, SECONDS = (64, 96, 128), 8, 8


def count(name: str, size: tuple[int, int]) -> tuple[dict[str, int], int, int]:
    """MACs of each child of the network, and parameters of the whole and of the neck."""
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        model = timm.create_model(name, img_size=size, num_classes=CLASSES[size]).eval()
        model(torch.empty(1, 3, *size))
    parts = {name.split(".")[1]: sum(flops.values()) // 2 for name, flops in counter.get_flop_counts().items()
             if name.count(".") == 1}  # fmt: skip
    neck = sum(value.numel() for value in model.neck.parameters())
    return parts, sum(value.numel() for value in model.parameters()), neck


def print_costs() -> None:
    """A row for each network and size that the paper has."""
    print("| network | px | params M | neck M | MACs G | paper | neck G | paper | pixel head G |")
    print("| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for (name, size), (whole, part) in PUBLISHED.items():
        parts, parameters, neck = count(name, size)
        head = parts["branch"] + parts["head"]
        print(
            f"| {name} | {size[0]} × {size[1]} | {parameters / 1e6:.2f} | {neck / 1e6:.2f} | {sum(parts.values()) / 1e9:.1f} "
            f"| {whole} | {parts['neck'] / 1e9:.2f} | {part} | {head / 1e9:.1f} |"
        )


def images_per_second(name: str, size: int, classes: int = 12) -> float:
    """Of training steps, AdamW's included: the median of those in `SECONDS`."""
    torch.manual_seed(0)
    model = timm.create_model(name, img_size=size, num_classes=classes).train()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    images, masks = torch.randn(BATCH, 3, size, size), torch.randint(0, classes, (BATCH, size, size))
    times: list[float] = []
    end = time.perf_counter() + SECONDS
    while time.perf_counter() < end or len(times) < 4:
        start = time.perf_counter()
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), masks).backward()
        optimizer.step()
        times.append(time.perf_counter() - start)
    return BATCH / statistics.median(times[1:])


def print_steps(threads: int) -> None:
    """A row for each small network and size."""
    torch.set_num_threads(threads)
    print("| network | threads | px | images/s |\n| --- | ---: | ---: | ---: |")
    for name in ("fpn_mini", "vt_fpn_mini"):
        for size in STEP_SIZES:
            print(f"| {name} | {threads} | {size} | {images_per_second(name, size):.0f} |", flush=True)


def main() -> None:
    """`costs`, or `steps` with a number of threads."""
    what, *rest = sys.argv[1:] or ["costs"]
    if what == "steps":
        print_steps(int(rest[0]) if rest else 1)
    elif what == "costs":
        print_costs()
    else:
        sys.exit(f"{what!r} is neither costs nor steps")


if __name__ == "__main__":
    main()
