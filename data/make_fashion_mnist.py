"""Make `fashion-mnist.npz`, the sample set in this folder, from the published Fashion-MNIST files.

    python data/make_fashion_mnist.py [folder with the four IDX .gz files]

A balanced, fixed part: the first 2,000 images of each class of the training file and the first 400 of each class of
the test file, in file order. An image whose pixels were already taken is left out, so that no image is in both.
The same input gives the same bytes (with the same zlib).
"""

import argparse
import gzip
import io
import zipfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

DEFAULT_SOURCE = Path("/usr/share/datasets/fashion-mnist")  # where Debian's dataset-fashion-mnist puts the files
CLASSES = (  # in label order; "T-shirt/top" and "Ankle boot" as folder names
    "t-shirt-top", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle-boot",
)  # fmt: skip
FILES = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
TRAIN_PER_CLASS, VAL_PER_CLASS = 2000, 400
MAX_BYTES = 16_000_000

Array = NDArray[np.uint8]


def read_idx(path: Path) -> Array:
    """Read a gzip IDX file of unsigned bytes: magic 0x0000 08 <dimensions>, big-endian sizes, data."""
    data = gzip.decompress(path.read_bytes())
    if data[:3] != b"\x00\x00\x08":
        raise SystemExit(f"{path} is not an IDX file of unsigned bytes (it starts with {data[:4].hex()})")
    shape = tuple(np.frombuffer(data, ">u4", count=data[3], offset=4))
    return np.frombuffer(data, np.uint8, offset=4 + 4 * data[3]).reshape(shape)


def first_of_each_class(images: Array, labels: Array, per_class: int, taken: set[bytes]) -> list[int]:
    """Indices of the first `per_class` images of each class whose pixels are not in `taken`, which grows with them."""
    counts = [0] * len(CLASSES)
    chosen: list[int] = []
    for index, (image, label) in enumerate(zip(images, labels, strict=True)):
        pixels = image.tobytes()
        if counts[label] < per_class and pixels not in taken:
            taken.add(pixels)
            counts[label] += 1
            chosen.append(index)
    if min(counts) < per_class:
        raise SystemExit(f"too few distinct images: {dict(zip(CLASSES, counts, strict=True))}, wanted {per_class} each")
    return chosen


def write_npz(path: Path, arrays: dict[str, NDArray[np.generic]]) -> None:
    """Write a compressed npz without time stamps."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in arrays.items():
            content = io.BytesIO()
            np.lib.format.write_array(content, np.ascontiguousarray(array), allow_pickle=False)
            entry = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            entry.create_system = 3  # the same bytes on every system
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, content.getvalue(), compresslevel=9)


def check_content(found: str, published: str) -> None:
    """SystemExit where what was made has another hash than the `published` one."""
    if found != published:
        raise SystemExit(f"other content than published: {found}\nif that is meant, it is the new CONTENT_SHA256")


def check_size(target: Path, most: int) -> int:
    """Bytes of a file; SystemExit where they are more than `most`."""
    size = target.stat().st_size
    if size > most:
        raise SystemExit(f"{target} has {size} bytes, more than the {most} allowed")
    return size


def main() -> None:
    """Read the source folder from the command line and write `fashion-mnist.npz` beside this file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", nargs="?", type=Path, default=DEFAULT_SOURCE)
    source: Path = parser.parse_args().source
    files = [source / f"{name}-ubyte.gz" for name in FILES]
    missing = [str(path) for path in files if not path.is_file()]
    if missing:
        advice = "give the folder that holds them, or: apt-get install dataset-fashion-mnist"
        raise SystemExit(f"missing: {', '.join(missing)}\n{advice}")
    train_images, train_labels, test_images, test_labels = (read_idx(path) for path in files)
    taken: set[bytes] = set()
    train = first_of_each_class(train_images, train_labels, TRAIN_PER_CLASS, taken)
    val = first_of_each_class(test_images, test_labels, VAL_PER_CLASS, taken)
    target = Path(__file__).with_name("fashion-mnist.npz")
    write_npz(target, {
        "train_images": train_images[train], "train_labels": train_labels[train],
        "val_images": test_images[val], "val_labels": test_labels[val], "classes": np.array(CLASSES),
    })  # fmt: skip
    size = check_size(target, MAX_BYTES)
    print(f"{target}: {len(train)} train and {len(val)} val images, {size} bytes")


if __name__ == "__main__":
    main()
