"""The options of `t2t-edge predict`."""

import argparse
from pathlib import Path

from export.cpu import available_cpus


def add_predict_options(command: argparse.ArgumentParser) -> None:
    """Add every option except where the engine is, which differs on a device."""
    command.add_argument(
        "paths", nargs="+", metavar="SOURCE",
        help="an image, a folder, a glob in quotes, a video, a camera's number (0; a file of that name: ./0), or a URL (rtsp://…)",
    )  # fmt: skip
    command.add_argument("--engine", help="another engine of the run, by its name in the report; it must have passed")
    command.add_argument(
        "--top",
        type=int,
        metavar="K",
        help="the K likeliest classes, or the K largest of a segmentation; default: 1, or 5",
    )
    command.add_argument("--json", action="store_true", help="one JSON object per line on stdout instead of text")
    command.add_argument(
        "--csv", type=Path, metavar="FILE", help="also write a CSV table; an existing file is replaced"
    )
    command.add_argument("--save", type=Path, metavar="FOLDER", help="also write annotated images and videos there")
    command.add_argument("--show", action="store_true", help="also show them in a window; q ends")
    command.add_argument(
        "--batch", type=int, metavar="N", help="images at a time; default: 8, or 1 for cameras and URLs"
    )
    command.add_argument(
        "--threads", type=int, default=available_cpus(), help="threads of an engine on a CPU; default: all cores"
    )
    command.add_argument("--workers", type=int, help="threads that decode and preprocess; default: one for each core")
