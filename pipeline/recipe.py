"""The recipe: one YAML file, read and validated here and nowhere else. Its parts are in `pipeline.parts`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import Field, ValidationError, model_validator

from calib.errors import InputError
from calib.preprocess import GREY, Preprocess
from export.engines.spec import EngineSpec, why_not
from pipeline.parts.build import EnginePart
from pipeline.parts.data import DataPart
from pipeline.parts.measure import BenchmarkPart, EvaluatePart, GatePart, VisualizePart
from pipeline.parts.model import GREY_MEAN, GREY_STD, OF_TASK, RGB_CHANNELS, ModelPart, PreprocessPart
from pipeline.parts.part import Part, Precision
from pipeline.parts.problems import problems_in_words
from pipeline.parts.quantize import CalibratePart, ExportPart, QuantizePart, SearchPart, SensitivityPart
from pipeline.parts.train import QatPart, TrainPart
from pipeline.parts.yaml_file import read_yaml
from pipeline.tasks.task import task_named
from pipeline.tasks.words import WORDS


class Recipe(Part):
    """Everything a run needs. Each stage's key is the part of the recipe that it reads (`pipeline.stages`)."""

    schema_: Annotated[Literal[1], Field(alias="schema")]
    """The version of this format."""
    data: DataPart
    """The images."""
    model: ModelPart
    """The network."""
    preprocess: PreprocessPart = PreprocessPart()
    """What goes into the network: resize, crop, mean, std."""
    train: TrainPart = TrainPart()
    """Training. Its defaults are those of ImageNet: 310 epochs."""
    export: ExportPart = ExportPart()
    """ONNX export."""
    calibrate: CalibratePart = CalibratePart()
    """The images that INT8 ranges are measured on."""
    quantize: QuantizePart = QuantizePart()
    """Which graphs are made, and which layers are in INT8."""
    sensitivity: SensitivityPart = SensitivityPart()
    """What each layer loses when it alone is quantized."""
    search: SearchPart = SearchPart()
    """Precision auto: the fastest mix that passes the gate."""
    qat: QatPart = QatPart()
    """Precision int8-qat: training with quantization in the loop."""
    build: tuple[EnginePart, ...]
    """The engines: a list of backends, each with its precisions."""
    evaluate: EvaluatePart = EvaluatePart()
    """The check of every engine's accuracy."""
    benchmark: BenchmarkPart = BenchmarkPart()
    """How latency is measured."""
    gate: GatePart = GatePart()
    """What an engine has to keep to be recommended."""
    visualize: VisualizePart = VisualizePart()
    """Feature maps of FP32 beside one engine."""

    @model_validator(mode="before")
    @classmethod
    def _nothing_to_train(cls, values: Any) -> Any:
        """With `model.onnx` there are no epochs, though the recipe need not say so."""
        if not isinstance(values, dict) or not isinstance(values.get("model"), dict) or not values["model"].get("onnx"):
            return values
        given = values.get("train", {})
        return values | {"train": {"epochs": 0} | given if isinstance(given, dict) else given}

    @model_validator(mode="before")
    @classmethod
    def _grey_normalisation(cls, values: Any) -> Any:
        """Where a network takes grey images and the recipe says nothing of `mean` and `std`, they are ImageNet's in grey."""
        if (
            not isinstance(values, dict)
            or not isinstance(values.get("model"), dict)
            or values["model"].get("in_chans") != 1
        ):
            return values
        given = values.get("preprocess", {})
        filled = {"mean": GREY_MEAN, "std": GREY_STD} | given if isinstance(given, dict) else given
        return values | {"preprocess": filled}

    @model_validator(mode="before")
    @classmethod
    def _preprocessing_of_the_task(cls, values: Any) -> Any:
        """What a task has in place of a default of `preprocess`, where the recipe does not say."""
        data = values.get("data") if isinstance(values, dict) else None
        own = OF_TASK.get(str(data.get("task"))) if isinstance(data, dict) else None
        given = values.get("preprocess", {}) if isinstance(values, dict) else None
        return values if own is None or not isinstance(given, dict) else {**values, "preprocess": own | given}

    @model_validator(mode="before")
    @classmethod
    def _graphs_of_the_engines(cls, values: Any) -> Any:
        """Where `quantize.precisions` does not say which graphs to make: FP32, and what engines and feature maps are made of."""
        quantize = values.get("quantize", {}) if isinstance(values, Mapping) else None
        if not isinstance(quantize, Mapping) or "precisions" in quantize:
            return values
        parts = [values.get("visualize"), *_listed(values.get("build"))]
        named = [_listed(part.get("precisions", part.get("precision"))) for part in parts if isinstance(part, Mapping)]
        known = [name for names in named for name in names if name in get_args(Precision)]
        return {**values, "quantize": {**quantize, "precisions": list(dict.fromkeys(["fp32", *known]))}}

    @model_validator(mode="after")
    def _engines_have_graphs(self) -> "Recipe":
        missing = {precision for part in self.build for precision in part.precisions} - set(self.quantize.precisions)
        if missing:
            raise ValueError(f"build asks for {sorted(missing)}, which quantize.precisions does not make")
        if self.visualized_precision() not in self.quantize.precisions:
            raise ValueError(
                f"visualize.precision asks for {self.visualized_precision()}, which quantize.precisions does not make"
            )
        if reason := why_not(self.visualize.backend, self.visualized_precision()):
            raise ValueError(f"visualize.backend and visualize.precision: {reason}")
        for key, values in (("mean", self.preprocess.mean), ("std", self.preprocess.std)):
            if len(values) != self.model.in_chans:
                raise ValueError(
                    f"preprocess.{key} has {len(values)} value(s), and the network has {self.model.in_chans} channel(s) "
                    "(model.in_chans): one value for each"
                )
        if self.model.onnx is not None:
            self._check_onnx()
        elif self.train.epochs == 0 and not self.model.starts_with_weights and self.model.factory is None:
            raise ValueError(
                "train.epochs is 0, so model.checkpoint must name the weights, or model.pretrained be true"
            )
        return self

    def _check_onnx(self) -> None:
        """A network in an ONNX file is finished: nothing here trains it."""
        if self.train.epochs > 0:
            raise ValueError(
                f"train.epochs is {self.train.epochs}, and the network of model.onnx is finished: leave it out, or 0"
            )
        if trained := [name for name in self.quantize.precisions if "qat" in name]:
            raise ValueError(
                f"quantize.precisions asks for {trained[0]}, which trains, and the network of model.onnx is finished"
            )

    @model_validator(mode="after")
    def _gate_of_the_task(self) -> "Recipe":
        others = [words.gate for words in WORDS.values() if words.task != self.data.task]
        wrong = [key for key in others if getattr(self.gate, key) != type(self.gate).model_fields[key].default]
        if wrong:
            raise ValueError(
                f"gate.{wrong[0]} is not the gate of {self.data.task}: that is gate.{WORDS[self.data.task].gate}"
            )
        return self

    @model_validator(mode="after")
    def _engines_have_names_of_their_own(self) -> "Recipe":
        """An engine's folder is called by backend, precision and target: two of one name cannot both be kept."""
        names = [
            EngineSpec(part.backend, precision, target, part.batch_sizes).name
            for part in self.build for precision in part.precisions for target in part.targets or (None,)
        ]  # fmt: skip
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"build makes {', '.join(twice)} more than once: name each precision and target once")
        return self

    def visualized_precision(self) -> Precision:
        """The precision of the engine that feature maps are compared with."""
        if self.visualize.precision is not None:
            return self.visualize.precision
        made = self.quantize.precisions
        computed = [name for name in made if not why_not(self.visualize.backend, name)] or made
        return "int8" if "int8" in made or not made else computed[-1]

    def logit_sides(self) -> tuple[int, ...]:
        """Height and width of the maps of logits that the task has for each class; () of one logit."""
        return task_named(self.data.task).output_shape(1, self.model.height_width)[1:]

    def preprocess_spec(self) -> Preprocess:
        """The preprocessing spec of this recipe."""
        part, (height, width) = self.preprocess, self.model.height_width
        colour = "RGB" if self.model.in_chans == RGB_CHANNELS else GREY
        return Preprocess(height, width, part.crop_pct, part.interpolation, part.mean, part.std, colour)


