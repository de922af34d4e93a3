"""What a stage is, and what of a recipe it depends on."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.artifact import Artifact
from pipeline.recipe import Recipe, keys_of

Inputs = Mapping[str, Artifact]
# Where things lie and in what form they come: what they hold is what a result depends on.
_PLACES = {
    "data": ("root", "source", "origin", "splits", "columns", "check"), "model": ("checkpoint",), "calibrate": ("source",),
}  # fmt: skip
# Keys that a recipe has not had from the start: left out while they say nothing, so that earlier results are still this recipe's.
_LATER: dict[str, dict[str, Any]] = {"data": {"classes": None}, "model": {"pretrained": False}}


@dataclass(frozen=True)
class Stage:
    """One stage: `run(recipe, inputs, folder)` fills `folder` and returns notes for the manifest.

    `parts` are what it reads of the recipe, whole parts or single keys (`quantize.policy`), of which `narrow` may leave less;
    `inputs` are the stages whose outputs it reads: its key is made of these, of the images, of our own code and of the installed
    versions of packages and of its `backends`. How many images are computed at a time decides nothing and is no part of a key.
    `resumes` keeps an interrupted run's folder for the next try.
    A stage that is not `wanted` by a recipe runs only when it is asked for by name. One that `trains` runs on every process
    of torchrun, and is not run again for other code or versions.
    """

    name: str
    run: Callable[[Recipe, Inputs, Path], dict[str, Any]]
    parts: tuple[str, ...]
    inputs: tuple[str, ...]
    uses_images: bool = False
    resumes: bool = False
    trains: bool = False
    wanted: Callable[[Recipe], bool] = lambda _: True
    backends: Callable[[Recipe], tuple[str, ...]] = lambda _: ()
    narrow: Callable[[dict[str, Any]], dict[str, Any]] = lambda parts: parts

    def read(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """What it depends on of a recipe's plain values."""
        read = self.narrow(keys_of(values, self.parts))
        return {
            name: {key: value for key, value in part.items() if _decides(name, key, value)} if name in _PLACES else part
            for name, part in read.items()
        }

    def places(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Of what it reads, where it lies: parts of a recipe with these keys alone."""
        read = keys_of(values, self.parts)
        return {name: {key: read[name][key] for key in keys} for name, keys in _PLACES.items() if name in read}


def _decides(part: str, key: str, value: Any) -> bool:
    """Whether a result depends on this key of a recipe."""
    later = _LATER.get(part, {})
    return key not in _PLACES[part] and not (key in later and value == later[key])
