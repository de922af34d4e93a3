"""The images of a recipe as they are now: which there are, and what they hold."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from calib.calibration_source import source_files
from calib.errors import InputError
from calib.images import ImageSplit
from calib.preprocess import IMAGE_SUFFIXES
from pipeline.console.figures import counted, first_names
from pipeline.console.progress import track
from pipeline.data.content import Contents, read_contents
from pipeline.data.dataset import open_dataset
from pipeline.data.hub import find_weights
from pipeline.recipe import Recipe

_SHOWN = 5  # damaged images in a message


class Look:
    """One look at the images of `recipe`: what it finds is kept until `forget`, so that its stages need not look again.

    Without `unpack`, images that are still packed, and weights that are not fetched, are an InputError: nothing is written. With
    `decode`, an image that is read is decoded as well, which `check` would else read it for a second time.
    """

    def __init__(self, recipe: Recipe, *, unpack: bool = True, decode: bool = False) -> None:
        self._data, self._source = recipe.data, recipe.calibrate.source
        self._checkpoint, self._onnx = recipe.model.checkpoint, recipe.model.onnx
        self._pretrained = recipe.model.name if recipe.model.pretrained else None
        self._unpack, self._decode = unpack, decode and recipe.data.check
        self.forget()

    def forget(self) -> None:
        """Look again from now on: a stage that ran for hours may have outlived the images."""
        self._splits: tuple[ImageSplit, ImageSplit] | None = None
        self._contents: dict[str, Contents] = {}

    def splits(self) -> tuple[ImageSplit, ImageSplit]:
        """The train and val images."""
        if self._splits is None:
            self._splits = open_dataset(self._data, unpack=self._unpack)
        return self._splits

    def images(self) -> Mapping[str, Contents]:
        """What the train and val images hold, with their masks where they have any, by the names of the splits; beside them the
        file that names their classes, where there is one."""
        found = {split.root.name: self._read(split.root.name, split.root, split.files) for split in self.splits()}
        file = self.splits()[1].class_file
        return found if file is None else found | {"classes": self._read_file("classes", file)}

    def source(self) -> Contents | None:
        """What `calibrate.source` holds; None where the recipe has none."""
        if self._source is None:
            return None
        if not self._source.is_dir():
            return self._read_file("calibrate.source", self._source)
        return self._read("calibrate.source", self._source, source_files(self._source))

    def checkpoint(self) -> Contents | None:
        """What `model.checkpoint` holds, of no files where it is missing; None where the recipe has none."""
        return None if self._checkpoint is None else self._read_file("model.checkpoint", self._checkpoint)

    def pretrained(self) -> Contents | None:
        """What the file with the weights of `model.pretrained` holds, fetched where it must be and may; None without them."""
        if self._pretrained is None:
            return None
        return self._read_file("model.pretrained", find_weights(self._pretrained, fetch=self._unpack).path)

    def onnx(self, beside: Callable[[Path], Sequence[str]]) -> Contents | None:
        """What `model.onnx` holds, with the files that are `beside` it; of no files where it is missing; None where the recipe
        has none."""
        return None if self._onnx is None else self._read_file("model.onnx", self._onnx, beside(self._onnx))

    def check(self) -> None:
        """InputError that names the images that cannot be decoded; each was, or is now, decoded once. Then one about masks."""
        if not self._data.check:
            return
        if not self._decode:
            self._decode, self._contents = True, {}
        found_here = self.images()
        sets = [found_here[split.root.name] for split in self.splits()]
        if self._source is not None and self._source.is_dir() and (found := self.source()) is not None:
            sets.append(found)
        damaged = [found.root / name for found in sets for name in found.damaged]
        if damaged:
            raise damaged_images(damaged, sum(len(found.names) for found in sets))
        for split in self.splits():
            if lacking := split.check(track):
                print(f"           warning: no mask in {split.root} has {first_names(lacking)}", flush=True)

    def _read_file(self, name: str, path: Path, beside: Sequence[str] = ()) -> Contents:
        """What a file holds, with others beside it, of no files where it is missing; how they are called makes no difference."""
        names = [other for other in (path.name, *beside) if (path.parent / other).is_file()] if path.is_file() else []
        found = self._read(name, path.parent, tuple(names), images=False)
        table = found.table.copy()
        table["name"] = 0
        return replace(found, table=table)

    def _read(self, name: str, root: Path, names: tuple[str, ...], *, images: bool = True) -> Contents:
        if name not in self._contents:
            decode = images and self._decode
            self._contents[name] = read_contents(root, names, decode=decode, title=f"looking at {root}")
        return self._contents[name]


def damaged_images(paths: list[Path], total: int) -> InputError:
    """The message about `paths`, which cannot be decoded, of `total` images."""
    more = f" and {len(paths) - _SHOWN:,} more" if len(paths) > _SHOWN else ""
    return InputError(
        f"{len(paths):,} of {counted(total, 'image')} cannot be decoded",
        got=", ".join(map(str, paths[:_SHOWN])) + more,
        allowed=f"whole images: {', '.join(IMAGE_SUFFIXES)}",
        next_step=f"replace or delete them, the first: rm '{paths[0]}' (data.check: false in the recipe leaves this check out)",
    )
