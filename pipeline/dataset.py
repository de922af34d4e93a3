"""The images of a recipe: folders, or an npz archive that is written out as folders on first use."""

import hashlib
import os
import shutil
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from calib.errors import InputError
from calib.images import ImageSplit, read_split
from calib.preprocess import Image
from pipeline.progress import track
from pipeline.recipe import DataPart

SPLITS = ("train", "val")
_TAIL = 4096  # bytes: the end of a compressed image is as good as its hash for telling most images apart


def open_dataset(data: DataPart) -> tuple[ImageSplit, ImageSplit]:
    """The train and val images of `data.root`.

    Where `data.root` is no folder but a file `<root>.npz` stands beside it, that is written out as image folders first.
    """
    archive = data.root.with_name(f"{data.root.name}.npz")
    if not data.root.is_dir() and archive.is_file():
        with _lock(archive):
            if not data.root.is_dir():  # another process may have been faster
                _unpack(archive, data.root)
    train = read_split(data.root, "train")
    return train, read_split(data.root, "val", train.classes)


def check_no_overlap(train: ImageSplit, val: ImageSplit) -> None:
    """Raise InputError when a file of `val` has the same content as one of `train`: its accuracy would be memory.

    Only files of equal size are read, and of large ones the last 4 KiB first, so that a large set stays cheap.
    """
    suspects = _same_size(train.paths, val.paths)
    for depth in (_TAIL, None):
        known = {_content(path, depth): path for path in suspects[0]}
        pairs = [(known[key], path) for path in suspects[1] if (key := _content(path, depth)) in known]
        tails = {_content(path, depth) for _, path in pairs}
        suspects = ([path for path in suspects[0] if _content(path, depth) in tails], [path for _, path in pairs])
    if pairs:
        raise InputError(
            f"{len(pairs)} val image(s) are also in train, so the measured accuracy would be too good",
            got="; ".join(f"{copy} = {original}" for original, copy in pairs[:3]), allowed="different images",
            next_step=f"remove them from one split: rm '{pairs[0][1]}'",
        )  # fmt: skip
