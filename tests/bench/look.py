"""How long a look at a large data set takes: `python tests/bench/look.py [--images 1300000]`. Needs 6 GB of disk for as long.

The first look reads every file; the second, in a process of its own, finds contents in the cache and asks for sizes and times.
The files are small and no images, so the first look here is what 1.3 million opens cost, not what ImageNet's 150 GB do.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

CLASSES = 1000


def main() -> None:
    """Make the files, look twice, print the seconds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=1_300_000)
    parser.add_argument(
        "--root", type=Path, help="a folder made by an earlier call; default: one that is made and removed"
    )
    parser.add_argument("--look", action="store_true", help="only look, and print the seconds")
    options = parser.parse_args()
    if options.look:
        _look(options.root)
        return
    with tempfile.TemporaryDirectory() as place:
        root = options.root or _write(Path(place) / "images", options.images)
        time.sleep(2.5)  # what was changed less than two seconds before it is read is read again
        environment = os.environ | {"XDG_CACHE_HOME": str(Path(place) / "cache")}
        for name in ("first", "second", "third"):
            print(f"{name} look:", flush=True)
            subprocess.run([sys.executable, __file__, "--look", "--root", root], env=environment, check=True)
        (cache,) = (Path(place) / "cache").rglob("*.npy")
        print(f"cache: {cache.stat().st_size / 1e6:.0f} MB")


def _write(root: Path, images: int) -> Path:
    for label in range(CLASSES):
        (root / f"n{label:08d}").mkdir(parents=True)
    for index in range(images):
        path = f"{root}/n{index % CLASSES:08d}/n{index % CLASSES:08d}_{index:08d}.JPEG"
        with open(path, "wb") as file:  # noqa: PTH123  (a million Paths take seconds)
            file.write(index.to_bytes(8, "little"))
    return root


def _look(root: Path) -> None:
    from calib.images import read_split
    from pipeline.data.content import read_contents

    started = time.monotonic()
    split = read_split(root.parent, root.name)
    listed = time.monotonic()
    names = split.names
    contents = read_contents(root, names, decode=False, title="looking")
    ended = time.monotonic()
    print(
        f"  {len(names):,} files: {ended - started:.1f} s (listing {listed - started:.1f}, contents {ended - listed:.1f}), "
        f"{contents.digest[:12]}"
    )


if __name__ == "__main__":
    main()
