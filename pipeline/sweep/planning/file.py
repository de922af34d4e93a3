"""The sweep's file: a base recipe, and the keys that its points have other values for."""

import re
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, Field, ValidationError, field_validator, model_validator

from calib.errors import InputError
from pipeline.parts.part import Part, Positive, PositiveNumber
from pipeline.parts.problems import problems_in_words
from pipeline.parts.yaml_file import read_yaml
from pipeline.stages import STAGES

_KEY = re.compile(r"[a-z_]+(\.[A-Za-z_0-9]+)*")


def _key(name: str) -> str:
    if not _KEY.fullmatch(name):
        raise ValueError("not a key of a recipe, such as train.epochs")
    return name


Key = Annotated[str, AfterValidator(_key)]
POINT_NAME = "name"  # a key of a point in the list that is none of the recipe's


class Needs(Part):
    """What a stage takes while it runs; what is left out is the default (`pipeline.sweep.running.needs`)."""

    cpus: Positive | None = None
    """Threads, and CPUs of the machine."""
    gpus: Annotated[float, Field(ge=0)] | None = None
    """GPUs; 0.5 for two at a time on one."""
    memory_gb: PositiveNumber | None = None
    """Main memory."""


class SweepFile(Part):
    """A base recipe and what its points change: a grid of `axes`, a list of `points`, or both, one after the other."""

    schema_: Annotated[Literal[1], Field(alias="schema")]
    """The version of this format."""
    recipe: Path
    """The base recipe; from the folder that the command is called in, like all paths in recipes."""
    set: dict[Key, Any] = Field(default_factory=dict)
    """Keys of the recipe (train.epochs) that have another value than its own in all points."""
    axes: dict[Key, Annotated[list[Any], Field(min_length=1)]] = Field(default_factory=dict)
    """Keys of the recipe (model.name), each with its values: every combination is a point."""
    points: list[dict[Key, Any]] = Field(default_factory=list)
    """Points one by one: keys of the recipe with their values, and a name, if it should not be made of these."""
    needs: dict[str, Needs] = Field(default_factory=dict)
    """What a stage takes while it runs, by its name: {train: {cpus: 4, gpus: 1, memory_gb: 8}}."""

    @field_validator("needs")
    @classmethod
    def _stages_are_known(cls, needs: dict[str, Needs]) -> dict[str, Needs]:
        stages = [stage.name for stage in STAGES]
        if unknown := [name for name in needs if name not in stages]:
            raise ValueError(f"{', '.join(unknown)}: no such stage; there are {', '.join(stages)}")
        return needs

    @model_validator(mode="after")
    def _has_points(self) -> "SweepFile":
        if not self.axes and not self.points:
            raise ValueError("a sweep has axes (a grid) or points (a list), or both")
        return self


def sweep_schema() -> dict[str, Any]:
    """The JSON schema of a sweep file, for editors: recipes/sweep.schema.json."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema"} | SweepFile.model_json_schema()


def load_sweep(path: Path) -> SweepFile:
    """Read and validate a sweep file; every problem in it is named in one InputError."""
    try:
        values = read_yaml(path)
    except FileNotFoundError as error:
        raise InputError("no such sweep file", got=path, next_step="docs/sweep.md shows one") from error
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise InputError(f"the sweep {path} cannot be read as YAML", got=" ".join(str(error).split())) from error
    if not isinstance(values, dict):
        raise InputError(f"the sweep {path} is not a mapping", got=type(values).__name__, allowed="keys and values")
    if {"data", "model", "build"} <= set(values):
        raise InputError(
            "this is a recipe, not a sweep", got=path, allowed="a base recipe, with axes or points (docs/sweep.md)",
            next_step=f"t2t-edge run --recipe {path}",
        )  # fmt: skip
    try:
        return SweepFile.model_validate(values)
    except ValidationError as error:
        got, allowed = problems_in_words(error, SweepFile)
        raise InputError(
            f"the sweep {path} has {error.error_count()} wrong value(s)", got=got, allowed=allowed,
            next_step=f"edit {path}; docs/sweep.md explains every key",
        ) from error  # fmt: skip