def recipe_schema() -> dict[str, Any]:
    """The JSON schema of a recipe, with a description of every key, for editors: recipes/recipe.schema.json."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema"} | Recipe.model_json_schema()


def _listed(value: Any) -> list[Any]:
    """The items of a list; a single value is its own."""
    return list(value) if isinstance(value, list | tuple) else [value]


def keys_of(values: Mapping[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    """Of a recipe's plain values, the parts and the single keys (`quantize.policy`) that are named, as far as they are there."""
    found: dict[str, Any] = {}
    for key in keys:
        part, _, name = key.partition(".")
        if part in values and not name:
            found[part] = values[part]
        elif part in values and name in values[part]:
            found[part] = found.get(part, {}) | {name: values[part][name]}
    return found


def read_recipe(path: Path) -> Any:
    """The plain values of a recipe file, not validated; InputError where it cannot be read."""
    try:
        return read_yaml(path)
    except FileNotFoundError as error:
        recipes = ", ".join(sorted(str(found) for found in Path("recipes").glob("*.yaml"))) or "none in recipes/"
        raise InputError("no such recipe", got=path, allowed=recipes) from error
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise InputError(f"the recipe {path} cannot be read as YAML", got=" ".join(str(error).split())) from error


def load_recipe(path: Path) -> Recipe:
    """Read and validate a recipe file; every problem in it is named in one InputError."""
    values = read_recipe(path)
    if isinstance(values, dict) and "recipe" in values and {"axes", "points"} & set(values):
        raise InputError(
            "this is a sweep, not a recipe", got=path, allowed="a recipe", next_step=f"t2t-edge sweep {path}"
        )
    return recipe_of(values, f"recipe {path}", f"edit {path}; docs/recipe.md explains every key")


def recipe_of(values: Any, called: str, next_step: str) -> Recipe:
    """The recipe of these plain values, validated; one InputError, about what is `called` so, names every problem."""
    if not isinstance(values, dict):
        raise InputError(f"the {called} is not a mapping", got=type(values).__name__, allowed="keys and values")
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        got, allowed = problems_in_words(error, Recipe)
        raise InputError(
            f"the {called} has {error.error_count()} wrong value(s)", got=got, allowed=allowed, next_step=next_step
        ) from error
